"""`popexd simulate` from the outside."""

from __future__ import annotations

import json

import pytest

from popexd.coordinator.flow import Flow

from .conftest import Run


def test_it_says_what_it_played_and_that_all_is_well(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts for people, and status 0."""
    assert run("simulate", "--seeds", 6) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("6 seeds, ")
    assert lines[-1] == "every promise kept"


def test_machines_get_the_same_as_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """And the same seeds give the same counts, however they are shared among processes."""
    counts = []
    for _ in range(2):
        assert run("simulate", "--seeds", 30, "--first", 100, "--json") == 0
        counts.append(json.loads(capsys.readouterr().out))
    assert counts[0] == counts[1]
    assert counts[0]["seeds"] == 30
    assert counts[0]["failures"] == []
    assert counts[0]["frames"] > counts[0]["answers"] > 0


def test_one_seed_is_replayed_with_all_that_happens(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Every event and effect with its instant, the same each time."""
    stories = []
    for _ in range(2):
        assert run("simulate", "--seed", 7) == 0
        stories.append(capsys.readouterr().out)
    assert stories[0] == stories[1]
    assert "> FrameReceived" in stories[0]
    assert "< Answer" in stories[0]
    assert "every promise kept" in stories[0].splitlines()[-1]


def test_a_broken_promise_is_a_negative_answer(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1, the seed, the promise, and how to replay it; and the replay breaks it too."""
    monkeypatch.setattr("popexd.cli.simulate.ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(Flow, "drain", lambda flow: None)
    assert run("simulate", "--seeds", 3) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 broken promises"
    assert lines[1].startswith("seed 0: not drained")
    assert lines[1].endswith("(popexd simulate --seed 0 replays it)")
    assert run("simulate", "--seed", 0) == 1
    assert "seed 0: not drained" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--seeds", "0"), ("--seed", "-1"), ("--seeds", "many"), ("--sed", "3")])
def test_bad_usage_is_one_line(run: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    """Status 2, and no traceback."""
    assert run("simulate", *words) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert words[0] in error


class InProcess:
    """An executor that needs no other process, so that a monkey's patch holds in it."""

    def __init__(self, _workers: int | None) -> None:
        self.map = map

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass
