"""Checkpoints of a training run: plain tensors and numbers, read without unpickling code."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path
from typing import Any

import torch

from popexd.errors import InputError
from popexd.training.backbones import build
from popexd.training.early_exit import EarlyExitNet

SCHEMA = "popexd/checkpoint/1"


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all. Raises InputError when the place cannot be written."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        torch.save({"schema": SCHEMA, **content}, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save` wrote; nothing in it is executed. Raises InputError for anything else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a checkpoint that `popexd train` wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first_line = (str(error).splitlines() or ["unreadable"])[0][:100]
        raise InputError(f"{path}: not a checkpoint that `popexd train` wrote: {first_line}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema: expected {SCHEMA!r}, a checkpoint that `popexd train` wrote")
    return content


def restore(content: dict[str, Any], where: Path) -> EarlyExitNet:
    """Build the net of a checkpoint with its weights, ready to evaluate. Raises InputError when they do not fit."""
    try:
        net = build(content["backbone"], len(content["classes"]), content.get("branches", ""), content.get("side", 0))
        net.load_state_dict(content["weights"])
    except (KeyError, TypeError, RuntimeError) as error:
        first_line = str(error).splitlines()[0][:100]
        raise InputError(f"{where}: the weights do not fit the backbone it names: {first_line}") from error
    return net.eval()


def warm_start(net: EarlyExitNet, path: Path, frozen: bool) -> None:
    """Take over the weights of the checkpoint `path` where they fit: branches elsewhere and other classes begin anew.

    Raises InputError for another architecture, and where a frozen backbone would have a new head.
    """
    content = load(path)
    if content.get("backbone") != net.backbone:
        raise InputError(f"--from: {path}: a {content.get('backbone')} checkpoint, expected {net.backbone}")
    found, wanted = content["weights"], net.state_dict()
    fits = {name: tensor for name, tensor in found.items() if name in wanted and wanted[name].shape == tensor.shape}
    new = [name for name in wanted if name not in fits and name.startswith("segments.")]
    last = f"segments.{list(net.segments)[-1]}."
    if any(not name.startswith(last) for name in new):
        raise InputError(f"--from: {path}: {new[0]} is of another shape, expected the weights of a {net.backbone}")
    if new and frozen:
        raise InputError(f"--freeze: {path} has another number of classes, expected the same for a frozen backbone")
    net.load_state_dict({**wanted, **fits})
