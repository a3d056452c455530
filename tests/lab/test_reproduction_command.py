"""`popexd reproduce` from the outside: files, tables, JSON, and one line for whatever is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from popexd.cli.main import main
from tests.graphs import chain


def run(*words: object) -> int:
    """Run `popexd reproduce` with these words; returns its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *(str(word) for word in words)])
    return int(ended.value.code or 0)


def test_all_that_needs_no_photos_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures 3 and 4 as data and pictures; what is missing for the others is said; nothing else is left behind."""
    pytest.importorskip("matplotlib")
    from PIL import Image

    out = tmp_path / "new" / "folder"
    assert run("--out", out, "--format", "png,svg") == 0
    text = capsys.readouterr().out

    names = {f"figure-{number}.{suffix}" for number in (3, 4) for suffix in ("json", "csv", "png", "svg")}
    assert {path.name for path in out.iterdir()} == names
    for number in (3, 4):
        with Image.open(out / f"figure-{number}.png") as picture:
            assert picture.width > 1000
            assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 20
        assert (out / f"figure-{number}.png").stat().st_size < 150_000
    assert "not made: 5, 6, 7, jnca: photos are missing" in text
    assert "87.27 % less" in text
    assert text.count("written: ") == 8


def test_the_same_input_gives_the_same_files(tmp_path: Path) -> None:
    """Byte for byte, pictures too; older files are replaced."""
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert run("3", "--out", out, "--format", "svg") == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "figure-3.csv").write_text("old")
    assert run("3", "--out", out, "--format", "svg") == 0

    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_machines_get_figures_and_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what was left out; `--facts` writes nothing."""
    out = tmp_path / "out"
    assert run("--facts", "--json", "--out", out) == 0
    found = json.loads(capsys.readouterr().out)

    assert [figure["figure"] for figure in found["figures"]] == ["3", "4"]
    assert set(found["left_out"]) == {"5", "6", "7", "jnca"}
    assert found["files"] == []
    assert not out.exists()
    verdicts = {fact["paper"]: fact["same"] for figure in found["figures"] for fact in figure["facts"]}
    assert [paper for paper, same in verdicts.items() if not same] == ["γ 100: while constant, all is in the cloud"]


def test_a_profile_and_links_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A measured profile instead of the synthetic one, over the rates that DADS has."""
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(chain((1, 2, 3), (100_000, 50_000, 10_000), [(1, 0.5, 0)], 10, "mine").to_json()))
    assert run("3", "--profile", profile, "--links", "dads", "--facts", "--json") == 0
    (figure,) = json.loads(capsys.readouterr().out)["figures"]

    assert figure["source"] == "mine (profile.json)"
    assert list(figure["settings"]["mbps"].values()) == [1.1, 5.85, 18.88]
    # gamma 10 at p = 1: only the first layer and its branch, on the device.
    assert figure["panels"][0]["curves"][0]["y"][-1] == pytest.approx(10 * 1.5e-3)


def test_generated_pictures_do_where_there_are_no_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures 5 to 7 and the later paper's of a handful, with the bundle that ships, labelled for what they are."""
    words = ("--data", "generated", "--images", 4, "--samples", 40, "--format", "none", "--out", tmp_path / "out")
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "not made" not in said
    assert "jnca: conveyor-b-alexnet; 40 generated pictures (no photos), seed 1" in said

    for number in ("5", "6", "7", "jnca"):
        figure = json.loads((tmp_path / "out" / f"figure-{number}.json").read_text())
        assert "generated pictures (no photos)" in figure["source"]
        assert figure["facts"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("8",), "figure: '8', expected one of: 3, 4, 5, 6, 7, jnca, all"),
        (
            ("5",),
            "figure 5: photos are missing, expected --data FOLDER (one folder of photos per class of --bundle) or gen",
        ),
        (("7", "--format", "none"), "figure 7: photos are missing"),
        (("3", "--format", "gif"), "--format: 'gif', expected some of: png, svg, pdf, or none"),
        (("3", "--links", "5g", "--facts"), "--links: '5g', expected one of: popex, dads"),
        (
            ("3", "--codecs", "--facts"),
            "--codecs: the profile has none, expected --profile with one that popexd profile",
        ),
        (("3", "--at-cut", "maybe", "--facts"), "--at-cut: 'maybe', expected one of: either, skip, run"),
        (("4", "--profile", "/nowhere.json", "--facts"), "/nowhere.json: No such file or directory"),
        (("5", "--data", "/nowhere", "--facts"), "--data: /nowhere: no such folder"),
        (("6", "--data", "generated", "--bundle", "/nowhere", "--facts"), "/nowhere: no such folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    words: tuple[str, ...], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and nothing is written."""
    assert run(*words, "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()

    assert line in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_profile_that_does_not_fit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file, and what is missing."""
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(chain((1, 2), (10, 10)).to_json()))
    assert run("3", "--profile", profile, "--out", tmp_path / "out") == 2

    assert capsys.readouterr().err == f"popexd: {profile}: exits: none, expected at least one side branch\n"


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file is in the way of the folder, then a folder in the way of a file."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("mine")
    assert run("3", "--format", "none", "--out", in_the_way) == 2
    assert "--out: " in capsys.readouterr().err
    assert in_the_way.read_text() == "mine"
    assert run("3", "--profile", tmp_path / "nowhere.json", "--out", in_the_way / "below") == 2
    assert "file is a file, expected a folder" in capsys.readouterr().err  # before the profile is looked at

    out = tmp_path / "out"
    (out / "figure-3.json").mkdir(parents=True)
    assert run("3", "--format", "none", "--out", out) == 2
    assert capsys.readouterr().err.startswith(f"popexd: --out: {out}: ")
    assert [path.name for path in out.iterdir()] == ["figure-3.json"]


def test_without_matplotlib_the_data_can_still_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures are complained about before any work; with `--format none` they are not needed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what the import system takes for "not there"
    assert run("3", "--out", tmp_path / "out") == 2
    assert "pip install 'popexd[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

    assert run("3", "--format", "none", "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"figure-3.json", "figure-3.csv"}
