"""`python -m benchmarks`."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import pictures
from benchmarks.__main__ import BENCHMARKS, main

ROOT = Path(__file__).parents[2]


def test_every_name_has_its_benchmark() -> None:
    """Each module can be imported and measures."""
    for module in BENCHMARKS.values():
        assert callable(import_module(f"benchmarks.{module}").measure)


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """And those that there are, are named."""
    with pytest.raises(SystemExit) as caught:
        main(["--only", "everything"])

    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert all(name in said for name in BENCHMARKS)


def test_one_benchmark_prints_its_table_and_writes_json(tmp_path: Path) -> None:
    """As `make bench ARGS="--only solve --quick --json FILE"` does."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "--only", "solve", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    report = json.loads(file.read_text())

    assert done.returncode == 0, done.stderr
    assert "at most 5.00 ms" in done.stdout
    assert [figure["benchmark"] for figure in report["figures"]] == ["solve", "solve"]
    assert all(figure["value"] > 0 for figure in report["figures"])
    assert {"machine", "load_average", "versions"} <= report["environment"].keys()


def test_generated_frames_are_different_and_labelled() -> None:
    """The truth about each is known."""
    frames = pictures.generated(8)

    assert len({picture.jpeg for picture in frames}) == 8
    assert len({picture.class_name for picture in frames}) == 8


def test_photos_are_left_out_where_there_are_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file is beside the project, or it is not."""
    pictures.photos.cache_clear()
    monkeypatch.setattr(pictures, "PHOTOS", tmp_path / "none.zip")

    assert pictures.photos(3) == ()

    pictures.photos.cache_clear()
