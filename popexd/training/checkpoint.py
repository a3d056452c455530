"""Checkpoints of a training run: plain tensors and numbers, read without unpickling code."""

from __future__ import annotations

import io
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from popexd.errors import InputError
from popexd.folders import made
from popexd.lab import provenance
from popexd.lab.provenance import Known
from popexd.training.backbones import build
from popexd.training.data import Before, DataSet
from popexd.training.early_exit import EarlyExitNet, key_of, last_linear

SCHEMA = "popexd/checkpoint/1"


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all, in its folder, which may be new. Raises InputError where it cannot be."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with made(path.absolute().parent):
            try:
                # Into memory first: of a full disk torch's own writer only says that a position is unexpected.
                whole = io.BytesIO()
                torch.save({"schema": SCHEMA, **content}, whole)
                partial.write_bytes(whole.getbuffer())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote; nothing in it is executed. Raises InputError for anything else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a checkpoint that `popexd train` wrote")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about pickles, beside our one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file is a program for torch's unpickler: it may raise anything
        raise InputError(f"{path}: not a checkpoint that `popexd train` wrote: {_first_line(error)}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema: expected {SCHEMA!r}, a checkpoint that `popexd train` wrote")
    weights = content.get("weights")
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise InputError(f"{path}: weights: expected tensors by name, as `popexd train` writes them")
    return content


def data_of(data: DataSet) -> dict[str, Any]:
    """What a checkpoint keeps of the data that its network is trained on."""
    found: dict[str, Any] = {"folder": str(data.folder.resolve()), "facts": data.facts}
    known = data.known()
    if known is not None:
        # As int64, bit for bit: torch hardly knows uint64.
        arrays = {
            name: array.view(np.int64) if array.dtype == np.uint64 else array for name, array in known.arrays().items()
        }
        found["photos"] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return found


def facts_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the data it was trained on; nothing where it says nothing."""
    data = content.get("data")
    facts = data.get("facts") if isinstance(data, dict) else None
    return facts if isinstance(facts, dict) else {}


def known_by(content: Mapping[str, Any]) -> Known | None:
    """What the network of a checkpoint knows; None where it keeps no identities."""
    data = content.get("data")
    tensors = data.get("photos") if isinstance(data, dict) else None
    usual = (torch.int64, torch.bool)
    if not isinstance(tensors, dict) or not all(isinstance(e, Tensor) and e.dtype in usual for e in tensors.values()):
        return None
    arrays = {name: each.numpy() for name, each in tensors.items()}
    return provenance.from_arrays(
        {name: array.view(np.uint64) if array.dtype == np.int64 else array for name, array in arrays.items()}
    )


def before(path: Path, *, again: bool = False) -> Before:
    """What the run of a checkpoint says of its data, for a run that starts with it, or is it `again`."""
    content = load(path)
    return Before(str(path), facts_of(content), known_by(content), again)


def restore(content: dict[str, Any], where: Path) -> EarlyExitNet:
    """Build the net of a checkpoint with its weights, ready to evaluate. Raises InputError when they do not fit."""
    _check_finite(content, where)
    try:
        net = build(content["backbone"], len(content["classes"]), content.get("branches", ""), content.get("side", 0))
        net.load_state_dict(content["weights"])
    except (InputError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: the weights do not fit the backbone it names: {_first_line(error)}") from error
    return net.eval()


def _check_finite(content: Mapping[str, Any], where: Path) -> None:
    for name, tensor in content["weights"].items():
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: weights: {name} is not all of numbers, expected a network that did not diverge")


def warm_start(net: EarlyExitNet, path: Path, classes: Sequence[str], frozen: bool) -> None:
    """Take over the weights of the checkpoint `path` where they fit: branches elsewhere and other classes begin anew.

    Raises InputError for another architecture, and where a frozen backbone would have a new head.
    """
    content = load(path)
    if content.get("backbone") != net.backbone:
        raise InputError(f"--from: {path}: a {content.get('backbone')} checkpoint, expected {net.backbone}")
    _check_finite(content, path)
    wanted, there = net.state_dict(), _moved(net, content)
    other_classes = list(classes) != content.get("classes")
    fits = {
        name: tensor
        for name, tensor in there.items()
        if name in wanted and wanted[name].shape == tensor.shape and not (other_classes and name in _heads(net))
    }
    new = [name for name in wanted if name not in fits and name.startswith("segments.")]
    odd = [name for name in new if name not in _heads(net)]
    if odd:
        raise InputError(f"--from: {path}: {odd[0]} is not there or of another shape, expected those of {net.backbone}")
    if new and frozen:
        raise InputError(f"--freeze: {path} knows other classes, expected the same for a backbone that stays as it is")
    net.load_state_dict({**wanted, **fits})


def _moved(net: EarlyExitNet, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's weights by the names of `net`: a branch is the same where it hangs after the same segment."""
    told = [each.partition("=")[::2] for each in str(content.get("branches", "")).split(",")]
    there = {(after, name) for name, after in told}
    found = {name: each for name, each in content["weights"].items() if not name.startswith("branches.")}
    for place in net.places:
        here = sorted(name for after, name in there if after == place.after)
        # Of several after one segment, the one of that name; another name alone makes no other branch.
        old = place.name if place.name in here else here[0] if len(here) == 1 else None
        if old is not None:
            before, now = f"branches.{key_of(old)}.", f"branches.{key_of(place.name)}."
            found |= {
                now + name.removeprefix(before): each
                for name, each in content["weights"].items()
                if name.startswith(before)
            }
    return found


def _heads(net: EarlyExitNet) -> set[str]:
    """The names of the weights that give logits: each exit's last linear layer."""
    heads = {net.head, *(last_linear(branch) for branch in net.branches.values())}
    named = (name for name, module in net.named_modules() if module in heads)
    return {f"{name}.{part}" for name in named for part in ("weight", "bias")}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
