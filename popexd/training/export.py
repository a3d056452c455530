"""From a checkpoint to a bundle: ONNX segments checked against torch, calibrated exits, validation and codec tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from popexd import bundle as bundles
from popexd.bundle import Bundle
from popexd.errors import InputError
from popexd.evaluation import quality_fit
from popexd.evaluation.choosing import ALLOWANCE, RULE
from popexd.evaluation.outcomes import answers, exit_logits, exit_names
from popexd.evaluation.recalibration import Said, Wanted, recalibrated, written
from popexd.evaluation.summary import FILE, table_file
from popexd.lab.provenance import TRAINING, TUNING, VALIDATION, Known
from popexd.quality import CLEAR, QualityEstimator
from popexd.training import checkpoint, measure, onnx_files
from popexd.training.checkpoint import facts_of
from popexd.training.data import DataSet, Split, alike, prepare, reopen
from popexd.training.early_exit import EarlyExitNet, multiply_adds
from popexd.training.loop import evaluate
from popexd.training.sources import GENERATED, variants

TOLERANCE = 1e-4
"""Of logits up to 10; beyond, a hundred-thousandth of the largest: torch's own float32 is no nearer to the truth."""
PIXELS = {"channels": 3, "dtype": "uint8", "layout": "NHWC"}

Progress = Callable[[str], None]
Experts = Mapping[str, EarlyExitNet]
"""By quality class: the same backbone, with branches tuned for frames of that class."""


@dataclass(frozen=True)
class _Trained:
    """A checkpoint, its net, its experts, the frames it is measured on, and the photos all of these nets know."""

    content: dict[str, Any]
    net: EarlyExitNet
    experts: Experts
    data: DataSet
    known: Known | None


def export(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    cache: Path | None = None,
    experts: Mapping[str, Path] | None = None,
    allowance: float = ALLOWANCE,
    codec_frames: int = 512,
    on_step: Progress | None = None,
    on_note: Progress | None = None,
) -> Bundle:
    """Turn the checkpoint `source` into a bundle at `out`, whole or not at all.

    Temperatures, thresholds (see `choosing.reliable`) and, where frames of several quality classes are there, the
    estimator of these come from the tuning split; all that is reported is measured on the validation split. `cache` is
    the prepared data, by default where the checkpoint says; it may hold the same frames with other distortions.
    `experts` are checkpoints of branches for a quality class, on the same backbone. `on_note` is told what the bundle
    lacks, and why. Raises InputError.
    """
    say = on_step or (lambda step: None)  # noqa: ARG005 - a silent progress
    bundles.check_place(Path(out))
    trained = _opened(Path(source), cache, experts or {})
    say("quality of the frames")
    estimator = _estimator(trained, on_note)
    say("answers")
    tuning, validation = (_said(trained, split, estimator) for split in ("tuning", "validation"))
    with tempfile.TemporaryDirectory() as scratch:
        draft = _draft(Path(scratch) / "draft", name or _name_of(trained), trained, estimator, validation, say)
        say("codecs")
        held_out = trained.data.split("validation")
        codecs = measure.codec_table(
            trained.net, held_out, codec_frames, lambda done, of: say(f"codecs, frame {done} of {of}")
        )
        say("check against torch")
        facts = _training_facts(trained, allowance) | {
            "codec_frames": min(codec_frames, len(held_out)),
            "largest_difference_to_torch": _compare(trained, draft, held_out),
        }
        draft = replace(draft, facts={**draft.facts, "codecs": codecs, "training": facts})
        wanted = Wanted(thresholds="reliable", allowance=allowance)
        calibrated, learned = recalibrated(draft, tuning, wanted)
        method = _method(wanted, tuning, learned.to_json(exit_names(calibrated)))
        natural = held_out.quality == CLEAR if trained.data.facts.get("distort") else None
        known = None if trained.known is None else trained.known.arrays()
        return written(Path(out), calibrated, validation, method=method, source=draft, natural=natural, known=known)[0]


def _method(wanted: Wanted, tuning: Said, learned: Mapping[str, Any]) -> dict[str, Any]:
    """How the bundle was calibrated, for bundle.json."""
    return {
        "method": wanted.method,
        "samples_of": wanted.samples_of,
        "thresholds": wanted.thresholds,
        "frames": len(tuning.label),
        **learned,
    }


def _draft(
    folder: Path, name: str, trained: _Trained, estimator: QualityEstimator | None, said: Said, say: Progress
) -> Bundle:
    """Write the bundle as it is before calibration, to try its files out."""
    say("segments")
    net = trained.net
    described, files = _segments(trained)
    plain = answers(net.exits, said.logits, said.label, quality=said.quality)
    facts: dict[str, Any] = {
        "schema": bundles.SCHEMA,
        "name": name,
        "classes": list(trained.data.classes),
        "input": {"name": "input", "height": net.side, "width": net.side, **PIXELS},
        **described,
        **({} if estimator is None else {"quality": estimator.to_json()}),
        "codecs": {},
        "validation": {"file": FILE},
    }
    return bundles.write(folder, facts, {**files, FILE: table_file(plain)})


def _opened(source: Path, cache: Path | None, experts: Mapping[str, Path]) -> _Trained:
    content = checkpoint.load(source)
    try:
        folder = Path(cache or content["data"]["folder"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{source}: data: missing, expected the data set the checkpoint was trained on") from error
    return _checked(source, content, experts, reopen(folder))


def _checked(source: Path, content: dict[str, Any], experts: Mapping[str, Path], data: DataSet) -> _Trained:
    """Put together what fits together; the frames of `data` need not be there yet."""
    net, known = checkpoint.restore(content, source), checkpoint.known_by(content)
    nets = {}
    for quality, path in experts.items():
        own = checkpoint.load(path)
        nets[quality] = checkpoint.restore(own, path)
        _check_expert(net, nets[quality], path)
        known = _check_learned(content, own, path, known)
    # Other distortions of the same frames, split alike, are as good to measure on: none of them was learned.
    if not alike(data.facts, facts_of(content)):
        raise InputError(f"{data.folder}: holds other data than {source} was trained on, expected the same")
    return _Trained(content, net, nets, data, known)


def _name_of(trained: _Trained) -> str:
    generated = trained.data.facts.get("source") == GENERATED
    return f"conveyor-{trained.net.backbone}" if generated else trained.net.backbone


def _check_expert(net: EarlyExitNet, expert: EarlyExitNet, path: Path) -> None:
    own, other = net.segments.state_dict(), expert.segments.state_dict()
    same = own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)
    if not same or expert.places != net.places:
        raise InputError(
            f"--expert: {path}: another backbone or other branches, expected a run with --freeze --from the checkpoint"
        )


def _check_learned(content: dict[str, Any], expert: dict[str, Any], path: Path, known: Known | None) -> Known | None:
    """Raise InputError where an expert was trained on frames to measure it on; else return what is `known` then."""
    own, mine = checkpoint.known_by(expert), checkpoint.known_by(content)
    if own is None or mine is None or known is None:
        if not alike(facts_of(content), facts_of(expert)):
            raise InputError(f"--expert: {path}: trained on other data or another split, expected the checkpoint's")
        return None
    held_out = mine.splits[TUNING] | mine.splits[VALIDATION]
    learned = len(held_out & own.splits[TRAINING])
    if learned:
        raise InputError(
            f"--expert: {path}: trained on {learned} of the {len(held_out)} frames that are held out here, expected "
            "the checkpoint's split: a run with --freeze --from it"
        )
    return known.joined(own)


def frames_of(
    source: Path,
    data: str,
    distort: str,
    cache: Path | None = None,
    *,
    experts: Mapping[str, Path] | None = None,
    root: Path | None = None,
    progress: Any = None,
) -> Path:
    """Prepare the frames of the checkpoint `source` once more with other distortions; return where they are.

    `data` is where the checkpoint's came from; `experts` are those it will be exported with. What does not fit is
    refused before a frame is prepared. Raises InputError.
    """
    content, wanted = checkpoint.load(source), experts or {}
    folder, facts = cache or Path(source).parent / f"data-{distort or 'clear'}", facts_of(content)
    made = {*variants(distort).values()}
    for quality in wanted:
        if quality not in made:
            raise InputError(f"--expert: {quality}: no such quality class, expected one of {', '.join(sorted(made))}")
    return prepare(
        folder,
        data,
        facts.get("limit"),
        int(facts.get("seed", 0)),
        int(facts.get("side", 0)),
        distort=distort,
        root=root,
        before=checkpoint.before(source, again=True),
        progress=progress,
        check=lambda planned: _checked(source, content, wanted, planned),
    ).folder


def _estimator(trained: _Trained, note: Progress | None) -> QualityEstimator | None:
    """Fit the estimator to frames of the tuning split; None where they are all of one class, or too few of one."""
    tuning, validation = trained.data.split("tuning"), trained.data.split("validation")
    names, counts = np.unique(quality_fit.visible(tuning.quality), return_counts=True)
    if names.size < 2:
        if trained.experts:
            raise InputError(
                f"--expert: {trained.data.folder} holds {', '.join(names)}, expected frames of the experts' classes too"
            )
        return None
    few = [f"{count} {name}" for name, count in zip(names, counts, strict=True) if count < quality_fit.LEAST_FRAMES]
    if few:
        told = f"{', '.join(few)} among the frames to tune on, expected at least {quality_fit.LEAST_FRAMES} of a class"
        if trained.experts:
            raise InputError(f"--expert: {trained.data.folder}: {told}")
        if note is not None:
            note(f"no quality estimator and no classes: {told}")
        return None
    unknown = set(trained.experts) - {*names.tolist()}
    if unknown:
        raise InputError(f"--expert: {min(unknown)}: no such quality class, expected one of {', '.join(names)}")
    fitted = quality_fit.fit_frames(tuning.images, tuning.quality).estimator
    truth = quality_fit.visible(validation.quality)
    known = np.isin(truth, fitted.classes)
    measured = quality_fit.measure(image for image, there in zip(validation.images, known, strict=True) if there)
    return quality_fit.agree(fitted, measured, truth[known]).estimator


def _said(trained: _Trained, name: str, estimator: QualityEstimator | None) -> Said:
    """What every exit says of a split, the experts of the frames that are seen to be theirs."""
    split = trained.data.split(name)
    seen = None if estimator is None else quality_fit.seen(estimator, split.images)
    logits = evaluate(trained.net, split.images)
    for quality, expert in trained.experts.items():
        own = np.zeros(len(split), dtype=bool) if seen is None else np.asarray(seen == quality)
        if own.any():
            logits[:, own] = evaluate(expert, split.images[own])
    return Said(logits, split.labels, split.quality, seen, split.photo)


def _segments(trained: _Trained) -> tuple[dict[str, Any], dict[str, bytes]]:
    net = trained.net
    pixels = torch.zeros(1, net.side, net.side, 3, dtype=torch.uint8)
    with torch.inference_mode():
        _, outputs = net.resume("input", pixels)
    models = onnx_files.files_of(net, pixels)
    files = {f"segments/{name}.onnx": model for name, model in models.items()}
    segments = [
        {
            "name": name or _name_of(trained),
            "file": f"segments/{name}.onnx",
            "after": [before],
            "output": {"shape": list(outputs[name].shape), "dtype": "float32"},
        }
        for before, name in zip(("input", *net.names), net.names, strict=False)
    ]
    exits: list[dict[str, Any]] = [
        {
            "name": place.name,
            "after": place.after,
            "file": f"segments/{place.name}.onnx",
            "temperature": 1.0,
            "threshold": 0.9,
            "criterion": "confidence",
        }
        for place in net.places
    ]
    for quality, expert in trained.experts.items():
        tuned = onnx_files.files_of(expert, pixels)
        for entry in exits:
            file = f"segments/{entry['name']}@{quality}.onnx"
            files[file] = tuned[entry["name"]]
            entry.setdefault("by_quality", {})[quality] = {"file": file}
    return {"segments": segments, "exits": exits}, files


def _compare(trained: _Trained, draft: Bundle, validation: Split, frames: int = 16) -> float:
    """Run the written files in a chain beside torch and return the largest difference of any logit at any exit."""
    images: npt.NDArray[np.uint8] = np.array(validation.images[:frames])
    largest = 0.0
    for quality, net in {CLEAR: trained.net, **trained.experts}.items():
        found, expected = exit_logits(draft, images, seen=[quality] * len(images), threads=1), evaluate(net, images)
        for name, own, other in zip(net.exits, found, expected, strict=True):
            difference, allowed = float(np.abs(own - other).max()), TOLERANCE * max(1, float(np.abs(other).max()) / 10)
            largest = max(largest, difference)
            if not difference <= allowed:
                raise InputError(
                    f"export: exit {name} differs by {difference:.2g} from torch, expected at most {allowed:.2g}"
                )
    return largest


def _training_facts(trained: _Trained, allowance: float) -> dict[str, Any]:
    content, facts = trained.content, trained.data.facts
    found = {
        "backbone": content["backbone"],
        "parameters": sum(parameter.numel() for parameter in trained.net.parameters()),
        "multiply_adds": multiply_adds(trained.net),
        "data": {key: value for key, value in facts.items() if key not in ("schema", "classes")},
        "recipe": content["recipe"],
        "best_epoch": content["epoch"] + 1,
        "seconds": round(content["seconds"]),
        "threshold_rule": f"{RULE.format(allowance)}; on frames not chosen on: validation.lost",
        "torch": torch.__version__,
    }
    if trained.experts:
        found["experts"] = sorted(trained.experts)
    return found
