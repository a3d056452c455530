"""The training loop: joint loss, one seed, resumable after every epoch, the best on the tuning split kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from popexd.errors import InputError
from popexd.training import checkpoint
from popexd.training.augmentation import augmentation
from popexd.training.data import DataSet, Split
from popexd.training.early_exit import EarlyExitNet
from popexd.training.loss import exit_weights, joint_loss
from popexd.training.optimisers import optimiser_of
from popexd.training.recipe import Recipe

LAST = "last.pt"
BEST = "best.pt"
DEVICES = ("auto", "cpu", "cuda")
TOO_LARGE = 1e6
"""An epoch's mean loss so many times ln(classes), which is that of a guess, is one of a run that diverged."""


@dataclass(frozen=True)
class EpochReport:
    """How one epoch went: mean joint loss, accuracy on the tuning split per exit, whether it is the best so far."""

    epoch: int
    loss: float
    accuracy: dict[str, float]
    best: bool
    seconds: float


@dataclass
class _Progress:
    """What a run has come to: the next epoch, the best score and its epoch, seconds so far."""

    epoch: int = 0
    best: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0


def fit(
    data: DataSet,
    out: Path,
    recipe: Recipe,
    *,
    start: Path | None = None,
    threads: int = 0,
    device: str = "auto",
    resume: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Path:
    """Train and return the path of the best checkpoint, `out`/best.pt; `threads` 0 leaves torch its own choice.

    `start` is a checkpoint whose weights are taken where they fit. Raises InputError when the run diverges, `out` holds
    another run, there is nothing to resume, or `start` is of another architecture.
    """
    if threads:
        torch.set_num_threads(threads)
    net, optimiser, state = _begun(data, out, recipe, start, device, resume)
    training, tuning = data.split("training"), data.split("tuning")
    while state.epoch < recipe.epochs and not _tired(state, recipe):
        epoch, started = state.epoch, time.perf_counter()
        loss = _train_epoch(net, optimiser, training, recipe, epoch, on_step=on_step)
        predicted = evaluate(net, tuning.images).argmax(axis=2)
        accuracy = dict(zip(net.exits, (predicted == tuning.labels).mean(axis=1).tolist(), strict=True))
        improved = _note(state, recipe, accuracy)
        took = time.perf_counter() - started
        state.seconds += took
        content = _content(net, data, recipe) | {"epoch": epoch, "accuracy": accuracy, "seconds": state.seconds}
        if improved:
            checkpoint.save(out / BEST, content)
        checkpoint.save(out / LAST, {**content, "progress": asdict(state), "optimiser": optimiser.state_dict()})
        if on_epoch is not None:
            on_epoch(EpochReport(epoch, loss, accuracy, improved, took))
    return out / BEST


def check(
    data: DataSet, out: Path, recipe: Recipe, *, start: Path | None = None, device: str = "auto", resume: bool = False
) -> None:
    """Raise InputError for whatever would keep `fit` from beginning; the frames of `data` need not be there yet."""
    _begun(data, out, recipe, start, device, resume)


def _begun(
    data: DataSet, out: Path, recipe: Recipe, start: Path | None, device: str, resume: bool
) -> tuple[EarlyExitNet, torch.optim.Optimizer, _Progress]:
    net = _beginning(data, recipe, None if resume else start, resume).to(chosen_device(device))
    optimiser = optimiser_of(net, recipe)
    if resume:
        return net, optimiser, _resume(out / LAST, net, optimiser, recipe, data)
    if (out / LAST).exists():
        raise InputError(f"{out / LAST}: a run is already there, expected --resume or another --out")
    return net, optimiser, _Progress()


def _beginning(data: DataSet, recipe: Recipe, start: Path | None, resume: bool) -> EarlyExitNet:
    """The net before its first step: the recipe's random or pretrained weights, or those of a checkpoint."""
    torch.manual_seed(recipe.seed)
    net = recipe.net(len(data.classes), weights=not resume and start is None).to(memory_format=torch.channels_last)
    if data.facts["side"] != net.side:
        raise InputError(
            f"{data.folder}: frames of side {data.facts['side']}, expected {net.side} for {recipe.backbone}"
        )
    if start is not None:
        checkpoint.warm_start(net, start, data.classes, recipe.freeze)
    return net


def chosen_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one. Raises InputError for one that is not there."""
    if name not in DEVICES:
        raise InputError(f"--device: {name!r}, expected one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: cuda: torch finds no GPU here, expected auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _note(state: _Progress, recipe: Recipe, accuracy: dict[str, float]) -> bool:
    """Count an epoch, and tell whether it is the best: of the final exit, or of what learns on a frozen backbone.

    What the main branch reached alone does not count against the epochs in which the branches learn.
    """
    *branches, final = accuracy.values()
    score = final if not recipe.freeze else float(np.mean([*branches, final] if recipe.new_head else branches))
    improved = score > state.best or state.epoch == recipe.main_epochs
    if improved:
        state.best, state.best_epoch = score, state.epoch
    state.epoch += 1
    return improved


def _tired(state: _Progress, recipe: Recipe) -> bool:
    return 0 < recipe.patience <= state.epoch - 1 - max(state.best_epoch, recipe.main_epochs)


def _content(net: EarlyExitNet, data: DataSet, recipe: Recipe) -> dict[str, Any]:
    return {
        "backbone": recipe.backbone,
        "side": net.side,
        "branches": ",".join(f"{place.name}={place.after}" for place in net.places),
        "classes": list(data.classes),
        "data": checkpoint.data_of(data),
        "recipe": asdict(recipe),
        "weights": {name: tensor.cpu() for name, tensor in net.state_dict().items()},
    }


def evaluate(net: EarlyExitNet, images: npt.NDArray[np.uint8], batch: int = 64) -> npt.NDArray[np.float32]:
    """Return the logits of every exit, [exits, samples, classes], for uint8 frames [samples, height, width, 3]."""
    was_training = net.training
    net.eval()
    device = next(net.parameters()).device
    with torch.inference_mode():
        parts = [
            torch.stack(net(torch.from_numpy(np.array(images[start : start + batch])).to(device))).cpu()
            for start in range(0, len(images), batch)
        ]
    net.train(was_training)
    return np.asarray(torch.cat(parts, dim=1).float().numpy())


def _train_epoch(
    net: EarlyExitNet,
    optimiser: torch.optim.Optimizer,
    training: Split,
    recipe: Recipe,
    epoch: int,
    *,
    on_step: Callable[[int, int], None] | None,
) -> float:
    torch.manual_seed(recipe.seed * 10_007 + epoch)
    weights = exit_weights(recipe.weighting, len(net.exits))
    if epoch < recipe.main_epochs:
        weights = (*(0.0,) * len(net.places), 1.0)
    steps = max(1, len(training) // recipe.batch)
    net.train()
    if recipe.freeze:
        net.segments.eval()  # neither dropout nor new statistics of the frozen part
    device = next(net.parameters()).device
    losses: list[float] = []
    for step, (images, labels) in enumerate(_batches(training, recipe, epoch, steps)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(recipe, (epoch * steps + step) / steps)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = net(images.to(device))
        loss = joint_loss(logits, labels.to(device), weights)
        if not math.isfinite(loss.item()):
            raise _diverged(epoch, step, loss.item())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step + 1, steps)
    if not all(bool(tensor.isfinite().all()) for tensor in net.parameters()):
        raise _diverged(epoch, steps - 1, math.nan)
    mean, most = float(np.mean(losses)), TOO_LARGE * math.log(logits[0].shape[1])
    if mean > most:
        raise _diverged(epoch, steps - 1, mean, f"at most {most:.3g}")
    return mean


def _diverged(epoch: int, step: int, loss: float, expected: str = "a finite number") -> InputError:
    return InputError(
        f"training diverged in epoch {epoch + 1}, step {step + 1}: the loss is {loss:.3g}, "
        f"expected {expected}: lower --learning-rate"
    )


def _schedule(recipe: Recipe, epochs: float) -> float:
    """Scale the learning rate after that many epochs: a linear start over a twentieth, then a half cosine to nothing.

    Where the main branch learns first, both phases have a schedule of their own.
    """
    first = epochs < recipe.main_epochs
    length = recipe.main_epochs if first else recipe.epochs - recipe.main_epochs
    progress = (epochs if first else epochs - recipe.main_epochs) / length
    start = 0.05
    if progress < start:
        return 0.05 + 0.95 * progress / start
    return 0.5 * (1 + math.cos(math.pi * (progress - start) / (1 - start)))


def _batches(training: Split, recipe: Recipe, epoch: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches, the next one prepared while this one is being learned."""
    random = np.random.default_rng([recipe.seed, 4, epoch])
    order = random.permutation(len(training))
    batch = min(recipe.batch, len(training))
    augment = augmentation(recipe.augmentation)

    def make(step: int) -> tuple[Tensor, Tensor]:
        chosen = np.sort(order[step * batch : (step + 1) * batch])
        own = np.random.default_rng([recipe.seed, 5, epoch, step])
        images = np.stack([augment(training.images[index], own) for index in chosen])
        return torch.from_numpy(images), torch.from_numpy(training.labels[chosen].astype(np.int64))

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, 0)
        for step in range(steps):
            ready = ahead.result()
            if step + 1 < steps:
                ahead = pool.submit(make, step + 1)
            yield ready


def check_recipe(path: Path, recipe: Recipe) -> dict[str, Any]:
    """Return the checkpoint of a run that `recipe` goes on with: more epochs and other patience are all it may ask.

    Raises InputError.
    """
    content = checkpoint.load(path)
    own = content.get("recipe")
    for key, wanted in asdict(recipe).items():
        began = own.get(key) if isinstance(own, dict) else None
        if key == "patience" or began == wanted:
            continue
        if key == "epochs" and isinstance(began, int):
            if wanted < began:
                raise InputError(f"--epochs: {wanted}, expected at least the {began} that the run of {path} is to have")
            continue
        option = {"branches": "branch", "weighting": "weights"}.get(key, key).replace("_", "-")
        raise InputError(f"--{option}: the run of {path} began with {began!r}, not {wanted!r}, expected the same")
    return content


def _resume(
    path: Path, net: EarlyExitNet, optimiser: torch.optim.Optimizer, recipe: Recipe, data: DataSet
) -> _Progress:
    content = check_recipe(path, recipe)
    if checkpoint.facts_of(content) != data.facts:
        raise InputError(f"--resume: the run of {path} was begun on other data, expected the same")
    try:
        net.load_state_dict(content["weights"])
        optimiser.load_state_dict(content["optimiser"])
        return _Progress(**content["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be resumed: {str(error).splitlines()[0]}") from error
