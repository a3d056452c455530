"""`popexd train` and `popexd export`: from generated or own pictures to a bundle. Needs the extra `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from popexd.errors import InputError

if TYPE_CHECKING:
    from popexd.training.data import DataSet
    from popexd.training.loop import EpochReport
    from popexd.training.recipe import Recipe


def train(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints best.pt and last.pt.")],
    data: Annotated[
        str,
        typer.Option(help="'generated', torchvision:NAME, or a folder of class folders, or of train and val or test."),
    ] = "generated",
    root: Annotated[Path | None, typer.Option(help="Where a torchvision data set lies; default: OUT/root.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch its data set.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder for the prepared frames; default: OUT/data.")] = None,
    backbone: Annotated[str, typer.Option(help="See `--backbone list`.")] = "b-alexnet",
    branch: Annotated[
        list[str] | None, typer.Option(help="NAME=SEGMENT, one side branch; repeat it. See `--branch list`.")
    ] = None,
    branches: Annotated[int | None, typer.Option(min=1, help="So many, at even shares of the compute.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Start with torchvision's weights.")] = False,
    start: Annotated[Path | None, typer.Option("--from", help="A checkpoint to start with; its weights fit.")] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Train the branches only, on the backbone as it is.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, max=10_000)] = 40,
    main_epochs: Annotated[int, typer.Option(min=0, help="Of these, for the main branch alone, at first.")] = 0,
    patience: Annotated[int, typer.Option(min=0, help="End after so many without a better one; 0: never.")] = 0,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Frames in all; default: 24,000 generated ones, all of a folder.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the frames and of the run.")] = 2021,
    batch: Annotated[int, typer.Option(min=2, max=4096)] = 64,
    optimiser: Annotated[str, typer.Option(help="adamw, adam, sgd.")] = "adamw",
    learning_rate: Annotated[float, typer.Option(min=1e-7, max=10.0)] = 2e-3,
    weight_decay: Annotated[float, typer.Option(min=0.0, max=10.0)] = 2e-2,
    weighting: Annotated[str, typer.Option(help="Of the exits' losses: decreasing, equal, increasing.")] = "decreasing",
    weights: Annotated[str | None, typer.Option(help="Or their weights, one per exit: 1.0,0.3.")] = None,
    augmentation: Annotated[
        str | None, typer.Option(help="turns, photo, none; default: turns where frames are generated, else photo.")
    ] = None,
    distort: Annotated[str, typer.Option(help="Distortions, one of which each frame gets: clear,blurred.")] = "",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 where the machine has it.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, max=256, help="0: as many as there are cores.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last whole epoch in OUT.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line per epoch.")] = False,
) -> None:
    """Train an early-exit network with the joint loss of all its exits."""
    from popexd.training.recipe import Recipe
    from popexd.training.sources import GENERATED

    if branch and branches:
        raise InputError(f"--branches: {branches}, expected it alone or --branch, not both")
    recipe = Recipe(
        backbone=backbone,
        branches=",".join(branch or ()) or (str(branches) if branches else ""),
        epochs=epochs,
        main_epochs=main_epochs,
        seed=seed,
        batch=batch,
        optimiser=optimiser,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        weighting=weights or weighting,
        augmentation=augmentation or ("turns" if data == GENERATED else "photo"),
        precision=precision,
        freeze=freeze,
        patience=patience,
        distort=distort,
    )
    recipe.check()
    if freeze and start is None and not pretrained:
        raise InputError("--freeze: nothing to freeze, expected --from CHECKPOINT or --pretrained beside it")
    _check_place(out, resume)
    frames = _prepare(cache or out / "data", data, samples, recipe, as_json)
    _fit(out, frames, recipe, start, threads, resume, as_json)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a training run.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle there is replaced.")],
    name: Annotated[str, typer.Option(help="Name of the model.")] = "conveyor-b-alexnet",
    cache: Annotated[
        Path | None, typer.Option(help="The prepared frames; default: where they were trained on.")
    ] = None,
    allowance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the frames leaving at a branch that may be lost.")
    ] = 0.005,
    codec_frames: Annotated[int, typer.Option(min=1, help="Held-out frames the codecs are measured on.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print the bundle's validation summary as JSON.")] = False,
) -> None:
    """Export a checkpoint as a bundle of ONNX segments, checked against torch, with its validation and codec tables."""
    from popexd.training.export import export as write_bundle

    console = Console(stderr=True, quiet=as_json)
    with console.status("reading") as status:
        bundle = write_bundle(
            checkpoint,
            out,
            name=name,
            cache=cache,
            allowance=allowance,
            codec_frames=codec_frames,
            on_step=status.update,
        )
    summary = bundle.facts["validation"]
    if as_json:
        typer.echo(json.dumps({"bundle": str(out), "fingerprint": bundle.fingerprint, **summary}))
        return
    Console().print(_summary_table(bundle.thresholds, summary))
    typer.echo(f"{out}: {bundle.name}, fingerprint {bundle.fingerprint[:16]}")


def _check_place(out: Path, resume: bool) -> None:
    """Refuse a place that cannot be used before minutes go into preparing frames."""
    last = out / "last.pt"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {out} is a file, expected a folder")
    if resume and not last.is_file():
        raise InputError(f"--resume: {last} is not there, expected a run to go on with")
    if not resume and last.exists():
        raise InputError(f"--out: {last} is already there, expected --resume or another folder")


def _prepare(cache: Path, source: str, samples: int | None, recipe: Recipe, quiet: bool) -> DataSet:
    from popexd.training import data as frames
    from popexd.training.backbones import chain

    side = chain(recipe.backbone, 2).side
    with Progress(console=Console(stderr=True, quiet=quiet), transient=True) as progress:
        task = progress.add_task("frames", total=None)
        return frames.prepare(
            cache,
            source,
            samples,
            recipe.seed,
            side,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _fit(
    out: Path, data: DataSet, recipe: Recipe, start: Path | None, threads: int, resume: bool, as_json: bool
) -> None:
    from popexd.training.loop import fit

    with Progress(console=Console(stderr=True, quiet=as_json), transient=True) as progress:
        task = progress.add_task("epoch", total=None)

        def on_epoch(report: EpochReport) -> None:
            if as_json:
                typer.echo(json.dumps(_as_dict(report)))
            else:
                shown = "  ".join(f"{name} {share:.1%}" for name, share in report.accuracy.items())
                mark = "  best" if report.best else ""
                progress.console.print(
                    f"epoch {report.epoch + 1:3d}  loss {report.loss:.3f}  {shown}  {report.seconds:.0f} s{mark}"
                )

        best = fit(
            data,
            out,
            recipe,
            start=start,
            threads=threads,
            resume=resume,
            on_epoch=on_epoch,
            on_step=lambda step, steps: progress.update(task, completed=step, total=steps),
        )
    if not as_json:
        typer.echo(f"{best}: next, popexd export {best} --out BUNDLE_DIR")


def _as_dict(report: EpochReport) -> dict[str, Any]:
    return {
        "epoch": report.epoch + 1,
        "loss": report.loss,
        "accuracy": report.accuracy,
        "best": report.best,
        "seconds": report.seconds,
    }


def _summary_table(thresholds: dict[str, float], summary: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("exit", "threshold", "accuracy alone", "share", "accuracy where taken")
    for name, alone in summary["accuracy"].items():
        taken = summary["accuracy_where_taken"].get(name)
        threshold = thresholds.get(name)
        table.add_row(
            name,
            "" if threshold is None else f"{threshold:.3f}",
            f"{alone:.1%}",
            f"{summary['shares'][name]:.1%}",
            "" if taken is None else f"{taken:.1%}",
        )
    table.caption = f"{summary['samples']} held-out frames; with exits {summary['joint_accuracy']:.1%}"
    return table
