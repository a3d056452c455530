"""Files that are no checkpoints: one line each, whatever their bytes are."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from popexd.errors import InputError

torch = pytest.importorskip("torch", reason="needs the extra `train`")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("error")]

from popexd.training import checkpoint  # noqa: E402 - after the skip
from popexd.training.backbones import build  # noqa: E402

PICKLE_WORDS = [
    bytes([code]) for code in b"(.0126CFGIJKLMNQRSTUVX]abcdeghijloprqstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x93\x94"
]
"""Every instruction of a pickle that fits here: noise of these gets further than noise of bytes."""


def noise(chance: random.Random) -> Iterator[bytes]:
    """Nothing at all, bytes, lines, and pickles that make no sense."""
    yield from (b"", b"qd\nc", b"\x80", b"PK\x03\x04", b"c\n\n.", b"\x80\x02c__builtin__\neval\n.", b"(" * 20_000)
    for _ in range(150):
        yield chance.randbytes(chance.randrange(1, 60))
        yield b"".join(chance.choices([*PICKLE_WORDS, b"\n", b"1", b"builtins\nlist\n"], k=chance.randrange(1, 30)))
        yield b"\x80\x02" + b"".join(chance.choices(PICKLE_WORDS, k=chance.randrange(1, 20))) + b"."


def mutated(whole: bytes, chance: random.Random) -> Iterator[bytes]:
    """A checkpoint cut short, with other bytes somewhere, with a piece missing or twice."""
    for _ in range(60):
        place = chance.randrange(len(whole))
        length = chance.randrange(1, 40)
        yield whole[:place]
        yield whole[:place] + chance.randbytes(length) + whole[place + length :]
        yield whole[:place] + whole[place + length :]
        # The zip's directory and the pickle, where a byte tells more than among the weights.
        place = chance.choice((chance.randrange(2_000), len(whole) - chance.randrange(1, 2_000))) % len(whole)
        yield whole[:place] + chance.randbytes(1) + whole[place + 1 :]


def refused_or_read(path: Path, content: bytes) -> str:
    """What the one line says, or nothing for a file that is still a checkpoint."""
    path.write_bytes(content)
    try:
        checkpoint.restore(checkpoint.load(path), path)
    except InputError as error:
        return str(error)
    return ""


def test_noise_is_one_line(tmp_path: Path) -> None:
    """Hundreds of files, the same on every run; none of them is a checkpoint."""
    path = tmp_path / "foreign.pt"
    for content in noise(random.Random(4)):
        said = refused_or_read(path, content)
        assert said.startswith(f"{path}: "), content
        assert "\n" not in said, content


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_damaged_checkpoint_is_one_line_or_still_one(tmp_path: Path, form: str) -> None:
    """In the form that is written today and torch's older one: damage to a weight alone may go unseen."""
    path, net = tmp_path / "damaged.pt", build("b-alexnet-tiny", 2)
    content = {"schema": checkpoint.SCHEMA, "backbone": net.backbone, "classes": ["a", "b"], "branches": ""}
    torch.save({**content, "weights": net.state_dict()}, path, _use_new_zipfile_serialization=form == "zip")
    whole = path.read_bytes()
    assert refused_or_read(path, whole) == ""
    said = [refused_or_read(path, each) for each in mutated(whole, random.Random(5))]
    assert all("\n" not in each and (not each or each.startswith(f"{path}: ")) for each in said)
    assert sum(map(bool, said)) > len(said) // 3


def test_a_pickle_of_the_schemas_name_alone_is_refused_by_its_parts(tmp_path: Path) -> None:
    """It loads, but there is no net in it."""
    path = tmp_path / "empty.pt"
    whole: dict[str, Any] = {"backbone": "b-alexnet-tiny", "classes": ["a", "b"], "weights": {}}
    wrong = [("weights", {}), ("weights", 3), ("backbone", 3), ("backbone", []), ("classes", 3), ("branches", 3)]
    for key, value in [*wrong, ("branches", "_b=pool1"), ("side", "x")]:
        torch.save({"schema": checkpoint.SCHEMA, **whole, key: value}, path)
        assert refused_or_read(path, path.read_bytes()).startswith(f"{path}: ")
    path.write_bytes(pickle.dumps({"schema": checkpoint.SCHEMA}))
    assert refused_or_read(path, path.read_bytes()).startswith(f"{path}: ")


def test_a_network_that_diverged_is_refused_by_its_own_name(tmp_path: Path) -> None:
    """Not by a table that could not be written of it: to be exported, and to start with."""
    net, path = build("b-alexnet-tiny", 2), tmp_path / "nan.pt"
    content = {"backbone": net.backbone, "classes": ["a", "b"], "branches": "b1=pool1,b3=conv3"}
    weights = net.state_dict()
    weights["segments.conv3.0.weight"][0, 0, 0, 0] = float("nan")
    checkpoint.save(path, {**content, "weights": weights})
    for use in (
        lambda: checkpoint.restore(checkpoint.load(path), path),
        lambda: checkpoint.warm_start(build("b-alexnet-tiny", 2), path, "ab", frozen=False),
    ):
        with pytest.raises(InputError, match=r"nan\.pt: weights: segments\.conv3\.0\.weight is not all of numbers"):
            use()
