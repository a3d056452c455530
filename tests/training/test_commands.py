"""`popexd train` and `popexd export` from the outside: from frames to a bundle, and one line for bad input."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.cli.main import main
from popexd.evaluation.outcomes import exit_logits

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("onnx", reason="needs the extra `train`")
pytestmark = pytest.mark.train

from popexd.training import checkpoint, data, loop  # noqa: E402 - after the skip

SMALL = ["--backbone", "b-alexnet-tiny", "--samples", "160", "--epochs", "1", "--batch", "32", "--seed", "3"]


def status(*words: object) -> int:
    """Run the command and return its exit status."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    code = caught.value.code
    return code if isinstance(code, int) else 0


def test_train_and_export_end_in_a_bundle_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two commands of the documentation, small, with --json for machines; every exit is torch's within 1e-4."""
    assert status("train", "--out", tmp_path / "run", *SMALL, "--threads", "1", "--json") == 0
    epochs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1]
    assert set(epochs[0]["accuracy"]) == {"b1", "b3", "final"}
    options = ["--out", tmp_path / "bundle", "--name", "tiny", "--codec-frames", "4", "--json"]
    assert status("export", tmp_path / "run" / "best.pt", *options) == 0
    summary = json.loads(capsys.readouterr().out)
    bundle = bundles.load(tmp_path / "bundle")
    assert summary["fingerprint"] == bundle.fingerprint
    assert summary["samples"] == 16
    images = data.reopen(tmp_path / "run" / "data").split("validation").images
    net = checkpoint.restore(checkpoint.load(tmp_path / "run" / "best.pt"), tmp_path)
    np.testing.assert_allclose(exit_logits(bundle, images), loop.evaluate(net, images), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data", "{}/nowhere"], "nowhere"),
        (["--backbone", "resnet"], "--backbone"),
        (["--precision", "float8"], "--precision"),
        (["--weighting", "random"], "--weighting"),
        (["--samples", "3"], "--samples"),
        (["--resume"], "--resume"),
        (["--branch", "b1=pool9"], "pool9"),
        (["--branch", "b1=pool1", "--branches", "2"], "--branches"),
        (["--side", "100"], "--side"),
        (["--weights", "1,two"], "--weights"),
        (["--optimiser", "newton"], "--optimiser"),
        (["--augmentation", "fog"], "--augmentation"),
        (["--device", "abacus"], "--device"),
        (["--distort", "blurred"], "--distort"),
        (["--data", "torchvision:CIFAR01"], "CIFAR01"),
        (["--main-epochs", "40"], "--main-epochs"),
        (["--freeze"], "--freeze"),
        (["--pretrained"], "--pretrained"),
    ],
)
def test_bad_options_of_train_are_one_line_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    """Exit status 2; the line names the option or the file; no folder is made."""
    assert status("train", "--out", tmp_path / "run", *(word.format(tmp_path) for word in words)) == 2
    complaint = capsys.readouterr().err.strip()
    assert named in complaint
    assert "\n" not in complaint
    assert list(tmp_path.iterdir()) == []


def digits(root: Path) -> None:
    """Write a small MNIST as torchvision looks for it: noise, labels in turn."""
    raw, random = root / "MNIST" / "raw", np.random.default_rng(1)
    raw.mkdir(parents=True)
    for stem, count in (("train", 200), ("t10k", 20)):
        images = random.integers(0, 256, count * 28 * 28, dtype=np.uint8).tobytes()
        labels = (np.arange(count, dtype=np.uint8) % 10).tobytes()
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images)
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)


def test_a_torchvision_set_elsewhere_is_distorted_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`export --distort` takes the --root that `train` was given; without it the line says where it looked."""
    digits(tmp_path / "sets")
    options = ["--data", "torchvision:MNIST", "--backbone", "b-alexnet-tiny", "--epochs", "1", "--threads", "1"]
    assert status("train", "--out", tmp_path / "run", *options, "--root", tmp_path / "sets") == 0
    again = ["export", tmp_path / "run" / "best.pt", "--out", tmp_path / "bundle", "--codec-frames", "4"]
    again += ["--data", "torchvision:MNIST", "--distort", "clear,dark-0.5"]
    capsys.readouterr()
    assert status(*again) == 2
    complaint = capsys.readouterr().err.strip()
    assert f"torchvision:MNIST in {tmp_path / 'run' / 'root'}" in complaint
    assert "\n" not in complaint
    assert status(*again, "--root", tmp_path / "sets") == 0
    assert len(bundles.load(tmp_path / "bundle").validation.label) == 2 * 20


def test_export_of_something_else_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and no bundle."""
    (tmp_path / "photo.pt").write_bytes(b"\xff\xd8\xff")
    assert status("export", tmp_path / "photo.pt", "--out", tmp_path / "bundle") == 2
    complaint = capsys.readouterr().err.strip()
    assert "photo.pt" in complaint
    assert "\n" not in complaint
    assert not (tmp_path / "bundle").exists()
