"""`popexd export`: a trained network as a bundle. Needs the extra `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from popexd.bundle import NAME, Bundle, check_place
from popexd.cli import evaluated as shared
from popexd.cli.words import lost, threshold
from popexd.errors import InputError
from popexd.evaluation.losses import Loss

Root = Annotated[
    Path | None,
    typer.Option(help="Where torchvision's data set lies, for --distort; default: root beside the frames."),
]


def export(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a training run.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle there is replaced.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; default: its backbone's.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="The prepared frames, also with other distortions; default: those trained on.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Where its pictures come from, for --distort.")] = None,
    root: Root = None,
    distort: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Measure it on frames with every one of these, in place of them as they are (clear): clear,blurred; "
            "NAME=blur-65+noise-40 is a class of yours.",
        ),
    ] = "",
    expert: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=CHECKPOINT", help="Branches for a quality class, of a --freeze run; repeat it."),
    ] = None,
    allowance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the frames leaving at a branch that may be lost.")
    ] = 0.005,
    codec_frames: Annotated[int, typer.Option(min=1, help="Held-out frames the codecs are measured on.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Print the bundle's validation summary as JSON.")] = False,
) -> None:
    """Export a checkpoint as a bundle of ONNX segments, checked against torch, with its validation and codec tables."""
    from popexd.training.export import export as write_bundle

    experts = _checked(out, name, expert or [])
    if distort:
        cache = _distorted(checkpoint, data, distort, cache, root, experts, quiet=as_json)
    with shared.bar(as_json) as progress:
        task = progress.add_task("reading", total=None)
        bundle = write_bundle(
            checkpoint,
            out,
            name=name,
            cache=cache,
            experts=experts,
            allowance=allowance,
            codec_frames=codec_frames,
            on_step=lambda step: progress.update(task, description=step),
            on_note=lambda note: progress.console.print(note, markup=False, highlight=False, soft_wrap=True),
        )
    if as_json:
        typer.echo(json.dumps({"bundle": str(out), "fingerprint": bundle.fingerprint, **bundle.facts["validation"]}))
    else:
        _show(bundle, out)


def _checked(out: Path, name: str | None, experts: list[str]) -> dict[str, Path]:
    """Refuse what cannot be written before minutes go into frames and inference; return the experts."""
    from popexd.lab.pictures import check_folder

    check_place(out)
    check_folder("--out", out.absolute().parent)
    if name is not None and not NAME.fullmatch(name):
        raise InputError(f"--name: {name!r}, expected 1 to 64 letters, digits, '_', '-', '.'")
    return _experts(experts)


def _distorted(
    checkpoint: Path,
    data: str | None,
    distort: str,
    cache: Path | None,
    root: Path | None,
    experts: dict[str, Path],
    *,
    quiet: bool,
) -> Path:
    from popexd.training.export import frames_of

    if data is None:
        raise InputError(f"--distort: {distort}: of which pictures, expected --data beside it")
    with shared.bar(quiet) as progress:
        task = progress.add_task("frames", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return frames_of(checkpoint, data, distort, cache, experts=experts, root=root, progress=show)


def _experts(words: list[str]) -> dict[str, Path]:
    found = {}
    for word in words:
        quality, equals, path = word.partition("=")
        if not quality or not equals or not path or quality in found:
            raise InputError(f"--expert: {word!r}, expected CLASS=CHECKPOINT, every class once")
        found[quality] = Path(path)
    return found


def _show(bundle: Bundle, out: Path) -> None:
    from rich.table import Table

    from popexd.cli.tables import show

    summary = bundle.facts["validation"]
    table = Table("exit", "threshold", "accuracy alone", "share", "accuracy where taken")
    thresholds = {each.name: threshold(each.threshold, each.criterion) for each in bundle.exits}
    for name, alone in summary["accuracy"].items():
        taken = summary["accuracy_where_taken"].get(name)
        table.add_row(
            name,
            thresholds.get(name, ""),
            f"{alone:.1%}",
            f"{summary['shares'][name]:.1%}",
            "" if taken is None else f"{taken:.1%}",
        )
    table.caption = f"{summary['samples']} held-out frames; with exits {summary['joint_accuracy']:.1%}"
    show(table)
    for name, loss in summary["lost"].items():
        typer.echo(f"{name} {lost(Loss(**loss))}")
    typer.echo(f"{out}: {bundle.name}, fingerprint {bundle.fingerprint[:16]}")
