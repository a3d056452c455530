"""`popexd reproduce`: the seed paper's figures as data and pictures, beside what the paper says of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from popexd.cli import evaluated as shared
from popexd.cli.words import printable
from popexd.errors import InputError, ProfileError

if TYPE_CHECKING:
    from popexd.lab.reproduction.figure import Fact, Figure

ALL = "all"
FROM_A_PROFILE = ("3", "4")
FROM_PHOTOS = ("5", "6", "7", "jnca")
FIGURES = (*FROM_A_PROFILE, *FROM_PHOTOS)
NEEDS_PHOTOS = "photos are missing, expected --data FOLDER (one folder of photos per class of --bundle) or generated"


def reproduce(
    figure: Annotated[str, typer.Argument(help=f"{', '.join(FIGURES)}, or all that can be made")] = ALL,
    profile: Annotated[
        Path | None, typer.Option(help="3, 4: a layer profile (popexd profile); without it: a synthetic B-AlexNet")
    ] = None,
    links: Annotated[
        str, typer.Option(help="3, 4: popex (1.1, 5.5, 18.8 Mbit/s) or dads (1.1, 5.85, 18.88)")
    ] = "popex",
    at_cut: Annotated[
        str, typer.Option(help="3, 4: a branch right at the cut: either, skip (the authors' code) or run")
    ] = "either",
    codecs: Annotated[
        bool, typer.Option("--codecs", help="3, 4: ship with the codecs of --profile, not as raw float32")
    ] = False,
    data: Annotated[str | None, typer.Option(help="5 to jnca: photos as evaluate takes them, or 'generated'")] = None,
    bundle: Annotated[str, typer.Option(help="5 to jnca: the model that looks at the photos")] = "default",
    images: Annotated[int, typer.Option(min=4, max=100_000, help="5: how many photos; the paper took 48")] = 48,
    samples: Annotated[int, typer.Option(min=40, max=100_000, help="6, 7, jnca: how many photos at most")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="which photos are drawn")] = 1,
    out: Annotated[Path, typer.Option(help="folder for the data (JSON, CSV) and the pictures")] = Path("reproduction"),
    formats: Annotated[
        str, typer.Option("--format", metavar="NAME,...", help="pictures: png, svg, pdf (extra: plot), or none")
    ] = "png",
    facts: Annotated[bool, typer.Option("--facts", help="compare with what the paper says, write nothing")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for machines: figures, facts and files")] = False,
) -> None:
    """Make FIGURE, or all that can be made of what is given, and say what is as in the paper."""
    pictures = () if facts else _formats(formats, out)
    wanted = _wanted(figure, data)
    made: list[Figure] = []
    if set(wanted) & set(FROM_A_PROFILE):
        made += _from_a_profile(wanted, profile, links, at_cut, codecs=codecs)
    if data is not None and set(wanted) & set(FROM_PHOTOS):
        made += _from_photos(wanted, data, bundle, (images, samples), seed, quiet=as_json)
    left_out = {} if figure != ALL else {name: NEEDS_PHOTOS for name in FIGURES if name not in wanted}
    files: list[Path] = []
    if not facts:
        from popexd.lab.reproduction.files import write

        files = write(out, made, pictures)
    if as_json:
        found = {"figures": [each.to_json() for each in made], "left_out": left_out, "files": [str(f) for f in files]}
        print(json.dumps(found, indent=1))
    else:
        drawn = {each.name: each.source for each in made if each.name in FROM_PHOTOS}
        _show([fact for each in made for fact in each.facts], drawn, left_out, files)


def _wanted(figure: str, data: str | None) -> tuple[str, ...]:
    if figure not in (*FIGURES, ALL):
        raise InputError(f"figure: {figure!r}, expected one of: {', '.join(FIGURES)}, {ALL}")
    if figure in FROM_PHOTOS and data is None:
        raise InputError(f"figure {figure}: {NEEDS_PHOTOS}")
    if figure != ALL:
        return (figure,)
    return FIGURES if data is not None else FROM_A_PROFILE


def _formats(text: str, out: Path) -> tuple[str, ...]:
    """Read `--format`; what cannot be drawn, or written into `out`, is complained about before any work."""
    from popexd.lab.pictures import FORMATS, check_extra, check_folder

    check_folder("--out", out)
    if text == "none":
        return ()
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in chosen:
        if name not in FORMATS:
            raise InputError(f"--format: {name!r}, expected some of: {', '.join(FORMATS)}, or none")
    check_extra("--format", ", or none")
    return chosen


def _from_a_profile(
    wanted: Iterable[str], profile: Path | None, links: str, at_cut: str, *, codecs: bool
) -> list[Figure]:
    from popexd.lab.reproduction.figure_3 import figure_3
    from popexd.lab.reproduction.figure_4 import figure_4
    from popexd.lab.reproduction.partition import LINKS, SYNTHETIC
    from popexd.profile import LayerGraph
    from popexd.solvers.shortest_path import AT_CUT

    if links not in LINKS:
        raise InputError(f"--links: {links!r}, expected one of: {', '.join(LINKS)}")
    if at_cut not in AT_CUT:
        raise InputError(f"--at-cut: {at_cut!r}, expected one of: {', '.join(AT_CUT)}")
    graph = LayerGraph.load(profile or SYNTHETIC)
    if codecs and not graph.codecs:
        raise InputError("--codecs: the profile has none, expected --profile with one that popexd profile wrote")
    if profile is not None:
        graph = replace(graph, model=f"{graph.model} ({profile.name}{', with its codecs' if codecs else ''})")
    makers = {"3": figure_3, "4": figure_4}
    try:
        return [makers[name](graph, LINKS[links], at_cut, codecs=codecs) for name in wanted if name in makers]
    except ProfileError as error:
        raise ProfileError(f"{profile}: {error}") from error


def _from_photos(
    wanted: Collection[str], data: str, bundle: str, counts: tuple[int, int], seed: int, *, quiet: bool
) -> list[Figure]:
    from popexd import bundle as bundles
    from popexd.lab.reproduction.figure_5 import BLURS, figure_5
    from popexd.lab.reproduction.figures_6_7 import figures_6_7
    from popexd.lab.reproduction.jnca import figure_jnca
    from popexd.lab.reproduction.photos import draw_photos

    loaded = bundles.load(bundle)
    images, samples = counts
    blurred, calibrated, later = "5" in wanted, bool({"6", "7"} & set(wanted)), "jnca" in wanted
    made: list[Figure] = []
    with shared.bar(quiet) as bar:
        task = bar.add_task("looking for photos", total=None)
        photos = draw_photos(data, loaded, max(images * blurred, samples * (calibrated or later)), seed)
        if blurred:
            few = photos.first(images)
            bar.reset(task, total=len(few.chosen) * (1 + len(BLURS)), description="figure 5")
            made.append(figure_5(loaded, few, progress=lambda done: bar.update(task, completed=done)))
        if calibrated:
            many = photos.first(samples)
            bar.reset(task, total=len(many.chosen), description="figures 6, 7")
            pair = figures_6_7(loaded, many, progress=lambda done: bar.update(task, completed=done))
            made += [each for each in pair if each.name in wanted]
        if later:
            many = photos.first(samples)
            bar.reset(task, total=len(many.chosen), description="figure jnca")
            made.append(figure_jnca(loaded, many, seed=seed, progress=lambda done: bar.update(task, completed=done)))
    return made


def _show(facts: Iterable[Fact], drawn: Mapping[str, str], left_out: Mapping[str, str], files: Iterable[Path]) -> None:
    from rich import box
    from rich.table import Table

    from popexd.cli.tables import show

    table = Table("figure", "the paper says", "found", "", box=box.SIMPLE_HEAD)
    before = ""
    for fact in facts:
        if before not in ("", fact.figure):
            table.add_section()
        table.add_row("" if fact.figure == before else fact.figure, fact.paper, printable(fact.found), fact.verdict)
        before = fact.figure
    show(table)
    for name, source in drawn.items():
        print(f"{name}: {printable(source)}")
    if left_out:
        print(f"not made: {', '.join(left_out)}: {NEEDS_PHOTOS}")
    for path in files:
        print(f"written: {path}")
