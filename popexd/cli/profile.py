"""`popexd profile`: the Background step, seconds per segment, branch and codec on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.cli.words import printable
from popexd.errors import InputError, ProfileError
from popexd.plan import Tier
from popexd.profile import INPUT, LayerGraph
from popexd.protocol.tensors import ENVELOPE_BYTES

LEAST_AGREEMENT = 0.98


def profile(
    bundle: Annotated[str, typer.Argument(help="a bundle folder, or the one that ships with popexd")] = "default",
    threads: Annotated[int, typer.Option(min=0, help="threads per segment; 0: all cores")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="how long to measure")] = 3.0,
    slowdown: Annotated[float, typer.Option(min=1, help="pretend the device is so many times slower")] = 1.0,
    cloud: Annotated[
        Path | None, typer.Option(help="a profile that this command wrote on the cloud's machine; without it: this one")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="write the layer profile (popexd/profile/1) here")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="instead of a bundle: a torchvision classifier, darknet53, inception_v4 (extra: train)"),
    ] = None,
    predicted: Annotated[
        bool, typer.Option("--predicted", help="with --model: predict from other networks measured here")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the layer profile")] = False,
) -> None:
    """Measure BUNDLE on this machine and show or write a layer profile, which `popexd plan` takes."""
    if model is not None:
        from popexd.cli.profile_network import profile_network

        profile_network(model, threads, seconds, slowdown, cloud, out, predicted=predicted, as_json=as_json)
        return
    if predicted:
        raise InputError("--predicted: a bundle is measured, expected it together with --model")
    # Loading onnxruntime takes a while; --help does not need it.
    from popexd.runtime.background import MachineProfile, graph, machine, measure
    from popexd.runtime.segments import SegmentRunner

    loaded = bundles.load(bundle)
    runner = SegmentRunner(loaded, threads)
    here = measure(runner, loaded, seconds)
    runner.close()
    there = here if cloud is None else MachineProfile.from_json(_other_machine(cloud, loaded))
    measured = graph(loaded, here.slowed(slowdown), {Tier.CLOUD: there}, envelope_bytes=ENVELOPE_BYTES)
    text = json.dumps(measured.to_json(), indent=1)
    if out is not None:
        try:
            out.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"--out: {out}: {error.strerror or error}, expected a file that can be written") from error
    if as_json:
        print(text)
    else:
        _show(measured, machine(runner.threads))
        if out is not None:
            print(f"written to {out}; try: popexd plan {out} --uplink-mbps 5 --rtt-ms 30")


def _other_machine(path: Path, loaded: Bundle) -> dict[str, Any]:
    """Read what another machine measured for itself from its layer profile."""
    other = LayerGraph.load(path)
    names = {segment.name for segment in loaded.segments} | {exit_.name for exit_ in loaded.exits}
    times = {layer.name: layer.seconds for layer in other.layers} | {exit_.name: exit_.seconds for exit_ in other.exits}
    for name in sorted(names):
        if Tier.DEVICE not in times.get(name, {}):
            raise ProfileError(f"{path}: no seconds of the device for {name!r}, expected a profile of {loaded.name}")
    return {
        "fingerprint": loaded.fingerprint,
        "machine": str(path)[:200],
        "threads": 1,
        "segments": {segment.name: times[segment.name][Tier.DEVICE] for segment in loaded.segments},
        "exits": {exit_.name: times[exit_.name][Tier.DEVICE] for exit_ in loaded.exits},
        "frame_seconds": other.input_seconds.get(Tier.DEVICE, 0.0),
        "frame_bytes": 0,
        "decode": {
            cut: {codec: cost.decode_seconds for codec, cost in table.items()} for cut, table in other.codecs.items()
        },
    }


def _show(graph: LayerGraph, machine: str) -> None:
    from rich.table import Table

    from popexd.cli.tables import show

    table = Table("segment", "ms", "in cloud", "f32 kB", "best codec", "kB", "encode", "decode")
    table.title = printable(graph.model)
    for column in (1, 2, 3, 5, 6, 7):
        table.columns[column].justify = "right"
    table.add_row("frame", _ms(graph.input_seconds[Tier.DEVICE]), "", *_smallest(graph, INPUT))
    for layer in graph.layers:
        far = layer.seconds.get(Tier.CLOUD)
        table.add_row(layer.name, _ms(layer.seconds[Tier.DEVICE]), _ms(far), *_smallest(graph, layer.name))
        for branch in graph.branches.get(layer.name, ()):
            near, far = branch.seconds[Tier.DEVICE], branch.seconds.get(Tier.CLOUD)
            table.add_row(f"  {branch.name}", _ms(near), _ms(far))
    table.add_section()
    total, beyond = (sum(layer.seconds.get(tier, 0.0) for layer in graph.layers) for tier in (Tier.DEVICE, Tier.CLOUD))
    table.add_row("together", _ms(total), _ms(beyond))
    show(table)
    print(f"device: {printable(machine)}")
    print(f"best codec: the smallest that keeps {LEAST_AGREEMENT:.0%} of the answers; kB with envelope, times in ms")


def _smallest(graph: LayerGraph, point: str) -> tuple[str, ...]:
    """Return f32's size, and the smallest codec that keeps the answers, with its size and seconds."""
    costs = graph.codecs.get(point, {})
    faithful = {codec: cost for codec, cost in costs.items() if cost.agreement >= LEAST_AGREEMENT}
    if not faithful:
        return (_kilobytes(graph.output_bytes(point)),)
    codec, cost = min(faithful.items(), key=lambda each: each[1].bytes)
    return (
        _kilobytes(graph.output_bytes(point)),
        codec,
        _kilobytes(cost.bytes),
        _ms(cost.encode_seconds),
        _ms(cost.decode_seconds),
    )


def _ms(seconds: float | None) -> str:
    """Write milliseconds with the microseconds that single segments take."""
    return "" if seconds is None else f"{seconds * 1000:.3f}"


def _kilobytes(size_bytes: float) -> str:
    return f"{size_bytes / 1000:.1f}"
