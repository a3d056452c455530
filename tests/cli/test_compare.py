"""`popexd compare` from the outside: table, JSON, pictures, and one line for whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from popexd.solvers import NAMES
from tests.cli.conftest import Run
from tests.graphs import synthetic, toy
from tests.test_profile_file import BAD, edited

LINK = ("--uplink-mbps", "4g", "--rtt-ms", 10)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """POPEX's synthetic network, in a file."""
    path = tmp_path / "synthetic.json"
    path.write_text(json.dumps(synthetic(10, 0.5).to_json()))
    return path


def test_every_solver_has_a_row(run: Run, profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its seconds, bytes, energy, time to solve and gap; nobody is ahead of exact."""
    assert run("compare", profile, *LINK, "--json") == 0
    rows = {row["solver"]: row for row in json.loads(capsys.readouterr().out)["solvers"]}

    assert tuple(rows) == NAMES
    for row in rows.values():
        assert {"expected_seconds", "bytes", "device_joules", "solve_seconds", "gap_to_exact"} <= row.keys()
        assert row["gap_to_exact"] >= -1e-9
    assert rows["joint"]["gap_to_exact"] == rows["exact"]["gap_to_exact"] == pytest.approx(0)


def test_people_get_a_table(run: Run, profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row each, and what has to be said with them."""
    assert run("compare", profile, *LINK) == 0
    text = capsys.readouterr().out

    assert all(name in text for name in NAMES)
    assert "hpa: reconstructed from the public abstract and patent" in text


def test_a_solver_that_cannot_says_why(run: Run, profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are shown all the same; a gap is one of the objective."""
    assert run("compare", profile, *LINK, "--objective", "bytes", "--solvers", "joint,hpa", "--json") == 0
    joint, hpa = json.loads(capsys.readouterr().out)["solvers"]

    assert joint["gap_to_exact"] == 0
    assert hpa["refusal"] == "objective: 'bytes', but hpa minimises 'seconds' only, expected joint"


def test_a_sweep_is_in_the_answer(run: Run, profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The expected time of every solver at every rate, slowest link first."""
    assert run("compare", profile, *LINK, "--sweep", "wifi,cat1,3g", "--json") == 0
    sweep = json.loads(capsys.readouterr().out)["sweep"]

    assert [entry["uplink_mbps"] for entry in sweep] == [0.13, 1.1, 18.88]
    times = [entry["seconds"]["joint"] for entry in sweep]
    assert times == sorted(times, reverse=True)


def test_a_plot_is_drawn(run: Run, profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture of some size, with the sweep below the bars taller than without."""
    pytest.importorskip("matplotlib")
    from PIL import Image

    plain, swept = profile.with_name("plain.png"), profile.with_name("swept.png")
    assert run("compare", profile, *LINK, "--plot", plain) == 0
    assert run("compare", profile, *LINK, "--plot", swept, "--sweep", "3g,4g,wifi") == 0
    assert f"drawn into {swept}" in capsys.readouterr().out.replace("\n", "")
    with Image.open(plain) as first, Image.open(swept) as second:
        assert first.width == second.width > 1000
        assert second.height > first.height + 300
        assert len(set(second.convert("L").resize((64, 64)).tobytes())) > 20


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--solvers", "joint,magic"), "--solvers: 'magic', expected some of: brute-force"),
        (("--sweep", "3g,5g"), "--sweep: '5g', expected a positive number of Mbit/s, or one of: cat1"),
        (("--plot", "picture.txt"), "--plot: picture.txt, expected a name that ends in .png"),
        (("--plot", "/nowhere/picture.png"), "--plot: /nowhere/picture.png: No such file or directory"),
        (("--objective", "joy"), "objective: 'joy', expected one of: seconds"),
    ],
)
def test_bad_options_are_one_line(
    run: Run, profile: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], complaint: str
) -> None:
    """Exit status 2; what, where, and what was expected."""
    assert run("compare", profile, *LINK, *options) == 2
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.count("\n") == 1


def test_planning_needs_no_plotting(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --plot the extra is not even looked for."""
    import subprocess
    import sys

    path = tmp_path / "toy.json"
    path.write_text(json.dumps(toy(10, 0.5).to_json()))
    code = (
        "import sys; sys.modules['matplotlib'] = None; from popexd.cli.main import main; "
        f"main(['compare', {str(path)!r}, '--uplink-mbps', '8', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("change", "complaint"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", ["plan", "compare"])
def test_a_bad_profile_is_one_line(
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    change: Callable[[dict[str, Any]], object],
    complaint: str,
) -> None:
    """Cycles, strangers, senseless numbers, missing times, duplicates: file, field, expectation; no traceback."""
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(edited(change)))

    assert run(command, path, "--uplink-mbps", 8) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"popexd: {path}: {complaint}")
    assert said.err.count("\n") == 1
    assert not said.out


def test_bad_power_is_one_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest field is checked like the others."""
    path = tmp_path / "bad.json"
    for value, complaint in (
        (-1, "power.compute_watts: -1, expected"),
        ("much", "power.compute_watts: 'much', expected"),
    ):
        path.write_text(json.dumps({**toy(10, 0.5).to_json(), "power": {"compute_watts": value}}))
        assert run("plan", path, "--uplink-mbps", 8) == 2
        assert capsys.readouterr().err.startswith(f"popexd: {path}: {complaint}")
