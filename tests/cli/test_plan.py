"""`popexd plan` from the outside: decisions as JSON and text, and one line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run

TOY: dict[str, Any] = {
    "schema": "popexd/profile/1",
    "model": "toy",
    "input_bytes": 100_000,
    "layers": [
        {"name": "v1", "after": ["input"], "seconds": {"cloud": 0.001}, "output_bytes": 50_000},
        {"name": "v2", "after": ["v1"], "seconds": {"cloud": 0.002}, "output_bytes": 10_000},
        {"name": "v3", "after": ["v2"], "seconds": {"cloud": 0.003}, "output_bytes": 40},
    ],
    "exits": [{"name": "b1", "after": "v1", "seconds": {"cloud": 0.0005}, "probability": 0.5}],
}


def written(folder: Path, data: object = TOY) -> Path:
    """Write a profile file."""
    path = folder / "toy.json"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The toy's profile, in a file."""
    return written(tmp_path)


@pytest.mark.parametrize("solver", ["joint", "shortest-path", "brute-force"])
@pytest.mark.parametrize(
    ("gamma", "p", "cut", "runs", "seconds"),
    [
        (10, 0.5, "v2", True, 0.0315),
        (10, 1, "output", True, 0.015),
        (50, 0.4, "v1", False, 0.105),
        (50, 0.5, "v1", True, 0.1025),
        (60, 0.7, "input", False, 0.106),
        (60, 0.71, "v1", True, 0.10595),
    ],
)
def test_decides_the_toy(
    run: Run,
    toy: Path,
    capsys: pytest.CaptureFixture[str],
    solver: str,
    gamma: int,
    p: float,
    cut: str,
    runs: bool,
    seconds: float,
) -> None:
    """Spec A through the command, with every solver."""
    options = ("--uplink-mbps", 8, "--gamma", gamma, "--exit-probability", f"b1={p}", "--solver", solver, "--json")

    assert run("plan", toy, *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["solver"], found["cut"], found["exits"]["b1"]["runs"]) == (solver, cut, runs)
    assert found["expected_seconds"] == pytest.approx(seconds)
    assert found["codec"] == (None if cut == "output" else "f32")
    assert found["expected_accuracy"] is None
    assert found["solve_seconds"] > 0


def test_bytes_are_expected_per_frame(run: Run, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the frames leave at b1."""
    assert run("plan", toy, "--uplink-mbps", 8, "--gamma", 10, "--json") == 0
    found = json.loads(capsys.readouterr().out)

    assert found["bytes"] == 5_000
    assert found["bytes_by_hop"] == {"device": 5_000}
    assert found["tiers"] == {"v1": "device", "v2": "device", "v3": "cloud"}
    assert found["cuts"] == {"device": ["v2"], "edge": []}


def test_three_tiers(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an uplink of the edge the edge works too; round trips are paid per hop."""
    data = json.loads(json.dumps(TOY))
    for layer, edge in zip(data["layers"], (0.002, 0.004, 1.0), strict=True):
        layer["seconds"] |= {"device": 1.0, "edge": edge}
    options = ("--uplink-mbps", 80, "--rtt-ms", 5, "--edge-uplink-mbps", 8, "--edge-rtt-ms", 2, "--json")

    assert run("plan", written(tmp_path, data), *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tiers"] == {"v1": "edge", "v2": "edge", "v3": "cloud"}
    assert found["cuts"] == {"device": ["input"], "edge": ["v2"]}
    assert found["expected_seconds"] == pytest.approx(0.010 + 0.005 + 0.006 + 0.010 + 0.002 + 0.003)
    assert run("plan", tmp_path / "toy.json", *options, "--direct-uplink-mbps", 800) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["expected_seconds"] == pytest.approx(0.001 + 0.005 + 0.006)
    assert found["bytes_by_hop"] == {"direct": 100_000}


def test_people_get_a_table(run: Run, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was decided, and what it would take otherwise."""
    assert run("plan", toy, "--uplink-mbps", 8, "--gamma", 10) == 0
    text = capsys.readouterr().out

    assert "v2" in text
    assert "31.5 ms" in text
    assert "device-only" in text


def test_infeasible_is_a_negative_answer(run: Run, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1, and one line that says by how much."""
    assert run("plan", toy, "--uplink-mbps", 8, "--gamma", 10, "--deadline-ms", 20) == 1
    complaint = capsys.readouterr().err
    assert complaint == "popexd: deadline_seconds 0.02 s: the best plan has 0.0315 s, 0.0115 s over\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--uplink-mbps", 0), "--uplink-mbps: 0, expected a positive number of Mbit/s"),
        (("--uplink-mbps", "nan"), "--uplink-mbps: nan, expected a positive number of Mbit/s"),
        (("--uplink-mbps", 8, "--edge-uplink-mbps", -1), "--edge-uplink-mbps: -1, expected a positive number"),
        (("--uplink-mbps", 8, "--rtt-ms", -1), "--rtt-ms: -1, expected zero or more milliseconds"),
        (("--uplink-mbps", 8, "--exit-probability", "b1"), "--exit-probability: 'b1', expected EXIT=P"),
        (("--uplink-mbps", 8, "--exit-probability", "b1=1.5"), "--exit-probability: 'b1=1.5', expected EXIT=P"),
        (("--uplink-mbps", 8, "--exit-probability", "b1=nan"), "--exit-probability: 'b1=nan', expected EXIT=P"),
        (("--uplink-mbps", 8, "--exit-probability", "b7=0.5"), "exit probability: no exit 'b7', expected one of: b1"),
        (("--uplink-mbps", 8, "--gamma", 0), "gamma: 0, expected a positive number"),
        (("--uplink-mbps", 8, "--solver", "magic"), "solver: 'magic', expected one of: brute-force, dads"),
        (("--uplink-mbps", 8, "--objective", "joy"), "objective: 'joy', expected one of: seconds"),
        (
            ("--uplink-mbps", 8, "--min-accuracy", 0.9),
            "min_accuracy: 0.9, but the profile of 'toy' knows no accuracies",
        ),
        ((), "Missing option '--uplink-mbps'"),
        (("--uplink-mbps", "fast"), "Invalid value for '--uplink-mbps'"),
    ],
)
def test_bad_options_are_one_line(
    run: Run, toy: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], complaint: str
) -> None:
    """Exit status 2; what, where, and what was expected."""
    assert run("plan", toy, *options) == 2
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.count("\n") == 1
    assert not said.out


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("input_bytes", -1, "toy.json: input_bytes: -1, expected a finite number, zero or more"),
        ("layers", [], "toy.json: layers: none, expected at least one"),
        ("schema", "popexd/profile/9", "toy.json: schema: 'popexd/profile/9', expected 'popexd/profile/1'"),
    ],
)
def test_a_bad_file_is_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: object, complaint: str
) -> None:
    """Exit status 2; the file, the field, and what was expected."""
    assert run("plan", written(tmp_path, {**TOY, field: value}), "--uplink-mbps", 8) == 2
    said = capsys.readouterr()
    assert complaint in said.err
    assert said.err.count("\n") == 1


def test_a_graph_that_branches_is_sent_to_brute_force(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is approximated silently: the default solver says what it does and which one does the rest."""
    data = json.loads(json.dumps(TOY))
    data["layers"][2]["after"] = ["v1", "v2"]
    path = written(tmp_path, data)

    assert run("plan", path, "--uplink-mbps", 8, "--gamma", 10) == 2
    assert "joint takes chains only" in (said := capsys.readouterr().err)
    assert "expected brute-force" in said
    assert run("plan", path, "--uplink-mbps", 8, "--gamma", 10, "--solver", "brute-force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cut"] == "output"
