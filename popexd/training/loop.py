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
from popexd.training.backbones import EarlyExitNet, build
from popexd.training.data import DataSet, Split
from popexd.training.loss import exit_weights, joint_loss

LAST = "last.pt"
BEST = "best.pt"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run, besides the data."""

    backbone: str = "b-alexnet"
    epochs: int = 40
    seed: int = 1
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 2e-2
    weighting: str = "decreasing"
    precision: str = "float32"


@dataclass(frozen=True)
class EpochReport:
    """How one epoch went: mean joint loss, accuracy on the tuning split per exit, whether it is the best so far."""

    epoch: int
    loss: float
    accuracy: dict[str, float]
    best: bool
    seconds: float


def fit(
    data: DataSet,
    out: Path,
    recipe: Recipe,
    *,
    threads: int = 0,
    resume: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Path:
    """Train and return the path of the best checkpoint, `out`/best.pt; `threads` 0 leaves torch its own choice.

    Raises InputError when the run diverges, `out` holds another run, or there is nothing to resume.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    net = build(recipe.backbone, len(data.classes)).to(memory_format=torch.channels_last)
    if data.facts["side"] != net.side:
        raise InputError(
            f"{data.folder}: frames of side {data.facts['side']}, expected {net.side} for {recipe.backbone}"
        )
    optimiser = torch.optim.AdamW(_parameter_groups(net, recipe.weight_decay), lr=recipe.learning_rate)
    first, best, seconds = 0, -1.0, 0.0
    if resume:
        first, best, seconds = _resume(out / LAST, net, optimiser, recipe, data)
    elif (out / LAST).exists():
        raise InputError(f"{out / LAST}: a run is already there, expected --resume or another --out")
    out.mkdir(parents=True, exist_ok=True)
    training, tuning = data.split("training"), data.split("tuning")
    for epoch in range(first, recipe.epochs):
        started = time.perf_counter()
        loss = _train_epoch(net, optimiser, training, recipe, epoch, on_step=on_step)
        predicted = evaluate(net, tuning.images).argmax(axis=2)
        accuracy = dict(zip(net.exits, (predicted == tuning.labels).mean(axis=1).tolist(), strict=True))
        improved = accuracy["final"] > best
        best = max(best, accuracy["final"])
        took = time.perf_counter() - started
        seconds += took
        content = _content(net, data, recipe) | {"epoch": epoch, "accuracy": accuracy, "seconds": seconds}
        if improved:
            checkpoint.save(out / BEST, content)
        checkpoint.save(out / LAST, {**content, "best": best, "optimiser": optimiser.state_dict()})
        if on_epoch is not None:
            on_epoch(EpochReport(epoch, loss, accuracy, improved, took))
    return out / BEST


def _content(net: EarlyExitNet, data: DataSet, recipe: Recipe) -> dict[str, Any]:
    return {
        "backbone": recipe.backbone,
        "classes": list(data.classes),
        "data": {"folder": str(data.folder.resolve()), "facts": data.facts},
        "recipe": asdict(recipe),
        "weights": net.state_dict(),
    }


def evaluate(net: EarlyExitNet, images: npt.NDArray[np.uint8], batch: int = 128) -> npt.NDArray[np.float32]:
    """Return the logits of every exit, [exits, samples, classes], for uint8 frames [samples, height, width, 3]."""
    was_training = net.training
    net.eval()
    with torch.inference_mode():
        parts = [
            torch.stack(net(torch.from_numpy(np.array(images[start : start + batch]))))
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
    steps = max(1, len(training) // recipe.batch)
    net.train()
    losses: list[float] = []
    for step, (images, labels) in enumerate(_batches(training, recipe, epoch, steps)):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule((epoch * steps + step) / (recipe.epochs * steps))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            logits = net(images)
        loss = joint_loss(logits, labels, weights)
        if not math.isfinite(loss.item()):
            raise InputError(
                f"training diverged in epoch {epoch + 1}, step {step + 1}: the loss is {loss.item()}, "
                "expected a finite number: lower --learning-rate"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step + 1, steps)
    return float(np.mean(losses))


def _schedule(progress: float) -> float:
    """Scale the learning rate: a linear start over the first twentieth of the run, then a half cosine to nothing."""
    start = 0.05
    if progress < start:
        return 0.05 + 0.95 * progress / start
    return 0.5 * (1 + math.cos(math.pi * (progress - start) / (1 - start)))


def _batches(training: Split, recipe: Recipe, epoch: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented batches, the next one prepared while this one is being learned."""
    random = np.random.default_rng([recipe.seed, 4, epoch])
    order = random.permutation(len(training))
    batch = min(recipe.batch, len(training))

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


def augment(image: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Vary a square frame [side, side, 3]: mirror, turn by quarters, shift by up to a tenth, brighten or darken."""
    if random.random() < 0.5:
        image = image[:, ::-1]
    image = np.rot90(image, int(random.integers(4)))
    reach = image.shape[0] // 10
    down, right = random.integers(-reach, reach + 1, 2)
    rows = np.clip(np.arange(image.shape[0]) + down, 0, image.shape[0] - 1)
    columns = np.clip(np.arange(image.shape[1]) + right, 0, image.shape[1] - 1)
    gain, lift = random.uniform(0.8, 1.25), random.uniform(-12, 12)
    curve = np.clip(np.arange(256) * gain + lift, 0, 255).astype(np.uint8)
    return np.asarray(curve[image[rows][:, columns]])


def _parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay the weights of convolutions and linear layers, nothing else."""
    decayed = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _resume(
    path: Path, net: EarlyExitNet, optimiser: torch.optim.Optimizer, recipe: Recipe, data: DataSet
) -> tuple[int, float, float]:
    content = checkpoint.load(path)
    for key, value in asdict(recipe).items():
        if content["recipe"].get(key) != value:
            raise InputError(
                f"{path}: {key}: this run has {content['recipe'].get(key)!r}, expected {value!r} to resume"
            )
    if content["data"]["facts"] != data.facts:
        raise InputError(f"{path}: this run was trained on other data, expected the same to resume")
    try:
        net.load_state_dict(content["weights"])
        optimiser.load_state_dict(content["optimiser"])
        return int(content["epoch"]) + 1, float(content["best"]), float(content["seconds"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be resumed: {str(error).splitlines()[0]}") from error
