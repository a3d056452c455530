"""`popexd train`: an early-exit network from generated or own pictures. Needs the extra `train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from popexd.cli import evaluated as shared
from popexd.errors import InputError

if TYPE_CHECKING:
    from popexd.training.data import Before, DataSet
    from popexd.training.loop import EpochReport
    from popexd.training.recipe import Recipe

Out = Annotated[Path, typer.Option(help="Folder for the checkpoints best.pt and last.pt.")]
Data = Annotated[
    str, typer.Option(help="'generated', torchvision:NAME, or a folder of class folders, also under train, val, test.")
]
Root = Annotated[Path | None, typer.Option(help="Where torchvision's data set lies; default: OUT/root.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision fetch its data set.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for the prepared frames; default: OUT/data.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Frames in all; default: 24,000 generated ones, else all.")]
Distort = Annotated[
    str,
    typer.Option(
        metavar="NAME,...",
        help="In place of the photos as they are (clear), each with every one: clear,blurred,noise-20; "
        "NAME=blur-65+noise-40 is a class of yours.",
    ),
]
Backbone = Annotated[
    str, typer.Option(help="b-alexnet[-cifar|-tiny], alexnet, mobilenet-v2, mobilenet-v3-small, … (see the docs).")
]
Branch = Annotated[
    list[str] | None, typer.Option(metavar="NAME=SEGMENT", help="A side branch, after that segment; repeat it.")
]
Branches = Annotated[int | None, typer.Option(min=1, help="So many branches, at even shares of the compute.")]
Side = Annotated[int, typer.Option(min=0, help="Of the square frames; 0: the backbone's own.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Start with torchvision's weights.")]
Start = Annotated[Path | None, typer.Option("--from", help="A checkpoint to start with: its weights where they fit.")]
Freeze = Annotated[
    bool, typer.Option("--freeze", help="Train what is new only: branches, and the end's last layer if --pretrained.")
]
Epochs = Annotated[int | None, typer.Option(min=1, max=10_000, help="Default: 40, with --resume the run's own.")]
MainEpochs = Annotated[int, typer.Option(min=0, help="Of these, for the main branch alone, at first.")]
Patience = Annotated[int, typer.Option(min=0, help="End after so many epochs without a better one; 0: never.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the frames and of the run.")]
Batch = Annotated[int, typer.Option(min=2, max=4096)]
Optimiser = Annotated[str, typer.Option(help="adamw, adam, sgd.")]
LearningRate = Annotated[float, typer.Option(min=1e-7, max=10.0)]
WeightDecay = Annotated[float, typer.Option(min=0.0, max=10.0)]
Weighting = Annotated[str, typer.Option(help="Of the exits' losses: decreasing, equal, increasing.")]
Weights = Annotated[str | None, typer.Option(metavar="W,...", help="Or one for each exit, the final last: 1.0,0.3.")]
Augmentation = Annotated[str | None, typer.Option(help="turns, photo, none; default: turns if generated, else photo.")]
Precision = Annotated[str, typer.Option(help="float32, or bfloat16 where the machine has it.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda.")]
Threads = Annotated[int, typer.Option(min=0, max=256, help="0: as many as there are cores.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on after the last whole epoch in OUT, with as many --epochs or more.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON line per epoch.")]


def train(
    out: Out,
    data: Data = "generated",
    root: Root = None,
    download: Download = False,
    cache: Cache = None,
    samples: Samples = None,
    distort: Distort = "",
    backbone: Backbone = "b-alexnet",
    branch: Branch = None,
    branches: Branches = None,
    side: Side = 0,
    pretrained: Pretrained = False,
    start: Start = None,
    freeze: Freeze = False,
    epochs: Epochs = None,
    main_epochs: MainEpochs = 0,
    patience: Patience = 0,
    seed: Seed = 2021,
    batch: Batch = 64,
    optimiser: Optimiser = "adamw",
    learning_rate: LearningRate = 2e-3,
    weight_decay: WeightDecay = 2e-2,
    weighting: Weighting = "decreasing",
    weights: Weights = None,
    augmentation: Augmentation = None,
    precision: Precision = "float32",
    device: Device = "auto",
    threads: Threads = 0,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train an early-exit network with the joint loss of all its exits."""
    # So many that they go on together: those that bear a name of the recipe's fields decide the run.
    options = dict(locals())
    recipe = _recipe(options)
    if freeze and start is None and not pretrained and not resume:
        raise InputError("--freeze: nothing to freeze, expected --from CHECKPOINT or --pretrained beside it")
    _check_apart(data, out, cache)
    if pretrained and start is not None:
        raise InputError("--pretrained: together with --from, expected one of them to start with")
    _check_place(out, resume)
    if resume:
        _check_recipe(out, recipe)
    if recipe.new_head and not as_json:
        typer.echo("--freeze: the last layer is new with --pretrained: it learns too, with the branches", err=True)
    _fit(options, _prepare(options, recipe), recipe)


def _recipe(options: Mapping[str, Any]) -> Recipe:
    from dataclasses import fields

    from popexd.training.loop import chosen_device
    from popexd.training.recipe import Recipe

    if options["branch"] and options["branches"]:
        raise InputError(f"--branches: {options['branches']}, expected it or --branch, not both")
    chosen_device(options["device"])
    usual = "turns" if options["data"] == "generated" else "photo"
    found = {each.name: options[each.name] for each in fields(Recipe)} | {
        "branches": ",".join(options["branch"] or ()) or str(options["branches"] or ""),
        "epochs": options["epochs"] or _usual_epochs(options["out"], options["resume"]),
        "weighting": options["weights"] or options["weighting"],
        "augmentation": options["augmentation"] or usual,
    }
    recipe = Recipe(**found)
    recipe.check()
    return recipe


def _usual_epochs(out: Path, resume: bool) -> int:
    from popexd.training import checkpoint, loop
    from popexd.training.recipe import Recipe

    last = out / loop.LAST
    own = checkpoint.load(last).get("recipe") if resume and last.is_file() else None
    began = own.get("epochs") if isinstance(own, dict) else None
    return began if isinstance(began, int) else Recipe.epochs


def _check_place(out: Path, resume: bool) -> None:
    """Refuse a place that cannot be used before minutes go into preparing frames."""
    from popexd.lab.pictures import check_folder

    last = out / "last.pt"
    check_folder("--out", out)
    if resume and not last.is_file():
        raise InputError(f"--resume: {last} is not there, expected a run to go on with")
    if not resume and last.exists():
        raise InputError(f"--out: {last} is already there, expected --resume or another folder")


def _check_apart(data: str, out: Path, cache: Path | None) -> None:
    """Refuse to write among the photos: the next run would take it for a class of theirs."""
    from popexd.lab.photos import given_parts

    place = Path(data)
    if not place.is_dir():
        return
    roots = {each.resolve() for each in given_parts(place).values() or [place]}
    for option, folder in (("--out", out), ("--cache", cache)):
        if folder is not None and roots & {folder.resolve(), *folder.resolve().parents}:
            raise InputError(f"{option}: {folder} is among the photos of {place}, expected another folder")


def _check_recipe(out: Path, recipe: Recipe) -> None:
    from popexd.training import loop

    loop.check_recipe(out / loop.LAST, recipe)


def _prepare(options: Mapping[str, Any], recipe: Recipe) -> DataSet:
    from popexd.training import data as frames
    from popexd.training import loop

    side = recipe.net(2, weights=False).side
    with shared.bar(options["as_json"]) as progress:
        task = progress.add_task("frames", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        def check(data: DataSet) -> None:
            run = {name: options[name] for name in ("start", "device", "resume")}
            loop.check(data, options["out"], recipe, **run)

        return frames.prepare(
            options["cache"] or options["out"] / "data",
            options["data"],
            options["samples"],
            recipe.seed,
            side,
            distort=options["distort"],
            root=options["root"],
            download=options["download"],
            before=_before(options),
            progress=show,
            check=check,
        )


def _before(options: Mapping[str, Any]) -> Before | None:
    """What the run that this one goes on with, or starts with, says of its data."""
    from popexd.training import checkpoint

    if options["resume"]:
        return checkpoint.before(options["out"] / "last.pt", again=True)
    return None if options["start"] is None else checkpoint.before(options["start"])


def _fit(options: Mapping[str, Any], data: DataSet, recipe: Recipe) -> None:
    from popexd.training.loop import fit

    as_json = options["as_json"]
    with shared.bar(as_json) as progress:
        task = progress.add_task("epoch", total=None)

        ran: list[int] = []

        def on_epoch(report: EpochReport) -> None:
            ran.append(report.epoch)
            if as_json:
                typer.echo(json.dumps(_as_dict(report)))
            else:
                shown = "  ".join(f"{name} {share:.1%}" for name, share in report.accuracy.items())
                mark = "  best" if report.best else ""
                progress.console.print(
                    f"epoch {report.epoch + 1:3d}  loss {_loss(report.loss)}  {shown}  {report.seconds:.0f} s{mark}",
                    soft_wrap=True,
                )

        best = fit(
            data,
            options["out"],
            recipe,
            start=options["start"],
            threads=options["threads"],
            device=options["device"],
            resume=options["resume"],
            on_epoch=on_epoch,
            on_step=lambda step, steps: progress.update(task, completed=step, total=steps),
        )
    if not as_json:
        if not ran:
            typer.echo(_nothing_left(options["out"], recipe))
        typer.echo(f"{best}: next, popexd export {best} --out BUNDLE_DIR")


def _loss(value: float) -> str:
    return f"{value:.3f}" if value < 1e4 else f"{value:.3g}"


def _nothing_left(out: Path, recipe: Recipe) -> str:
    """Say why a run that goes on had no epoch to go."""
    from popexd.training import checkpoint, loop

    done = checkpoint.load(out / loop.LAST)["epoch"] + 1
    if done >= recipe.epochs:
        return f"--resume: all epochs ({done}) are done already, more with --epochs"
    return f"--resume: ended after {done} epochs, none better in {recipe.patience}, more with --patience"


def _as_dict(report: EpochReport) -> dict[str, Any]:
    return {
        "epoch": report.epoch + 1,
        "loss": report.loss,
        "accuracy": report.accuracy,
        "best": report.best,
        "seconds": report.seconds,
    }
