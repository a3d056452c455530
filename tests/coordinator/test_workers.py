"""Who is there to work for us, and what is told of it."""

from __future__ import annotations

from popexd.coordinator import events as ev

from .makers import CLOUD, Bench


def test_a_worker_that_comes_and_goes_is_told() -> None:
    """Found and lost, once each; presence over and over is no news."""
    bench = Bench().connected()
    bench.worker("w1")
    bench.worker("w1")
    bench.worker("w1", online=False)
    bench.worker("w1", online=False)
    assert bench.notices("worker.found") == [{"worker": "w1", "tier": "cloud"}]
    assert bench.notices("worker.lost") == [{"worker": "w1", "tier": "cloud"}]


def test_a_worker_that_serves_another_model_is_told_once_and_again_when_that_changed() -> None:
    """Its presence is heard anew with every connection; once it served ours, it is told like any other."""
    bench, expected = Bench().connected(), {"m": "aa"}

    def serves(worker: str, **models: str) -> None:
        instead = {"models": models, "expected": expected}
        bench.tell(ev.WorkerChanged(worker, CLOUD, False, instead=instead))

    for _ in range(3):
        serves("w2", m="bb")
        bench.tell(ev.UplinkChanged(False))
        bench.tell(ev.UplinkChanged(True))
    serves("w3", m="bb")
    serves("w2", m="cc")
    bench.tell(ev.WorkerChanged("w2", CLOUD, False))
    serves("w2", m="cc")
    bench.worker("w2")
    serves("w2", m="cc")

    told = [(each["worker"], each["models"]["m"]) for each in bench.notices("worker.mismatched")]
    assert told == [("w2", "bb"), ("w3", "bb"), ("w2", "cc"), ("w2", "cc")]
    first_told = {"worker": "w2", "tier": "cloud", "models": {"m": "bb"}, "expected": expected}
    assert bench.notices("worker.mismatched")[0] == first_told
    assert [each["worker"] for each in bench.notices("worker.lost")] == ["w2"]


def test_workers_without_end_are_not_remembered_without_end() -> None:
    """Names are free to invent."""
    bench = Bench().connected()
    for number in range(1_000):
        bench.tell(ev.WorkerChanged(f"w{number}", CLOUD, False, instead={"models": {}, "expected": {}}))
    assert len(bench.brain.world._mismatched) <= 64
