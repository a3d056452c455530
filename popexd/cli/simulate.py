"""`popexd simulate`: the daemon's brain among faults drawn from seeds, on a virtual clock."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import Annotated

import typer
from rich.progress import track

_CHUNK = 25


def simulate(
    seeds: Annotated[int, typer.Option(help="How many seeds to play.", min=1)] = 1000,
    first: Annotated[int, typer.Option(help="The first seed.", min=0)] = 0,
    seed: Annotated[
        int | None, typer.Option(help="Play this one seed only and print everything that happens.", min=0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Play agent, workers and links with random faults; check that nothing taken is ever lost or answered twice."""
    if seed is not None:
        _replay(seed)
        return
    totals = {"seeds": seeds, "frames": 0, "answers": 0, "decisions": 0}
    failures: list[str] = []
    chunks = range(first, first + seeds, _CHUNK)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        played = pool.map(_play, chunks, repeat(first + seeds))
        for frames, answers, decisions, broken in track(
            played, "playing", len(chunks), disable=as_json or not sys.stderr.isatty()
        ):
            totals["frames"] += frames
            totals["answers"] += answers
            totals["decisions"] += decisions
            failures += broken
    if as_json:
        typer.echo(json.dumps({**totals, "failures": failures}))
    else:
        typer.echo(", ".join(f"{count:,} {what}" for what, count in totals.items()))
        for failure in failures[:20]:
            typer.echo(f"{failure}   (popexd simulate --seed {failure.split()[1].rstrip(':')} replays it)")
        typer.echo(f"{len(failures)} broken promises" if failures else "every promise kept")
    if failures:
        raise typer.Exit(1)


def _play(start: int, end: int) -> tuple[int, int, int, list[str]]:
    from popexd.simulation.agent_world import BrokenPromiseError
    from popexd.simulation.play import play

    frames = answers = decisions = 0
    broken = []
    for number in range(start, min(start + _CHUNK, end)):
        try:
            world = play(number).world
        except BrokenPromiseError as error:
            broken.append(str(error))
        else:
            frames += world.published
            answers += len(world.answers)
            decisions += len(world.decisions)
    return frames, answers, decisions, broken


def _replay(seed: int) -> None:
    from popexd.simulation.agent_world import BrokenPromiseError
    from popexd.simulation.play import play

    try:
        world = play(seed, trace=True).world
    except BrokenPromiseError as error:
        typer.echo(str(error))
        raise typer.Exit(1) from None
    typer.echo("\n".join(world.trace or []))
    typer.echo(f"seed {seed}: {len(world.answers)} answers, every promise kept")
