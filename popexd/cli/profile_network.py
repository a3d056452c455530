"""`popexd profile --model`: a layer profile of any torchvision classifier, Darknet-53 or Inception-v4."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from popexd.cli.words import milliseconds, printable, share
from popexd.errors import InputError
from popexd.plan import Tier
from popexd.profile import LayerGraph

if TYPE_CHECKING:
    from popexd.training.network_profile import NetworkProfile


def profile_network(
    name: str,
    threads: int,
    seconds: float,
    slowdown: float,
    cloud: Path | None,
    out: Path | None,
    *,
    predicted: bool,
    as_json: bool,
) -> None:
    """Profile a classifier; show or write it."""
    # Loading torch takes seconds; --help does not need it.
    from popexd.training.network_profile import profile

    there = None if cloud is None else LayerGraph.load(cloud)

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    found = profile(name, seconds, threads=threads, predicted=predicted, slowdown=slowdown, cloud=there, say=say)
    text = json.dumps(found.graph.to_json(), indent=1)
    if out is not None:
        try:
            out.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"--out: {out}: {error.strerror or error}, expected a file that can be written") from error
    if as_json:
        print(text)
        return
    _show(found)
    if out is not None:
        print(f"written to {out}; try: popexd compare {out} --uplink-mbps 4g --gamma 10")


def _show(found: NetworkProfile) -> None:
    from rich.table import Table

    from popexd.cli.tables import show

    network, seconds = found.network, {layer.name: layer.seconds[Tier.DEVICE] for layer in found.graph.layers}
    table = Table("kind", "vertices", "ms", "10^6 MAC", title=printable(network.name))
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, count in Counter(vertex.kind for vertex in network.vertices).most_common():
        mine = [vertex for vertex in network.vertices if vertex.kind == kind]
        work = sum(vertex.multiply_adds for vertex in mine)
        table.add_row(
            kind, str(count), milliseconds(sum(seconds[vertex.name] for vertex in mine)), f"{work / 1e6:,.0f}"
        )
    table.add_section()
    total = sum(seconds.values())
    table.add_row("all", str(len(network.vertices)), milliseconds(total), f"{network.multiply_adds / 1e6:,.0f}")
    show(table)
    print(
        f"{network.multiply_adds / 1e9:.4f} G multiply-adds, {network.parameters / 1e6:.3f} M parameters, "
        f"{len(network.cut_vertices)} cut vertices, images of {network.side} x {network.side}"
    )
    if found.timing is not None:
        print(
            f"measured here; the sum of the vertices is {found.timing.whole_error:+.1%} off a run of the whole, "
            f"{found.timing.partition_error:.1%} off runs of whole partitions on average"
        )
    if found.trust is not None:
        kinds = ", ".join(f"{kind} {share(error)}" for kind, error in found.trust.by_kind.items())
        whole = ", ".join(f"{name} {error:+.0%}" for name, error in found.trust.whole.items())
        print(f"predicted from networks measured here; mean error of a vertex {share(found.trust.overall)} ({kinds})")
        print(f"whole networks, each predicted from the others: {whole}")
