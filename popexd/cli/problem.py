"""The options that `plan` and `compare` share, and the problem they make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from popexd.errors import InputError, ProfileError
from popexd.network import Link, NetworkState
from popexd.profile import LayerGraph
from popexd.solvers.problem import THRESHOLDS, Problem

PRESETS = {
    "cat1": 0.13,
    "3g": 1.1,
    "4g": 5.85,
    "wifi": 18.88,
    "4g-popex": 5.5,
    "wifi-popex": 18.8,
}
"""Mbit/s of the papers' uplinks: DADS (INFOCOM 2019), Table I; POPEX rounds two of them."""

Profile = Annotated[Path, typer.Argument(help="layer profile file (popexd/profile/1)")]
Rate = Annotated[
    str, typer.Option(metavar="RATE", help=f"what leaves the device, in 10^6 bit/s, or {', '.join(PRESETS)}")
]
RoundTrip = Annotated[float, typer.Option(help="round trip of the device's links")]
Jitter = Annotated[float, typer.Option(help="standard deviation of a crossing of the device's links")]
EdgeRate = Annotated[str | None, typer.Option(metavar="RATE", help="what leaves the edge; uses the edge")]
EdgeRoundTrip = Annotated[float, typer.Option(help="round trip from the edge to the cloud")]
DirectRate = Annotated[str | None, typer.Option(metavar="RATE", help="the device's own link to the cloud")]
Gamma = Annotated[float | None, typer.Option(help="how many times slower than the cloud the device is")]
ExitProbability = Annotated[list[str] | None, typer.Option(metavar="EXIT=P", help="may be repeated")]
Quality = Annotated[str | None, typer.Option(metavar="CLASS", help="only frames of this image-quality class")]
Objective = Annotated[str, typer.Option(help="seconds, p95, bytes, device_seconds, device_joules, throughput")]
MinAccuracy = Annotated[float | None, typer.Option(help="least expected accuracy, 0..1")]
Deadline = Annotated[float | None, typer.Option(help="most expected milliseconds")]
Thresholds = Annotated[
    str | None, typer.Option(help="own, sweep, or levels such as 0.6,0.8; sweep is usual with --min-accuracy")
]
Packet = Annotated[float | None, typer.Option(help="largest single message")]
FrameRate = Annotated[float | None, typer.Option(help="rate that every stage must keep up with")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


def network(
    uplink: str, rtt_ms: float, jitter_ms: float, edge_uplink: str | None, edge_rtt_ms: float, direct: str | None
) -> NetworkState:
    """Read the links.

    Raises:
        InputError: a rate or a time that makes no sense.
    """
    found = {
        "uplink": _link("--uplink-mbps", uplink, "--rtt-ms", rtt_ms, jitter_ms),
        "edge_uplink": _link("--edge-uplink-mbps", edge_uplink, "--edge-rtt-ms", edge_rtt_ms),
        "direct": _link("--direct-uplink-mbps", direct, "--rtt-ms", rtt_ms, jitter_ms),
    }
    return NetworkState(**found)


def problem(
    graph: LayerGraph,
    links: NetworkState,
    objective: str,
    min_accuracy: float | None,
    deadline_ms: float | None,
    thresholds: str | None = None,
    max_packet_bytes: float | None = None,
    frames_per_second: float | None = None,
) -> Problem:
    """Put the question together.

    Raises:
        InputError: a value that makes no sense.
    """
    return Problem(
        graph,
        links,
        min_accuracy=min_accuracy,
        deadline_seconds=None if deadline_ms is None else deadline_ms / 1000,
        objective=objective,
        thresholds=levels(thresholds, swept=min_accuracy is not None),
        max_packet_bytes=max_packet_bytes,
        frames_per_second=frames_per_second,
    )


def levels(text: str | None, *, swept: bool) -> tuple[float, ...] | None:
    """Read `--thresholds`; where nothing is said, `swept` decides between the usual grid and the profile's own."""
    if text is None:
        return THRESHOLDS if swept else None
    if text in ("own", "sweep"):
        return THRESHOLDS if text == "sweep" else None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(0 <= level <= 1 for level in found):
        raise InputError(f"--thresholds: {text!r}, expected own, sweep, or levels in 0..1 such as 0.6,0.8")
    return found


def graph(
    profile: Path, gamma: float | None, exit_probability: Sequence[str] | None, quality: str | None = None
) -> LayerGraph:
    """Read the profile, with the device's speed, the class of the frames and the exits' shares as asked for.

    Raises:
        ProfileError: one line with the file, the field and what was expected.
        InputError: a class that the profile knows nothing of.
    """
    found = LayerGraph.load(profile)
    if quality is not None:
        known = {} if found.validation is None else found.validation.qualities
        if quality not in known:
            raise InputError(
                f"--quality: {quality!r}, expected a class of the profile's table: {', '.join(known) or 'it has none'}"
            )
        found = found.of_quality(quality)
    try:
        return (found if gamma is None else found.with_gamma(gamma)).with_probabilities(
            _probabilities(exit_probability or ())
        )
    except ProfileError as error:
        raise ProfileError(f"{profile}: {error}") from error


def at_rate(problem: Problem, mbps: float) -> Problem:
    """The same question over another uplink."""
    links = problem.network
    assert links.uplink is not None
    uplink = replace(links.uplink, bits_per_second=mbps * 1e6)
    return replace(problem, network=replace(links, uplink=uplink))


def rate(option: str, text: str) -> float:
    """Read a number of Mbit/s or the name of a preset.

    Raises:
        InputError: neither.
    """
    if text.lower() in PRESETS:
        return PRESETS[text.lower()]
    try:
        found = float(text)
    except ValueError:
        found = math.nan
        text = repr(text)
    if not (math.isfinite(found) and found > 0):
        raise InputError(f"{option}: {text}, expected a positive number of Mbit/s, or one of: {', '.join(PRESETS)}")
    return found


def _link(
    rate_option: str, rate_text: str | None, wait_option: str, wait_ms: float, jitter_ms: float = 0.0
) -> Link | None:
    for option, value in ((wait_option, wait_ms), ("--jitter-ms", jitter_ms)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{option}: {value:g}, expected zero or more milliseconds")
    if rate_text is None:
        return None
    return Link(rate(rate_option, rate_text) * 1e6, wait_ms / 1000, jitter_seconds=jitter_ms / 1000)


def _probabilities(given: Sequence[str]) -> Mapping[str, float]:
    found = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not 0 <= found[name] <= 1:
            raise InputError(f"--exit-probability: {text!r}, expected EXIT=P with P in 0..1")
    return found
