"""The comparison with the rivals."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime

from benchmarks.changing_link import _changes
from benchmarks.device import Answer
from benchmarks.pictures import Picture
from benchmarks.rivals import ALONE, CAMERA, DAEMON, RESIZED, Heat, _figure
from popexd.lab.link import WIFI
from popexd.protocol.messages import ResultPayload, ResultSeconds

NUT = Picture(b"", "nut")


def answer(seconds: float, label: str = "nut") -> Answer:
    """An answer that took so long."""
    result = ResultPayload(
        frame_id="f",
        camera="c",
        label=label,
        class_index=0,
        confidence=0.9,
        exit="final",
        tier="cloud",
        plan_id="p",
        captured_at=datetime.now(UTC),
        seconds=ResultSeconds(total=seconds),
        bytes_sent=100,
    )
    return Answer(seconds, result)


def heat(**seconds: list[float]) -> Heat:
    """A heat in which contenders took so long."""
    found = Heat("generated", WIFI)
    names = {"daemon": DAEMON, "alone": ALONE, "camera": CAMERA, "resized": RESIZED}
    for name, values in seconds.items():
        for value in values:
            found.add(names[name], NUT, answer(value))
    return found


def test_the_daemon_is_compared_with_the_better_rival() -> None:
    """Of those that anybody could have instead; by the median."""
    figure = _figure(heat(daemon=[0.1, 0.1, 9.0], alone=[0.2] * 3, camera=[0.125] * 3, resized=[0.05] * 3))

    assert math.isclose(figure.value, 0.8)
    assert figure.details["best_rival"] == CAMERA
    assert figure.met


def test_a_daemon_behind_its_rival_misses_the_target() -> None:
    """By more than noise."""
    assert _figure(heat(daemon=[0.2], alone=[0.1], camera=[0.3])).met is False


def test_right_answers_are_counted_and_missing_ones_left_out() -> None:
    """Accuracy is of what was answered."""
    found = heat(daemon=[0.1], alone=[0.1], camera=[0.1])
    found.add(DAEMON, NUT, answer(0.1, "bolt"))
    found.add(DAEMON, NUT, None)

    assert _figure(found).details[DAEMON]["accuracy"] == 0.5
    assert _figure(found).details[DAEMON]["frames"] == 2


def test_the_link_changes_by_five_both_ways() -> None:
    """Down and up by turns, on two links, the wait before never the same as the last one's."""
    changes = list(_changes(2))
    factors = [new.bits_per_second_up / old.bits_per_second_up for old, new, _ in changes]

    assert [round(factor, 6) for factor in factors] == [0.2, 5.0] * 4
    assert all(one[1] == other[0] for one, other in itertools.pairwise(changes[:4]))
    assert all(one[2] != other[2] for one, other in itertools.pairwise(changes))
