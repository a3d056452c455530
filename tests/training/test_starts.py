"""Runs that begin with another run's network hold out nothing that it has learned; bundles say what their nets know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from popexd import bundle as bundles
from popexd.lab import provenance

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("onnx", reason="needs the extra `train`")
pytestmark = pytest.mark.train

from popexd.training import checkpoint, data, loop  # noqa: E402 - after the skip
from tests.training.running import status  # noqa: E402

SMALL = ["--backbone", "b-alexnet-tiny", "--batch", "32", "--epochs", "1", "--threads", "1", "--device", "cpu"]


def train(out: Path, *words: object) -> int:
    """Train one epoch of the smallest net."""
    return status("train", "--out", out, *SMALL, "--augmentation", "none", *words)


def members(run: Path, folder: str = "data") -> dict[str, set[int]]:
    """The identities of a run's frames, by split."""
    prepared = data.reopen(run / folder)
    found = {name: prepared.split(name).photo for name in provenance.SPLITS}
    return {name: {int(each) for each in own} for name, own in found.items() if own is not None}


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a folder of two classes, 40 noisy photos of each."""
    root = tmp_path_factory.mktemp("photos") / "flat"
    random = np.random.default_rng(8)
    for name, tone in (("dark", 60), ("light", 190)):
        (root / name).mkdir(parents=True)
        for index in range(40):
            pixels = np.clip(random.normal(tone, 50, (70, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, flat: Path) -> Path:
    """A run on that folder."""
    out = tmp_path_factory.mktemp("runs") / "base"
    assert train(out, "--data", flat, "--seed", 3) == 0
    return out


def forgetful(run: Path, out: Path) -> Path:
    """The run's last checkpoint as one of before would be: it says how its data was split, but keeps no identities."""
    content: dict[str, Any] = checkpoint.load(run / loop.LAST)
    del content["data"]["photos"]
    checkpoint.save(out, content)
    return out


@pytest.mark.parametrize("old", [False, True])
def test_a_start_s_split_is_taken_over(tmp_path: Path, flat: Path, base: Path, old: bool) -> None:
    """Whatever the seed; new photos are split by it. A checkpoint of before has its split made again."""
    start = forgetful(base, tmp_path / "old.pt") if old else base / loop.BEST
    assert train(tmp_path / "run", "--data", flat, "--from", start, "--seed", 7) == 0
    assert members(tmp_path / "run") == members(base)
    known = checkpoint.known_by(checkpoint.load(tmp_path / "run" / loop.BEST))
    assert known == provenance.known(members(base))


def test_new_photos_are_split_beside_those_that_keep_theirs(tmp_path: Path, flat: Path, base: Path) -> None:
    """None that the start learned from is held out, also in the export with other distortions."""
    more = tmp_path / "more"
    for path in sorted(flat.rglob("*.png")):
        (more / path.parent.name).mkdir(parents=True, exist_ok=True)
        (more / path.parent.name / f"old-{path.name}").write_bytes(path.read_bytes())
    for name in ("dark", "light"):
        for index in range(20):
            Image.new("RGB", (70, 80), (index, len(name), 9)).save(more / name / f"new-{index}.png")
    assert train(tmp_path / "run", "--data", more, "--from", base / loop.BEST, "--seed", 7) == 0
    found, before = members(tmp_path / "run"), members(base)
    assert all(before[name] <= found[name] for name in before)
    assert {name: len(own) for name, own in found.items()} == {"training": 96, "tuning": 12, "validation": 12}
    words = ["--out", tmp_path / "bundle", "--data", more, "--distort", "clear,blur-15", "--codec-frames", 4, "--json"]
    assert status("export", tmp_path / "run" / loop.BEST, *words) == 0
    known = provenance.of_bundle(bundles.load(tmp_path / "bundle"))
    assert known == provenance.known(found)


def test_a_start_that_learned_from_what_would_be_held_out_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Generated frames of the same seed but another number; in one line, before anything is written."""
    assert train(tmp_path / "first", "--samples", 160, "--seed", 3) == 0
    capsys.readouterr()
    start = ["--from", tmp_path / "first" / loop.BEST]
    assert train(tmp_path / "second", "--samples", 120, "--seed", 3, *start) == 2
    line = capsys.readouterr().err.strip()
    assert "trained on 24 of the 24 frames that this run would hold out, expected its own split (--seed 3" in line
    assert "\n" not in line
    assert not (tmp_path / "second").exists()
    assert train(tmp_path / "second", "--samples", 120, "--seed", 4, *start) == 0
    known = checkpoint.known_by(checkpoint.load(tmp_path / "second" / loop.BEST))
    assert known is not None
    assert len(known.splits["training"]) == 128 + 96


def test_an_expert_that_learned_from_what_is_held_out_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flat: Path, base: Path
) -> None:
    """Branches of another split: one line. Those of the checkpoint's own split are taken."""
    content: dict[str, Any] = checkpoint.load(base / loop.BEST)
    arrays = {name: tensor.clone() for name, tensor in content["data"]["photos"].items()}
    arrays["trained_on"], arrays["validated_on"] = arrays["validated_on"], arrays["trained_on"]
    checkpoint.save(tmp_path / "expert.pt", content | {"data": content["data"] | {"photos": arrays}})
    words = ["--out", tmp_path / "bundle", "--data", flat, "--distort", "clear,blurred", "--codec-frames", 4, "--json"]
    capsys.readouterr()
    assert status("export", base / loop.BEST, *words, "--expert", f"blurred={tmp_path / 'expert.pt'}") == 2
    line = capsys.readouterr().err.strip()
    assert "expert.pt: trained on 8 of the 16 frames that are held out here" in line
    assert "\n" not in line
    content["data"] = {"facts": content["data"]["facts"] | {"seed": 7}}
    checkpoint.save(tmp_path / "old.pt", content)
    assert status("export", base / loop.BEST, *words, "--expert", f"blurred={tmp_path / 'old.pt'}") == 2
    assert "old.pt: trained on other data or another split" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_run_of_before_goes_on_and_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flat: Path
) -> None:
    """Its frames were split by the older rule, which it does not name; they are prepared again where they are gone."""
    run = tmp_path / "run"
    before = data.Before("last.pt", {}, again=True)
    data.prepare(run / "data", str(flat), None, 3, 64, processes=1, before=before)
    assert train(run, "--data", flat, "--seed", 3, "--epochs", 2, "--patience", 1) == 0
    forgetful(run, run / loop.LAST)
    (run / "data").rename(run / "gone")
    assert train(run, "--data", flat, "--seed", 3, "--epochs", 2, "--patience", 1, "--resume") == 0
    assert members(run) == members(run, "gone")
    capsys.readouterr()
    words = ["--out", tmp_path / "bundle", "--data", flat, "--distort", "clear,blur-15", "--codec-frames", 4, "--json"]
    assert status("export", run / loop.LAST, *words) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 16
