"""Pictures are refused before any work where they cannot be, and are whole or not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from popexd.cli.main import main
from popexd.errors import InputError
from popexd.evaluation.reliability import reliability
from popexd.lab.panels import Bars, Curves, Diagram, merged, save_panels
from popexd.lab.pictures import check_picture, check_pictures, put


def test_a_file_that_fails_halfway_leaves_the_old_ones(tmp_path: Path) -> None:
    """Neither of the two is replaced, and no part of them stays."""
    old, other = tmp_path / "old.txt", tmp_path / "other.txt"
    old.write_text("before")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        put({old: lambda path: path.write_text("after"), other: fail})
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]
    assert old.read_text() == "before"
    put({old: lambda path: path.write_text("after"), other: lambda path: path.write_text("too")})
    assert (old.read_text(), other.read_text(), len(list(tmp_path.iterdir()))) == ("after", "too", 2)


def test_a_picture_in_no_folder_is_refused(tmp_path: Path) -> None:
    """With the option, the place and what was expected."""
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for name, said in (
        ("plot.gif", "expected a name that ends in .png"),
        ("nowhere/plot.png", "No such file or directory"),
        ("file/plot.png", "Not a directory"),
        ("folder.png", "Is a directory"),
    ):
        with pytest.raises(InputError, match=f"^--plot: .*{said}"):
            check_picture("--plot", tmp_path / name)
    for name in ("file", "file/below"):
        with pytest.raises(InputError, match="file is a file, expected a folder"):
            check_pictures("--plot", tmp_path / name)
    check_picture("--plot", tmp_path / "plot.PNG")
    check_pictures("--plot", tmp_path / "new" / "newer")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_picture_where_nothing_may_be_written_is_refused(tmp_path: Path) -> None:
    """In a folder of others."""
    pytest.importorskip("matplotlib")
    tmp_path.chmod(0o500)
    for check, place in ((check_picture, tmp_path / "plot.png"), (check_pictures, tmp_path / "new")):
        with pytest.raises(InputError, match="Permission denied"):
            check("--plot", place)
    tmp_path.chmod(0o700)


def test_a_drawn_picture_takes_its_place_alone(tmp_path: Path) -> None:
    """The older one is replaced; nothing lies beside it."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.svg"
    path.write_text("older")
    save_panels(path, "one", [Curves("one", "x", "y", {"line": ([0, 1], [0.2, 0.4])})])
    assert "</svg>" in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["plot.svg"]


def test_curves_that_lie_on_one_another_are_one_with_both_names() -> None:
    """Gaps included; curves over other points are others, however alike they look."""
    nan = float("nan")
    curves = {"one": ([1, 2, 3], [4, nan, 6]), "two": ([1, 2, 3], [4, 5, 6]), "again": ([1, 2, 3], [4, nan, 6])}
    found = merged(curves | {"shorter": ([1, 2], [4, nan])})
    assert list(found) == ["one, again", "two", "shorter"]


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_the_same_data_make_the_same_picture(tmp_path: Path, suffix: str) -> None:
    """Of every kind of panel, byte for byte, with neither a date nor random names within."""
    pytest.importorskip("matplotlib")
    chance = np.random.default_rng(1)
    panels = [
        Curves("steps", "x", "cut", {"p": ([1, 10], [0, 2])}, {"here": 3}, x_logarithmic=True, steps=["a", "b", "c"]),
        Bars("bars", ["one", "two"], [1.0, 1000.0], logarithmic=True),
        Diagram("exit", reliability(chance.random(300), chance.random(300) < 0.7)),
    ]
    below = Curves("below", "x", "y", {"q": ([1, 2], [3, 4])}, from_zero=False, y_logarithmic=True, x_ticks=[1, 2])
    for name in ("one", "two"):
        save_panels(tmp_path / f"{name}.{suffix}", "all", panels, below=below)
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_without_matplotlib_no_work_is_begun(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit status 2, and nothing written: not even the folder of photos is looked at."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what the import system takes for "not there"
    words = [command, "default", "--data", str(tmp_path / "photos"), "--plot", str(tmp_path / "plot.png")]
    if command == "calibrate":
        words += ["--out", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "--plot: pictures need the extra 'plot' (pip install 'popexd[plot]')" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
