"""What `evaluate` and `calibrate` share: options, reading frames, asking the exits, and how figures are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from popexd.bundle import Bundle
from popexd.cli.words import share
from popexd.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from popexd.evaluation.metrics import Figures
    from popexd.evaluation.outcomes import Logits
    from popexd.lab.photos import Frames, Photo
    from popexd.quality import QualityEstimator

BundlePath = Annotated[str, typer.Argument(help="a bundle folder, or the one that ships with popexd")]
Distort = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="besides the photos as they are, add each once more with every one of these, such as blur-15,noise-20; a "
        "class such as blurred is all of its own, NAME=blur-65+noise-40 is a class of yours",
    ),
]
Samples = Annotated[int | None, typer.Option(min=2, help="photos at most, before distortions")]
Seed = Annotated[int, typer.Option(min=0, help="of choosing photos, noise and reshuffles")]
Threads = Annotated[int, typer.Option(min=0, max=256, help="of ONNX Runtime; 0: all cores")]
AsJson = Annotated[bool, typer.Option("--json", help="for machines")]


def read_frames(bundle: Bundle, chosen: Sequence[Photo], names: Mapping[str, str], seed: int, quiet: bool) -> Frames:
    """Prepare photos, also with the distortions of those names and classes, with a progress bar. Raises InputError."""
    from popexd.lab import photos

    with bar(quiet) as progress:
        task = progress.add_task("frames", total=len(chosen))
        return photos.frames(
            chosen, bundle.input, names, seed=seed, progress=lambda done, _: progress.update(task, completed=done)
        )


def ask_exits(bundle: Bundle, frames: Frames, seen: npt.NDArray[np.str_] | None, threads: int, quiet: bool) -> Logits:
    """Run every exit on every frame, with a progress bar: unscaled logits [exits, samples, classes]."""
    from popexd.evaluation.outcomes import exit_logits

    with bar(quiet) as progress:
        task = progress.add_task("inference", total=len(frames.images))
        return exit_logits(
            bundle,
            frames.images,
            seen=None if seen is None else seen.tolist(),
            threads=threads,
            progress=lambda done: progress.update(task, completed=done),
        )


def seen_by(estimator: QualityEstimator | None, frames: Frames) -> npt.NDArray[np.str_] | None:
    """The class that the estimator gives each frame, as the daemon will; None without one."""
    from popexd.evaluation.quality_fit import seen

    return None if estimator is None else seen(estimator, frames.images)


def as_json(figures: Figures) -> dict[str, Any]:
    """Figures as they are named in `popexd.evaluation.metrics`."""
    return asdict(figures)


def of_two(before: float | None, after: float | None) -> str:
    """Write a share before and after."""
    return f"{share(before)} -> {share(after)}"


def one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    """Return the value if it is one of those. Raises InputError."""
    if value not in allowed:
        raise InputError(f"{option}: {value!r}, expected one of: {', '.join(allowed)}")
    return value


def in_unit(option: str, value: float | None) -> None:
    """Raise InputError for what is no share."""
    if value is not None and not 0 <= value <= 1:
        raise InputError(f"{option}: {value:g}, expected a number in 0..1")


def bar(quiet: bool) -> AbstractContextManager[Progress]:
    """A progress bar on standard error; none where that is no terminal, not even its empty line."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=quiet or not console.is_terminal)


def positive_seconds(option: str, milliseconds: float) -> float:
    """Turn milliseconds into seconds. Raises InputError unless they are positive and finite."""
    if not 0 < milliseconds < float("inf"):
        raise InputError(f"{option}: {milliseconds:g}, expected a positive number of milliseconds")
    return milliseconds / 1000
