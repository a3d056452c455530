"""`popexd train` and `popexd export` from the outside: from frames to a bundle, and one line for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from popexd import bundle as bundles
from popexd.cli.main import main

pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("onnx", reason="needs the extra `train`")
pytestmark = pytest.mark.train

SMALL = ["--backbone", "b-alexnet-tiny", "--samples", "160", "--epochs", "1", "--batch", "32", "--seed", "3"]


def status(*words: object) -> int:
    """Run the command and return its exit status."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    code = caught.value.code
    return code if isinstance(code, int) else 0


def test_train_and_export_end_in_a_bundle_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two commands of the documentation, small, with --json for machines."""
    assert status("train", "--out", tmp_path / "run", *SMALL, "--threads", "1", "--json") == 0
    epochs = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1]
    assert set(epochs[0]["accuracy"]) == {"b1", "b3", "final"}
    options = ["--out", tmp_path / "bundle", "--name", "tiny", "--codec-frames", "4", "--json"]
    assert status("export", tmp_path / "run" / "best.pt", *options) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["fingerprint"] == bundles.load(tmp_path / "bundle").fingerprint
    assert summary["samples"] == 16


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data", "{}/nowhere"], "nowhere"),
        (["--backbone", "resnet"], "--backbone"),
        (["--precision", "float8"], "--precision"),
        (["--weighting", "random"], "--weighting"),
        (["--samples", "3"], "--samples"),
        (["--resume"], "--resume"),
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


def test_export_of_something_else_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and no bundle."""
    (tmp_path / "photo.pt").write_bytes(b"\xff\xd8\xff")
    assert status("export", tmp_path / "photo.pt", "--out", tmp_path / "bundle") == 2
    complaint = capsys.readouterr().err.strip()
    assert "photo.pt" in complaint
    assert "\n" not in complaint
    assert not (tmp_path / "bundle").exists()
