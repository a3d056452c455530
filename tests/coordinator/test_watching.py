"""The brain tells of drift: on the event topic and in the metrics."""

from __future__ import annotations

import numpy as np

from popexd.coordinator import events as ev
from popexd.estimators.drift import FEWEST

from .makers import Bench, only


def answered(bench: Bench, frames: int, said: float, still: bool = False) -> None:
    """Let frames come of which every branch that is asked says this, and the end too; of one thing if it is `still`."""
    for number in range(frames):
        effects = bench.frame()
        while not only(ev.Answer, effects):
            (run,) = only(ev.Run, effects)
            effects = bench.ran(run, said=said, label=0 if still else number)


def test_one_scene_of_which_no_exit_is_sure_is_no_drift() -> None:
    """An empty belt for minutes."""
    bench = Bench(mode="device")
    answered(bench, 3 * FEWEST, said=0.1, still=True)
    effects = bench.tell(ev.Due("metrics"))
    assert drifts(effects) == set()
    (report,) = only(ev.Report, effects)
    assert all(figures["scenes"] == 1 for figures in report.figures["drift"]["exits"].values())


def drifts(effects: list[ev.Effect]) -> set[tuple[str, str, str | None]]:
    """The drifts told of: event, signal, exit."""
    notices = [notice for notice in only(ev.Notice, effects) if notice.event.startswith("drift.")]
    return {(notice.event, notice.fields["signal"], notice.fields["exit"]) for notice in notices}


def test_frames_of_which_no_exit_is_sure_are_told_as_drift() -> None:
    """Three of ten samples leave at b1; now none does: less sure, and fewer leave. The metrics name it as well."""
    bench = Bench(mode="device")
    asked = [branch for branch in ("b1", "b2") if bench.decision.plan.runs(branch)]
    assert asked
    answered(bench, FEWEST - 1, said=0.1)
    assert drifts(bench.tell(ev.Due("metrics"))) == set()
    answered(bench, 1, said=0.1)
    effects = bench.tell(ev.Due("metrics"))
    assert ("drift.detected", "confidence", asked[0]) in drifts(effects)
    (report,) = only(ev.Report, effects)
    live = report.figures["drift"]["exits"][asked[0]]
    assert live["share"] == 0
    assert live["frames"] == FEWEST
    assert f"confidence {asked[0]}" in report.figures["drift"]["drifting"]
    assert drifts(bench.tell(ev.Due("metrics"))) == set()


def test_the_decision_follows_live_exit_shares_though_nobody_else_is_there() -> None:
    """The plan stays, there is no other; what is published of it is what is expected now."""
    bench = Bench(mode="device")
    before = bench.decision
    asked = next(branch for branch in ("b1", "b2") if before.plan.runs(branch))
    expected = before.prediction.exit_probabilities[asked]
    answered(bench, FEWEST, said=0.1)
    bench.log.clear()
    bench.tell(ev.Due("replan"), after=5.0)
    (told,) = bench.decided()
    assert (told.plan, told.plan_id) == (before.plan, before.plan_id)
    assert told.prediction.exit_probabilities[asked] < 0.5 * expected
    bench.log.clear()
    bench.tell(ev.Due("replan"), after=2.0)
    assert not bench.decided()


def test_frames_like_the_samples_are_told_of_in_the_metrics_only() -> None:
    """As many sure and unsure ones as in the table: shares as expected, and no event."""
    bench = Bench(mode="device")
    table = bench.graph.validation
    assert table is not None
    for sample in np.random.default_rng(0).integers(0, table.confidence.shape[1], 2 * FEWEST):
        effects = bench.frame()
        while not only(ev.Answer, effects):
            (run,) = only(ev.Run, effects)
            row = table.exits.index(run.exit) if run.exit else 0
            effects = bench.ran(run, said=float(table.confidence[row, sample]))
    effects = bench.tell(ev.Due("metrics"))
    assert drifts(effects) == set()
    (report,) = only(ev.Report, effects)
    assert report.figures["drift"]["exits"]
    for figures in report.figures["drift"]["exits"].values():
        assert abs(figures["share"] - figures["expected_share"]) < 0.15
