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
        (("--uplink-mbps", "fast"), "--uplink-mbps: 'fast', expected a positive number of Mbit/s, or one of: cat1, 3g"),
        (("--uplink-mbps", 8, "--jitter-ms", -1), "--jitter-ms: -1, expected zero or more milliseconds"),
        (("--uplink-mbps", 8, "--thresholds", "high"), "--thresholds: 'high', expected own, sweep, or levels in 0..1"),
        (("--uplink-mbps", 8, "--thresholds", "0.5,2"), "--thresholds: '0.5,2', expected own, sweep, or levels"),
        (("--uplink-mbps", 8, "--max-packet-bytes", -5), "max_packet_bytes: -5, expected a number, zero or more"),
        (("--uplink-mbps", 8, "--frames-per-second", "nan"), "--frames-per-second: nan, expected a finite number"),
        (("--uplink-mbps", 8, "--guard"), "--guard: with solver 'joint', expected hpa"),
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


def branching(tmp_path: Path) -> Path:
    """The toy with a shortcut."""
    data = json.loads(json.dumps(TOY))
    data["layers"][2]["after"] = ["v1", "v2"]
    return written(tmp_path, data)


@pytest.mark.parametrize("name", ["joint", "exact", "brute-force"])
def test_a_graph_that_branches_is_solved(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The default takes it as it is; the exact solvers agree."""
    options = ("--uplink-mbps", 8, "--gamma", 10, "--solver", name, "--json")

    assert run("plan", branching(tmp_path), *options) == 0
    assert json.loads(capsys.readouterr().out)["cut"] == "output"


def test_a_solver_for_chains_says_who_takes_the_rest(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is approximated silently."""
    options = ("--uplink-mbps", 8, "--gamma", 10, "--solver", "shortest-path")

    assert run("plan", branching(tmp_path), *options) == 2
    assert "shortest-path takes chains only" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "mbps"), [("3g", 1.1), ("4g", 5.85), ("wifi", 18.88), ("cat1", 0.13), ("4G", 5.85)])
def test_presets_are_the_papers_rates(
    run: Run, toy: Path, capsys: pytest.CaptureFixture[str], name: str, mbps: float
) -> None:
    """By name as by number."""
    seconds = []
    for rate in (name, mbps):
        assert run("plan", toy, "--uplink-mbps", rate, "--gamma", 100, "--solver", "neurosurgeon", "--json") == 0
        seconds.append(json.loads(capsys.readouterr().out)["expected_seconds"])

    assert seconds[0] == seconds[1]


def test_jitter_shows_in_the_percentile(run: Run, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in the mean."""
    found = []
    for jitter in (0, 20):
        assert run("plan", toy, "--uplink-mbps", 8, "--gamma", 500, "--jitter-ms", jitter, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))

    assert found[0]["expected_seconds"] == found[1]["expected_seconds"]
    assert found[1]["p95_seconds"] > found[0]["p95_seconds"] + 0.03


def test_hpa_says_what_it_is_and_has_a_guard(run: Run, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The heuristic as it is, labelled; the guard beside it, named."""
    assert run("plan", toy, "--uplink-mbps", 8, "--gamma", 10, "--solver", "hpa", "--guard", "--json") == 0
    found = json.loads(capsys.readouterr().out)

    assert (found["solver"], found["guard"]["solver"]) == ("hpa", "hpa-guard")
    assert "reconstructed" in found["note"]
    assert found["guard"]["expected_seconds"] <= found["expected_seconds"]
    assert run("plan", toy, "--uplink-mbps", 8, "--gamma", 10, "--solver", "hpa", "--guard") == 0
    assert "guard: the best of hpa" in capsys.readouterr().out


def test_infeasible_shows_the_nearest_plans(run: Run, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As lines, or as JSON; the reason stays one line on standard error."""
    options = ("--uplink-mbps", 8, "--gamma", 10, "--deadline-ms", 20)
    assert run("plan", toy, *options) == 1
    said = capsys.readouterr()
    assert said.out.startswith("nearest: cut after v2, 31.5 ms")
    assert said.err.count("\n") == 1
    assert run("plan", toy, *options, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["infeasible"].startswith("deadline_seconds 0.02 s")
    assert [plan["cut"] for plan in found["nearest"]] == ["v2"]


def test_thresholds_are_swept_where_accuracy_counts(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a bound on accuracy the usual grid, unless said otherwise."""
    from tests.graphs import two_branches
    from tests.solvers.tables import tabled

    path = written(tmp_path, tabled(two_branches(0, 0)).to_json())
    chosen = []
    for options in (("--min-accuracy", 0.7), ("--min-accuracy", 0.7, "--thresholds", "own"), ("--thresholds", "0.5,1")):
        assert run("plan", path, "--uplink-mbps", 2, *options, "--json") == 0
        exits = json.loads(capsys.readouterr().out)["exits"]
        chosen.append({choice["threshold"] for choice in exits.values() if choice["runs"]})

    assert chosen == [{0.6}, set(), {0.5}]


def told_apart() -> dict[str, Any]:
    """The toy with a table: eight of ten clear frames leave at b1, and no blurred one under its own threshold."""
    confidence = [0.95] * 8 + [0.2] * 2 + [0.9] * 10
    joint = {
        "exits": ["b1", "final"],
        "confidence": {"b1": confidence, "final": [1.0] * 20},
        "correct": {"b1": [True] * 20, "final": [True] * 20},
        "quality": ["clear"] * 10 + ["blurred"] * 10,
    }
    exits = [TOY["exits"][0] | {"threshold": 0.8, "threshold_by_quality": {"blurred": 0.92}}]
    return TOY | {"exits": exits, "joint": joint}


@pytest.mark.parametrize(("quality", "leaving"), [("clear", 0.8), ("blurred", 0.0), (None, 0.9)])
def test_plans_for_frames_of_one_quality_class(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], quality: str | None, leaving: float
) -> None:
    """Only its samples count, and its own threshold: the expected time is the closed form with that share."""
    asked = [] if quality is None else ["--quality", quality]
    toy = str(written(tmp_path, told_apart()))
    assert run("plan", toy, "--uplink-mbps", "8", "--gamma", "50", "--solver", "shortest-path", *asked, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    cuts = {"input": 0.106, "v1 skip": 0.105, "v1 run": 0.075 + (1 - leaving) * 0.055, "v2": 0.0}
    cuts["v2"] = 0.075 + (1 - leaving) * (0.1 + 0.01 + 0.003)
    cuts["output"] = 0.075 + (1 - leaving) * 0.25
    assert found["expected_seconds"] == pytest.approx(min(cuts.values()))


def test_a_class_that_the_profile_does_not_know_is_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what it knows."""
    toy = str(written(tmp_path, told_apart()))
    assert run("plan", toy, "--uplink-mbps", "8", "--quality", "foggy") == 2
    assert capsys.readouterr().err.strip().endswith("expected a class of the profile's table: blurred, clear")
