"""From generated frames to a bundle whose files answer as torch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from popexd import bundle as bundles
from popexd.errors import InputError

torch = pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("onnx", reason="needs the extra `train`")
pytestmark = pytest.mark.train

from popexd.runtime.segments import SegmentRunner  # noqa: E402 - after the skip
from popexd.training import checkpoint, data, loop  # noqa: E402
from popexd.training.backbones import build  # noqa: E402
from popexd.training.export import export  # noqa: E402
from popexd.training.loss import exit_weights, joint_loss  # noqa: E402
from popexd.training.recipe import Recipe  # noqa: E402
from popexd.training.sources import GENERATED, SPLITS  # noqa: E402

RECIPE = Recipe(backbone="b-alexnet-tiny", epochs=2, seed=3, batch=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, frames: data.DataSet) -> Path:
    """Train for two epochs."""
    out = tmp_path_factory.mktemp("run")
    loop.fit(frames, out, RECIPE)
    return out


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, run: Path) -> bundles.Bundle:
    """Export it."""
    return export(run / loop.BEST, tmp_path_factory.mktemp("bundle") / "tiny", name="tiny", codec_frames=8)


def chained(runner: SegmentRunner, image: Any) -> dict[str, Any]:
    """Run every segment and branch on one frame."""
    tensors, found = {"input": image[None]}, {}
    for segment in runner.bundle.segments:
        tensors = runner.run(tensors, [segment.name])
        for exit_ in runner.bundle.exits:
            if exit_.after == segment.name:
                found[exit_.name] = runner.classify(exit_.name, tensors[segment.name]).logits
    found["final"] = next(iter(tensors.values())).reshape(-1)
    return found


def test_the_chained_segments_answer_as_torch_does_at_every_exit(
    bundle: bundles.Bundle, run: Path, frames: data.DataSet
) -> None:
    """Every logit of every exit is within 1e-4."""
    net = checkpoint.restore(checkpoint.load(run / loop.BEST), run)
    runner = SegmentRunner(bundle, threads=1)
    images = np.array(frames.split("validation").images[:5])
    expected = loop.evaluate(net, images)
    for frame, image in enumerate(images):
        found = chained(runner, image)
        for index, name in enumerate(net.exits):
            np.testing.assert_allclose(found[name], expected[index, frame], atol=1e-4)


def test_the_bundle_says_what_was_measured(bundle: bundles.Bundle, frames: data.DataSet) -> None:
    """Tables cover every exit, cut and codec; the summary follows from the table of single frames."""
    table, summary = bundle.validation, bundle.facts["validation"]
    assert table.samples == len(frames.split("validation"))
    seen = [None] * table.samples if table.seen is None else table.seen.tolist()
    sure = [
        [table.confidence[row, n] >= e.threshold_for(seen[n]) for row, e in enumerate(bundle.exits)]
        for n in range(table.samples)
    ]
    taken = np.array([each.index(True) if any(each) else len(bundle.exits) for each in sure])
    for index, name in enumerate(table.exits):
        assert summary["accuracy"][name] == pytest.approx(table.correct[index].mean(), abs=1e-5)
        assert summary["shares"][name] == pytest.approx((taken == index).mean(), abs=1e-5)
    assert set(bundle.codecs) == {"input", *(segment.name for segment in bundle.segments[:-1])}
    assert {"camera", "jpeg-75", "webp-75"} <= set(bundle.codecs["input"])
    assert bundle.codecs["pool1"]["f32"]["agreement"] == 1
    assert bundle.codecs["pool1"]["q8"]["bytes"] < bundle.codecs["pool1"]["f32"]["bytes"] / 3


def test_the_same_seed_gives_the_same_frames_whatever_the_number_of_processes(
    tmp_path: Path, frames: data.DataSet
) -> None:
    """Preparing in parallel changes nothing."""
    again = data.prepare(tmp_path / "frames", GENERATED, 160, 3, 64, processes=2)
    for name in SPLITS:
        assert np.array_equal(again.split(name).images, frames.split(name).images)
        assert np.array_equal(again.split(name).labels, frames.split(name).labels)


def test_an_interrupted_run_resumes_to_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, frames: data.DataSet, run: Path
) -> None:
    """Order, augmentation, learning rate and optimiser all come back."""

    def stop(report: loop.EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.fit(frames, tmp_path, RECIPE, on_epoch=stop)
    loop.fit(frames, tmp_path, RECIPE, resume=True)
    whole, resumed = (checkpoint.load(folder / loop.LAST)["weights"] for folder in (run, tmp_path))
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor)


def test_a_run_is_not_overwritten_nor_resumed_with_another_recipe(run: Path, frames: data.DataSet) -> None:
    """Both end in one line."""
    with pytest.raises(InputError, match="already there"):
        loop.fit(frames, run, RECIPE)
    other = Recipe(backbone="b-alexnet-tiny", epochs=2, seed=3, batch=16)
    with pytest.raises(InputError, match=r"--batch: the run of .*last\.pt began with 32, not 16, expected the same"):
        loop.fit(frames, run, other, resume=True)


def test_a_cache_of_other_data_is_refused(frames: data.DataSet) -> None:
    """The cache folder says what it holds."""
    with pytest.raises(InputError, match=r"holds other data \(seed"):
        data.prepare(frames.folder, GENERATED, 160, 4, 64)


def test_a_run_that_diverges_ends_with_one_line(tmp_path: Path, frames: data.DataSet) -> None:
    """A loss that is not a number stops the run before it is saved."""
    wild = Recipe(backbone="b-alexnet-tiny", epochs=1, seed=3, batch=32, learning_rate=1e30)
    with pytest.raises(InputError, match="diverged") as caught:
        loop.fit(frames, tmp_path, wild)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / loop.BEST).exists()


def test_a_loss_beyond_all_sense_is_divergence_too(
    tmp_path: Path, frames: data.DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite one, at the end of an epoch, which is not saved; what is sense is brought down to what this run has."""
    monkeypatch.setattr(loop, "TOO_LARGE", 1e-3)
    with pytest.raises(
        InputError, match=r"diverged in epoch 1, step 4: the loss is [0-9.]+, expected at most 0\.00208"
    ):
        loop.fit(frames, tmp_path, RECIPE)
    assert not (tmp_path / loop.BEST).exists()


class Trap:
    """Fails the test when unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("the checkpoint was unpickled",)


@pytest.mark.parametrize("kind", ["absent", "noise", "trap", "another", "weights"])
def test_a_foreign_checkpoint_is_refused_with_one_line_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    """Not there, random bytes, a pickle with code, another program's file, weights of another net."""
    path = tmp_path / "foreign.pt"
    if kind == "noise":
        path.write_bytes(b"\x80no checkpoint")
    elif kind == "trap":
        torch.save({"schema": checkpoint.SCHEMA, "weights": Trap()}, path)
    elif kind == "another":
        torch.save({"state_dict": {}}, path)
    elif kind == "weights":
        weights = build("b-alexnet-tiny", 8).state_dict()
        checkpoint.save(path, {"backbone": "b-alexnet", "classes": ["a", "b"], "weights": weights, "data": {}})
    with pytest.raises(InputError, match=r"foreign\.pt") as caught:
        export(path, tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_export_without_the_data_it_was_trained_on_is_refused(tmp_path: Path, run: Path) -> None:
    """The validation table cannot be measured on nothing."""
    with pytest.raises(InputError, match=r"data\.json"):
        export(run / loop.BEST, tmp_path / "bundle", cache=tmp_path / "nowhere")


def test_the_joint_loss_is_the_weighted_sum_of_the_exits_losses() -> None:
    """POPEX's decreasing weights run from 1 to 0.3."""
    logits = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]])]
    weights = exit_weights("decreasing", 3)
    assert weights == pytest.approx((1.0, 0.65, 0.3))
    single = [torch.nn.functional.cross_entropy(one, torch.tensor([0])) for one in logits]
    expected = sum(weight * loss for weight, loss in zip(weights, single, strict=True))
    torch.testing.assert_close(joint_loss(logits, torch.tensor([0]), weights), expected)
