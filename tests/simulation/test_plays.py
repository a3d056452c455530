"""Plays drawn from seeds: the promises hold in all of them, and the checks notice when they do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from popexd.coordinator import events as ev
from popexd.coordinator.choosing import Known, best
from popexd.coordinator.corrections import Corrections
from popexd.coordinator.flow import Flow
from popexd.coordinator.frames import Frame
from popexd.coordinator.offload import Offload
from popexd.coordinator.planning import Planner
from popexd.coordinator.statistics import Statistics
from popexd.coordinator.timing import timing
from popexd.coordinator.uplink import Uplink
from popexd.coordinator.world import World
from popexd.simulation import play as plays
from popexd.simulation.agent_world import BrokenPromiseError
from popexd.simulation.play import Play, play

SEEDS, CHUNK = 2_000, 50


def play_all(seeds: range) -> None:
    """Play them one after the other."""
    for seed in seeds:
        play(seed)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_is_kept(first: int) -> None:
    """Whatever is lost, doubled, reordered, stalled, killed or slowed down."""
    play_all(range(first, first + CHUNK))


@pytest.mark.parametrize("seed", [218, 234, 4812, 5551, 35176])
def test_seeds_that_broke_a_promise_once_keep_it(seed: int) -> None:
    """A wake-up that was forgotten, a retry that took another frame's time: rare, and so remembered."""
    play(seed)


def test_a_seed_replays_exactly() -> None:
    """The same events and effects, to the last digit: what broke once can be looked at."""
    for seed in (0, 7, 33):
        assert play(seed, trace=True).world.trace == play(seed, trace=True).world.trace


def test_plays_are_worth_playing() -> None:
    """Between them, a hundred seeds see everything that can happen to a frame."""
    fallbacks: set[str] = set()
    exits: set[str] = set()
    tiers: set[str] = set()
    dropped: set[str] = set()
    notices: set[str] = set()
    cuts: set[str] = set()
    for seed in range(120):
        world = play(seed).world
        statistics = world.brain.statistics
        fallbacks |= statistics.fallbacks.keys()
        exits |= statistics.exits.keys()
        tiers |= statistics.tiers.keys()
        dropped |= statistics.dropped.keys()
        cuts |= {decision.cut for decision in world.decisions}
        notices |= world.notices.keys()
    assert fallbacks >= {"timeout", "uplink-busy", "disconnected", "worker-error", "worker-lost", "compute", "dropped"}
    assert exits == {"b1", "b2", "final"}
    assert tiers == {"device", "edge", "cloud"}
    assert dropped == {"newer", "shutdown"}
    assert cuts == {"input", "v1", "v2", "output"}
    assert notices >= {
        "offload.retried",
        "uplink.lost",
        "uplink.restored",
        "link.changed",
        "worker.lost",
        "plan.changed",
    }


# ------------------------------------------------------------------------ the checks can fail

Mutation = Callable[[pytest.MonkeyPatch], None]


def wrapped(owner: type, name: str, around: Callable[..., Any]) -> Mutation:
    """Replace a method by `around(original, self, *arguments)`."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda self, *arguments, **named: around(original, self, *arguments, **named))

    return mutate


def answers_twice(original: Any, flow: Flow, frame: Frame, *rest: Any) -> None:
    """The frame is not forgotten by its first answer."""
    original(flow, frame, *rest)
    flow.frames[frame.key] = frame
    flow.statistics.answered -= 1
    original(flow, frame, *rest)


def late_rescue(original: Any, offload: Offload) -> list[tuple[float, Frame]]:
    """Nobody thinks of the deadline while waiting."""
    del original
    return [(frame.shipped_at + 1.97, frame) for frame in offload.shipped]


def parts_too_long(frame: Frame, *rest: Any) -> ev.Timing:
    """The queue is counted twice."""
    honest = timing(frame, *rest)
    return replace(honest, queue=honest.queue + 0.6 * honest.total)


def miscounts(original: Any, statistics: Statistics, answer: ev.Answer, predicted: float | None, now: float) -> None:
    """Answers of the cloud are counted as the device's too."""
    original(statistics, answer, predicted, now)
    if answer.tier.label == "cloud":
        statistics.tiers["device"] += 1


def forgets_the_dropped(original: Any, flow: Flow, reason: str, received: ev.FrameReceived) -> None:
    """Frames that are pushed out are not counted."""
    if reason != "newer":
        original(flow, reason, received)


def keeps_tensors(original: Any, flow: Flow, *arguments: Any) -> None:
    """The shell is never told to forget what it keeps of a frame."""
    original(flow, *arguments)
    flow._out[:] = [effect for effect in flow._out if not isinstance(effect, ev.Forget)]


def two_orders(original: Any, flow: Flow, now: float) -> None:
    """The compute thread is taken to be idle at every event."""
    flow._running = None
    original(flow, now)


def never_lost(original: Any, world: World, event: ev.WorkerChanged, now: float) -> None:
    """A worker that went away is still planned with."""
    if event.online:
        original(world, event, now)


def wavers(patch: pytest.MonkeyPatch) -> None:
    """Every second look finds the uplink not worth it, and every look is followed at once."""
    looks = itertools.count()

    def unsteady(graph: Any, known: Known, settings: Any) -> Any:
        return best(graph, known if next(looks) % 2 else Known(), settings)

    patch.setattr("popexd.coordinator.planning.best", unsteady)
    patch.setattr(Planner, "_settled", lambda planner, slot, found, *rest: found)


def wrong_price(original: Any, corrections: Corrections, graph: Any, now: float) -> Any:
    """What frames teach makes everything three times dearer than it is."""
    graph = original(corrections, graph, now)
    layers = [replace(each, seconds={t: 3 * s for t, s in each.seconds.items()}) for each in graph.layers]
    return replace(graph, layers=tuple(layers))


def never_drained(original: Any, flow: Flow) -> None:
    """Frames that wait are kept when draining."""
    flow.draining = True


def any_size(original: Any, uplink: Uplink, limit: int | None) -> None:
    """The broker's limit is not listened to."""
    original(uplink, None)


def nothing(original: Any, *arguments: Any, **named: Any) -> None:
    """Do nothing at all."""


ALL, CALM = range(300), range(0, 1_500, 5)

MUTATIONS: dict[str, tuple[Mutation, str, range]] = {
    "answers twice": (wrapped(Flow, "_answer", answers_twice), "answered twice", ALL),
    "never gives up": (wrapped(Offload, "give_up", nothing), "would spin|not drained|answered after", ALL),
    "rescues too late": (wrapped(Offload, "_giving_up", late_rescue), "answered after", ALL),
    "parts too long": (
        lambda patch: patch.setattr("popexd.coordinator.flow.timing", parts_too_long),
        "parts exceed the total",
        ALL,
    ),
    "miscounts tiers": (wrapped(Statistics, "answer", miscounts), "answered [0-9]+, but", ALL),
    "does not count dropped": (wrapped(Flow, "_dropped", forgets_the_dropped), "received", ALL),
    "keeps tensors": (wrapped(Flow, "_answer", keeps_tensors), "never forgotten", ALL),
    "gives two orders": (wrapped(Flow, "pump", two_orders), "two orders at once|not drained", ALL),
    "plans with the dead": (wrapped(World, "worker_changed", never_lost), "needs", ALL),
    "wavers": (wavers, "dwell time", CALM),
    "prices wrongly": (wrapped(Corrections, "apply", wrong_price), "times what is predicted", CALM),
    "keeps waiting frames": (wrapped(Flow, "drain", never_drained), "received|not drained", ALL),
    "sends any size": (wrapped(Uplink, "_limit", any_size), "may be", ALL),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_brain_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these faults breaks a promise within a few seeds, and the message names seed and promise."""
    mutate, promise, seeds = MUTATIONS[name]
    mutate(monkeypatch)
    with pytest.raises(BrokenPromiseError, match=f"seed [0-9]+: .*({promise})"):
        play_all(seeds)


def test_a_failing_seed_tells_its_story(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the trace asked for, the error holds every event and effect up to the end."""
    wrapped(Flow, "_answer", answers_twice)(monkeypatch)
    with pytest.raises(BrokenPromiseError) as plain:
        play(3)
    with pytest.raises(BrokenPromiseError) as told:
        play(3, trace=True)
    assert str(told.value).startswith(str(plain.value))
    assert "FrameReceived" in str(told.value)
    assert "Answer" in str(told.value)


def test_a_loop_that_spins_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that is due again at once would take the machine with it."""
    monkeypatch.setattr(Uplink, "wakeup_at", property(lambda self: 0.5 if self.connected else float("inf")))
    with pytest.raises(BrokenPromiseError, match="spin"):
        play_all(range(20))


def test_after_the_faults_the_agent_offloads_again() -> None:
    """Within 15 seconds of the last fault's end, with frames flowing, wherever that is clearly better."""
    clear = 0
    for seed in range(1, 400, 4):
        drawn = Play(seed)
        world = drawn.world
        drawn.seconds = 6.0
        drawn._cameras()
        world.schedule(plays.PROBE_SECONDS)
        drawn._faults()
        world.clock.run(6.0)
        drawn.heal()
        world.tell(ev.RequestReceived("set", 1, {"mode": "auto"}))
        world.every(0.2, lambda world=world: world.frame("late"))
        world.clock.run(21.0)
        best = drawn.best()
        alone = drawn.alone()
        if alone - best.seconds < max(0.02, 0.3 * alone):
            continue
        clear += 1
        assert world.decision is not None
        assert world.decision.cut != "output", (
            f"seed {seed}: {best.seconds:.3f} s instead of {alone:.3f} s are to be had"
        )
    assert clear > 20
