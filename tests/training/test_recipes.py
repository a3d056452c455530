"""What a recipe can ask for: phases, weights, frozen backbones, other starts, early ends, the same run twice."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from popexd.bundle import NAME
from popexd.errors import InputError

torch = pytest.importorskip("torch", reason="needs the extra `train`")
pytest.importorskip("onnx", reason="needs the extra `train`")
pytestmark = pytest.mark.train

from popexd.training import checkpoint, data, loop  # noqa: E402 - after the skip
from popexd.training.augmentation import AUGMENTATIONS  # noqa: E402
from popexd.training.backbones import BACKBONES, build, chain  # noqa: E402
from popexd.training.early_exit import EarlyExitNet, key_of  # noqa: E402
from popexd.training.loss import exit_weights  # noqa: E402
from popexd.training.recipe import Recipe  # noqa: E402

RECIPE = Recipe(backbone="b-alexnet-tiny", epochs=1, seed=3, batch=32)
Weights = dict[str, Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, frames: data.DataSet) -> Path:
    """Train for an epoch."""
    return loop.fit(frames, tmp_path_factory.mktemp("run"), RECIPE, threads=1)


def weights_of(path: Path, part: str = "") -> Weights:
    """Read a checkpoint's weights, those of one part."""
    return {name: tensor for name, tensor in checkpoint.load(path)["weights"].items() if name.startswith(part)}


def same(left: Weights, right: Weights) -> bool:
    """Tell whether all weights are the same to the last bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_one_seed_and_one_thread_give_the_same_weights(tmp_path: Path, frames: data.DataSet, trained: Path) -> None:
    """Bit for bit; another seed does not."""
    again = loop.fit(frames, tmp_path / "again", RECIPE, threads=1)
    assert same(weights_of(again), weights_of(trained))
    other = loop.fit(frames, tmp_path / "other", replace(RECIPE, seed=4), threads=1)
    assert not same(weights_of(other), weights_of(trained))


def test_branches_learn_on_a_frozen_backbone_that_stays_as_it_is(
    tmp_path: Path, frames: data.DataSet, trained: Path
) -> None:
    """Not a bit of it changes, its normalisations' statistics included; both branches do."""
    recipe = replace(RECIPE, freeze=True, epochs=2)
    found = loop.fit(frames, tmp_path, recipe, start=trained, threads=1)
    assert same(weights_of(found, "segments."), weights_of(trained, "segments."))
    assert any("running_mean" in name for name in weights_of(found, "segments."))
    for branch in ("branches.b1.", "branches.b3."):
        assert not same(weights_of(found, branch), weights_of(trained, branch))


def test_the_main_branch_learns_alone_first(tmp_path: Path, frames: data.DataSet) -> None:
    """No branch gets a gradient in the first phase; the best of the second is kept, whatever the first reached."""
    reports: list[loop.EpochReport] = []
    kept: list[Weights] = []

    def note(report: loop.EpochReport) -> None:
        reports.append(report)
        kept.append(weights_of(tmp_path / loop.LAST, "branches."))

    recipe = replace(RECIPE, epochs=3, main_epochs=2, weight_decay=0.0)
    loop.fit(frames, tmp_path, recipe, threads=1, on_epoch=note)
    first, second, joint = ({k: v for k, v in each.items() if k.endswith("weight")} for each in kept)
    assert same(first, second)
    assert not same(second, joint)
    assert reports[2].best
    assert checkpoint.load(tmp_path / loop.BEST)["epoch"] == 2


def test_a_run_without_a_better_epoch_ends_early(tmp_path: Path, frames: data.DataSet) -> None:
    """With a rate that teaches nothing: two epochs after the last that was better, and nothing is left to resume."""
    reports: list[loop.EpochReport] = []
    recipe = replace(RECIPE, epochs=40, patience=2, learning_rate=1e-9)
    loop.fit(frames, tmp_path, recipe, threads=1, on_epoch=reports.append)
    assert [report.best for report in reports[-3:]] == [True, False, False]
    assert len(reports) < 40
    resumed: list[loop.EpochReport] = []
    loop.fit(frames, tmp_path, recipe, threads=1, resume=True, on_epoch=resumed.append)
    assert resumed == []


def test_a_run_goes_on_to_more_epochs(tmp_path: Path, frames: data.DataSet) -> None:
    """By the learning-rate curve of the longer run, from where it then is; to fewer it does not."""
    reports: list[loop.EpochReport] = []
    loop.fit(frames, tmp_path, replace(RECIPE, epochs=2), threads=1)
    ended = weights_of(tmp_path / loop.LAST)
    more = replace(RECIPE, epochs=3, patience=7)
    loop.fit(frames, tmp_path, more, threads=1, resume=True, on_epoch=reports.append)
    assert [report.epoch for report in reports] == [2]
    content = torch.load(tmp_path / loop.LAST, weights_only=True)
    assert content["recipe"] == asdict(more)
    # At the end of the third of three epochs: the last step but the end of a half cosine.
    steps = len(frames.split("training")) // RECIPE.batch
    progress = ((3 * steps - 1) / (3 * steps) - 0.05) / 0.95
    rate = content["optimiser"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(RECIPE.learning_rate * 0.5 * (1 + np.cos(np.pi * progress)))
    assert not same(weights_of(tmp_path / loop.LAST), ended)
    with pytest.raises(InputError, match=r"--epochs: 1, expected at least the 3 that the run of .*last\.pt is to have"):
        loop.fit(frames, tmp_path, RECIPE, threads=1, resume=True)


def test_a_run_that_ended_early_goes_on_with_more_patience(tmp_path: Path, frames: data.DataSet) -> None:
    """How long one waits for a better epoch decides only when a run ends."""
    recipe = replace(RECIPE, epochs=40, patience=2, learning_rate=1e-9)
    loop.fit(frames, tmp_path, recipe, threads=1)
    reports: list[loop.EpochReport] = []
    loop.fit(frames, tmp_path, replace(recipe, patience=4), threads=1, resume=True, on_epoch=reports.append)
    assert len(reports) == 2


def test_a_run_that_diverges_later_leaves_the_last_good_epoch(tmp_path: Path, frames: data.DataSet) -> None:
    """One line; best.pt and last.pt are those of the first epoch, whole, and nothing half-written is beside them."""

    def poison(report: loop.EpochReport) -> None:
        content = torch.load(tmp_path / loop.LAST, weights_only=True)
        content["weights"]["segments.conv3.0.weight"] *= float("nan")
        torch.save(content, tmp_path / "poisoned.pt")
        raise KeyboardInterrupt

    recipe = replace(RECIPE, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(frames, tmp_path, recipe, threads=1, on_epoch=poison)
    best = (tmp_path / loop.BEST).read_bytes()
    (tmp_path / "poisoned.pt").replace(tmp_path / loop.LAST)
    last = (tmp_path / loop.LAST).read_bytes()
    with pytest.raises(InputError, match="diverged in epoch 2, step 1: the loss is nan") as caught:
        loop.fit(frames, tmp_path, recipe, threads=1, resume=True)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [loop.BEST, loop.LAST]
    assert (tmp_path / loop.BEST).read_bytes() == best
    assert (tmp_path / loop.LAST).read_bytes() == last


def test_a_start_with_other_classes_begins_with_new_heads(tmp_path: Path, frames: data.DataSet, trained: Path) -> None:
    """All but the layers that give logits is taken over; a frozen backbone cannot have a new head."""
    net = build("b-alexnet-tiny", 5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    checkpoint.warm_start(net, trained, "abcde", frozen=False)
    taken = weights_of(trained)
    for name, tensor in net.state_dict().items():
        head = name.startswith("segments.fc8.") or tensor.shape[:1] == (5,)
        torch.testing.assert_close(tensor, before[name] if head else taken[name], rtol=0, atol=0)
    with pytest.raises(InputError, match="knows other classes"):
        checkpoint.warm_start(net, trained, "abcde", frozen=True)


def test_a_start_whose_classes_have_other_names_begins_with_new_heads(frames: data.DataSet, trained: Path) -> None:
    """As many classes, but others: what told the old ones apart would be wrong about each."""
    net = build("b-alexnet-tiny", 8)
    before = net.state_dict()["segments.fc8.0.weight"].clone()
    checkpoint.warm_start(net, trained, [f"other {name}" for name in frames.classes], frozen=False)
    assert torch.equal(net.state_dict()["segments.fc8.0.weight"], before)
    checkpoint.warm_start(net, trained, frames.classes, frozen=True)
    assert torch.equal(net.state_dict()["segments.fc8.0.weight"], weights_of(trained)["segments.fc8.0.weight"])


def test_branches_of_a_start_are_known_by_their_place(trained: Path, tmp_path: Path) -> None:
    """Elsewhere they begin anew, though all their shapes agree; at the same place they are the same by another name."""
    old = build("resnet18", 8, "b1=layer1.0,b2=layer3.0", side=32)
    content = {"backbone": "resnet18", "classes": [*"abcdefgh"], "branches": "b1=layer1.0,b2=layer3.0"}
    checkpoint.save(tmp_path / "old.pt", {**content, "weights": old.state_dict()})

    def started(branches: str) -> tuple[Weights, Weights]:
        net = build("resnet18", 8, branches, side=32)
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        checkpoint.warm_start(net, tmp_path / "old.pt", "abcdefgh", frozen=False)
        return before, net.state_dict()

    def branch(weights: Weights, name: str) -> Weights:
        part = f"branches.{name}."
        return {key.removeprefix(part): tensor for key, tensor in weights.items() if key.startswith(part)}

    before, after = started("b1=layer1.1,b2=layer3.0")
    moved = branch(after, "b1")
    assert {key: each.shape for key, each in moved.items()} == {
        key: each.shape for key, each in branch(old.state_dict(), "b1").items()
    }
    assert same(moved, branch(before, "b1"))
    assert same(branch(after, "b2"), branch(old.state_dict(), "b2"))
    _, after = started("early=layer1.0,b1=layer3.0")
    assert same(branch(after, "early"), branch(old.state_dict(), "b1"))
    assert same(branch(after, "b1"), branch(old.state_dict(), "b2"))


def test_a_start_of_another_architecture_is_one_line_and_leaves_nothing(
    tmp_path: Path, frames: data.DataSet, trained: Path
) -> None:
    """The line names the file and both architectures."""
    content = checkpoint.load(trained)
    checkpoint.save(tmp_path / "other.pt", {**content, "backbone": "resnet18"})
    with pytest.raises(InputError, match=r"other\.pt: a resnet18 checkpoint, expected b-alexnet-tiny") as caught:
        loop.fit(frames, tmp_path / "run", RECIPE, start=tmp_path / "other.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_remembers_branches_of_its_own(tmp_path: Path, frames: data.DataSet) -> None:
    """It is restored with the places it was trained with."""
    recipe = replace(RECIPE, branches="early=pool1,late=fc6")
    path = loop.fit(frames, tmp_path, recipe, threads=1)
    net = checkpoint.restore(checkpoint.load(path), path)
    assert [(place.name, place.after) for place in net.places] == [("early", "pool1"), ("late", "fc6")]


@pytest.mark.parametrize("name", ["keys", "pop", "type", "forward", "training", "early.1", "late_2", "3-x"])
def test_any_name_of_a_bundle_may_be_a_branchs(tmp_path: Path, name: str) -> None:
    """Also those that torch's own containers have as attributes; its weights are saved and restored as its own."""
    net = build("b-alexnet-tiny", 2, f"{name}=pool1,b2=conv3")
    assert NAME.fullmatch(name)
    assert net.exits == (name, "b2", "final")
    assert net.branch(name) is not net.branch("b2")
    content = {"backbone": net.backbone, "classes": ["a", "b"], "branches": f"{name}=pool1,b2=conv3"}
    checkpoint.save(tmp_path / "named.pt", {**content, "weights": net.state_dict()})
    restored = checkpoint.restore(checkpoint.load(tmp_path / "named.pt"), tmp_path)
    assert same(restored.branch(name).state_dict(), net.branch(name).state_dict())


@pytest.mark.parametrize(
    "branches",
    [
        *("_b=pool1", "-b=pool1", "=pool1", "é=pool1", f"{'b' * 65}=pool1", "a b=pool1", "a/b=pool1"),
        *("b=pool1,b=conv3", "b.1=pool1,b_1=conv3", "keys=pool1,keys_=conv3"),
        *("final=pool1", "input=pool1", "fc8=pool1"),
    ],
)
def test_a_branchs_name_that_no_bundle_can_hold_or_that_is_taken_is_one_line(branches: str) -> None:
    """Before anything is trained; two names that torch would take for one are not kept apart by chance."""
    with pytest.raises(InputError, match=r"^--branch: .*, expected a name ") as caught:
        replace(RECIPE, branches=branches).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_two_segments_have_one_name_inside_torch(backbone: str) -> None:
    """Of any backbone; a net of two such is refused."""
    names = chain(backbone, 2).segments
    assert len({key_of(name) for name in names}) == len(names)
    with pytest.raises(ValueError, match="expected all to differ"):
        EarlyExitNet("two", {"a.1": torch.nn.Identity(), "a_1": torch.nn.Identity()}, {}, 32)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_every_optimiser_lowers_the_loss(tmp_path: Path, frames: data.DataSet, optimiser: str) -> None:
    """Over four epochs, without augmentation."""
    reports: list[loop.EpochReport] = []
    rate = 2e-3 if optimiser == "adam" else 5e-2
    recipe = replace(RECIPE, epochs=4, optimiser=optimiser, learning_rate=rate, augmentation="none")
    loop.fit(frames, tmp_path, recipe, threads=1, on_epoch=reports.append)
    assert reports[-1].loss < 0.9 * reports[0].loss


def test_bfloat16_trains_too(tmp_path: Path, frames: data.DataSet) -> None:
    """The weights stay float32."""
    path = loop.fit(frames, tmp_path, replace(RECIPE, precision="bfloat16"), threads=1)
    assert {tensor.dtype for tensor in weights_of(path).values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        ("decreasing", (1.0, 0.65, 0.3)),
        ("increasing", (0.3, 0.65, 1.0)),
        ("equal", (1.0, 1.0, 1.0)),
        ("1.0,0.3,0", (1.0, 0.3, 0.0)),
    ],
)
def test_the_published_weightings(weighting: str, expected: tuple[float, ...]) -> None:
    """POPEX's linspace(1, 0.3), its mirror, BranchyNet's ones, and numbers as they are given."""
    assert exit_weights(weighting, 3) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weighting": "random"}, "--weighting"),
        ({"weighting": "1.0,x"}, "--weights"),
        ({"weighting": "0,0,0"}, "--weights"),
        ({"weighting": "1.0,0.3"}, "--weights: 2 numbers, expected 3"),
        ({"weighting": "0,0,1", "freeze": True}, "--weights: '0,0,1', expected one above 0 for a branch"),
        ({"weighting": "1,1,-1"}, "--weights"),
        ({"precision": "float8"}, "--precision"),
        ({"optimiser": "rmsprop"}, "--optimiser"),
        ({"augmentation": "fog"}, "--augmentation"),
        ({"main_epochs": 1}, "--main-epochs"),
        ({"epochs": 3, "main_epochs": 1, "freeze": True}, "--main-epochs"),
        ({"pretrained": True}, "--pretrained"),
        (
            {"backbone": "resnet18", "pretrained": True, "freeze": True, "weighting": "1,1,0"},
            "--weights: '1,1,0', expected one above 0 for the end",
        ),
        ({"branches": "b1=nowhere"}, "--branch"),
    ],
)
def test_a_recipe_that_cannot_be_is_named_by_its_option(change: dict[str, Any], named: str) -> None:
    """Before anything is prepared."""
    with pytest.raises(InputError, match=named):
        Recipe(**{**asdict(RECIPE), **change}).check()


def test_weights_must_be_as_many_as_exits(tmp_path: Path, frames: data.DataSet) -> None:
    """Two numbers for three exits."""
    with pytest.raises(InputError, match="2 numbers, expected 3"):
        loop.fit(frames, tmp_path, replace(RECIPE, weighting="1.0,0.3"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(tmp_path: Path, frames: data.DataSet) -> None:
    """`auto` takes the CPU instead."""
    with pytest.raises(InputError, match="--device: cuda"):
        loop.fit(frames, tmp_path, RECIPE, device="cuda")
    assert loop.chosen_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("side", [32, 224])
def test_augmentation_varies_a_frame_and_keeps_its_form(name: str, side: int) -> None:
    """The same chance gives the same frame; `photo` never turns: what is up stays up."""
    random = np.random.default_rng(1)
    frame = np.zeros((side, side, 3), dtype=np.uint8)
    frame[: side // 2] = 200
    frame += random.integers(0, 40, frame.shape, dtype=np.uint8)
    made = [AUGMENTATIONS[name](frame, np.random.default_rng(seed)) for seed in range(20)]
    again = [AUGMENTATIONS[name](frame, np.random.default_rng(seed)) for seed in range(20)]
    assert all(np.array_equal(one, other) for one, other in zip(made, again, strict=True))
    assert all(each.shape == frame.shape and each.dtype == np.uint8 for each in made)
    assert len({each.tobytes() for each in made}) == (1 if name == "none" else 20)
    upright = [each[: side // 4].mean() > 50 + each[-side // 4 :].mean() for each in made]
    assert all(upright) == (name != "turns")
