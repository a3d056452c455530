"""`popexd train` and `popexd export` from the outside: from frames to a bundle, and one line for bad input."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.cli.train import _loss
from popexd.evaluation.outcomes import exit_logits

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("onnx", reason="needs the extra `train`")
pytestmark = pytest.mark.train

from popexd.training import checkpoint, data, loop  # noqa: E402 - after the skip
from tests.training.running import status  # noqa: E402

SMALL = ["--backbone", "b-alexnet-tiny", "--samples", "160", "--epochs", "1", "--batch", "32", "--seed", "3"]


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


def test_a_run_that_is_done_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is trained, and that is told."""
    words = ["train", "--out", tmp_path / "run", *SMALL, "--threads", "1"]
    assert status(*words) == 0
    assert "epochs are done" not in capsys.readouterr().out
    assert status(*words, "--resume") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "--resume: all epochs (1) are done already, more with --epochs"
    assert second.startswith(f"{tmp_path / 'run' / 'best.pt'}: next, popexd export")


def test_a_loss_is_as_long_as_it_is_read() -> None:
    """Three places, or three digits of one that explodes."""
    assert [_loss(value) for value in (0.1234, 9999.0, 2.445e30)] == ["0.123", "9999.000", "2.45e+30"]


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
        (["--backbone", "resnet18", "--pretrained", "--from", "{}/a.pt"], "--pretrained: together with --from"),
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


def test_a_pretrained_backbone_is_frozen_below_a_head_that_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchvision's last layer knows other classes: the new one learns with the branches, and the command says so."""
    import torch
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = "mobilenet_v3_small"
    place = tmp_path / "hub" / "checkpoints" / models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    given = models.get_model(name, weights=None).state_dict()
    torch.save(given, place)
    words = ["--out", tmp_path / "run", "--backbone", "mobilenet-v3-small", "--side", "32", "--samples", "160"]
    words += ["--batch", "32", "--seed", "3", "--threads", "1", "--device", "cpu", "--pretrained", "--freeze"]
    assert status("train", *words, "--epochs", "1") == 0
    assert "--freeze: the last layer is new with --pretrained: it learns too" in capsys.readouterr().err
    first = checkpoint.load(tmp_path / "run" / "last.pt")["weights"]
    assert status("train", *words, "--resume", "--json") == 0
    assert capsys.readouterr() == ("", "")  # one epoch was asked for, and is done
    assert status("train", *words, "--epochs", "2", "--resume", "--json") == 0
    assert capsys.readouterr().err == ""
    second = checkpoint.load(tmp_path / "run" / "last.pt")["weights"]
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    assert {key.split(".")[0] for key in changed} == {"branches", "segments"}
    assert {key for key in changed if key.startswith("segments.")} == {
        "segments.head.2.3.weight",
        "segments.head.2.3.bias",
    }
    taken = {key for key in given if any(torch.equal(given[key], each) for each in second.values())}
    assert {*given} - taken == {"classifier.3.weight", "classifier.3.bias"}


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


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two classes that nobody can decode: whoever begins to prepare them complains of them."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for index in range(12):
            (root / name / f"{index}.jpg").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on generated frames."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert status("train", "--out", out, *SMALL, "--threads", "1", "--json") == 0
    (out / "junk.pt").write_bytes(b"junk")
    return out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--from", "{}/nowhere.pt"], "nowhere.pt: no such file"),
        (["--from", "{}/junk.pt"], "junk.pt: not a checkpoint"),
        (["--from", "{}/best.pt", "--backbone", "b-alexnet"], "a b-alexnet-tiny checkpoint, expected b-alexnet"),
        (["--from", "{}/best.pt", "--backbone", "b-alexnet-tiny", "--freeze"], "knows other classes"),
        (["--backbone", "b-alexnet-tiny", "--samples", "8"], "no tuning split"),
        (["--backbone", "b-alexnet-tiny", "--distort", "rain"], "--distort: 'rain'"),
        (["--backbone", "b-alexnet-tiny", "--cache", "{}/data"], "holds other data"),
    ],
)
def test_what_can_be_refused_is_refused_before_a_photo_is_read(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    unreadable: Path,
    tiny: Path,
    words: list[str],
    named: str,
) -> None:
    """One line about the option, not about the photos; nothing is written."""
    given = [word.format(tiny) for word in words]
    assert status("train", "--out", tmp_path / "run", "--data", unreadable, *given) == 2
    complaint = capsys.readouterr().err.strip()
    assert named in complaint
    assert "\n" not in complaint
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_go_on_is_refused_before_a_photo_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unreadable: Path, tiny: Path
) -> None:
    """Another recipe, other data, no place to write to; without any of these the photos are read."""
    again = ["train", "--out", tiny, *SMALL, "--threads", "1", "--resume"]
    assert status(*again, "--cache", tmp_path / "frames", "--batch", "16") == 2
    assert "--batch: the run of" in capsys.readouterr().err
    assert status(*again, "--cache", tmp_path / "frames", "--data", unreadable, "--augmentation", "turns") == 2
    assert "was begun on other data" in capsys.readouterr().err
    assert status("train", "--out", tiny / "junk.pt" / "run", "--data", unreadable, "--cache", tmp_path / "frames") == 2
    assert "junk.pt is a file, expected a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert status("train", "--out", tmp_path / "run", "--data", unreadable, "--backbone", "b-alexnet-tiny") == 2
    complaint = capsys.readouterr().err
    assert "cannot be read as an image" in complaint
    assert complaint.startswith("popexd: ")
    assert complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data", "{0}", "--distort", "blurred"], "holds other data than"),
        (["--data", "{0}", "--distort", "blurred", "--expert", "noisy={1}/best.pt"], "--expert: noisy: no such"),
        (["--data", "{0}", "--distort", "blurred", "--expert", "blurred={1}/junk.pt"], "junk.pt: not a checkpoint"),
        (["--data", "{0}", "--distort", "rain"], "--distort: 'rain'"),
        (["--name", "a b"], "--name: 'a b'"),
        (["--out", "{0}"], "in the way and not a bundle"),
        (["--out", "{1}/junk.pt/bundle"], "junk.pt is a file"),
    ],
)
def test_an_export_is_refused_before_a_photo_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unreadable: Path, tiny: Path, words: list[str], named: str
) -> None:
    """Frames with other distortions are not prepared where they, the experts or the place will not do."""
    given = [word.format(unreadable, tiny) for word in words]
    cache = ["--cache", tmp_path / "frames"]
    assert status("export", tiny / "best.pt", "--out", tmp_path / "bundle", *cache, *given) == 2
    complaint = capsys.readouterr().err.strip()
    assert named in complaint
    assert "\n" not in complaint
    assert list(tmp_path.iterdir()) == []


def test_export_of_something_else_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and no bundle."""
    (tmp_path / "photo.pt").write_bytes(b"\xff\xd8\xff")
    assert status("export", tmp_path / "photo.pt", "--out", tmp_path / "bundle") == 2
    complaint = capsys.readouterr().err.strip()
    assert "photo.pt" in complaint
    assert "\n" not in complaint
    assert not (tmp_path / "bundle").exists()
