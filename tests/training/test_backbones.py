"""Backbones as chains: their shapes, where branches hang, and that their files answer as torch does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from popexd.errors import InputError

torch = pytest.importorskip("torch", reason="needs the extra `train`")
onnx = pytest.importorskip("onnx", reason="needs the extra `train`")
pytestmark = pytest.mark.train

from popexd.lab import conveyor  # noqa: E402 - after the skip
from popexd.runtime.frames import load_image  # noqa: E402
from popexd.training import onnx_files  # noqa: E402
from popexd.training.backbones import BACKBONES, build, chain  # noqa: E402
from popexd.training.backbones.branchynet import ResponseNorm  # noqa: E402
from popexd.training.early_exit import EarlyExitNet, costs, multiply_adds  # noqa: E402

AS_PUBLISHED = ("b-alexnet", "b-alexnet-cifar", "b-alexnet-tiny", "alexnet")


def frames(net: EarlyExitNet, count: int) -> Any:
    """Draw frames as the net takes them."""
    shots = [load_image(conveyor.scene(index, 5).jpeg(), net.side, net.side) for index in range(count)]
    return torch.from_numpy(np.concatenate(shots))


def settled(backbone: str) -> EarlyExitNet:
    """Build a net whose normalisations have seen frames, so that no tensor vanishes on the way."""
    torch.manual_seed(7)
    net = build(backbone, 5, side=0 if backbone in AS_PUBLISHED else 64)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # these frames alone, at once
    with torch.no_grad():
        net.train()(frames(net, 4))
    return net.eval()


def chained(files: dict[str, bytes], net: EarlyExitNet, pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Run segment files one after the other and yield what each exit says, the branches first."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    tensors = {"input": pixels}
    reads = dict(zip(net.names, ("input", *net.names), strict=False)) | {each.name: each.after for each in net.places}
    for name, before in reads.items():
        session = onnxruntime.InferenceSession(files[name], options, providers=["CPUExecutionProvider"])
        assert [tensor.name for tensor in session.get_inputs()] == [before]
        assert [tensor.name for tensor in session.get_outputs()] == [name]
        assert tuple(session.get_inputs()[0].shape) == tensors[before].shape
        (tensors[name],) = session.run(None, {before: tensors[before]})
    for name in (*(place.name for place in net.places), net.names[-1]):
        yield tensors[name]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_files_of_every_backbone_answer_as_torch_does(backbone: str) -> None:
    """Every exit within 1e-4 (of logits up to 10), in a form that the oldest ONNX Runtime reads, with fixed shapes."""
    net = settled(backbone)
    pixels = frames(net, 2)
    files = onnx_files.files_of(net, pixels[:1])
    with torch.inference_mode():
        expected = [logits.numpy() for logits in net(pixels)]
    assert len(expected) >= 3
    for index in range(2):
        found = list(chained(files, net, pixels[index : index + 1].numpy()))
        for own, other in zip(found, expected, strict=True):
            assert np.abs(other[index]).max() > 1e-3
            np.testing.assert_allclose(
                own[0], other[index], rtol=0, atol=1e-4 * max(1, np.abs(other[index]).max() / 10)
            )
    for content in files.values():
        model = onnx.load_from_string(content)
        assert model.ir_version <= 10
        assert [(each.domain, each.version <= 21) for each in model.opset_import] == [("", True)]
        assert not {"BatchNormalization", "Dropout"} & {node.op_type for node in model.graph.node}


def test_branches_named_as_torch_names_values_are_written_too() -> None:
    """Those of its exporter (`relu`, `conv2d`, `val_0`), and of its containers (`keys`): the files answer as torch."""
    torch.manual_seed(1)
    net = build("b-alexnet-tiny", 3, "relu=pool1,conv2d=pool1,val_0=conv3,keys=conv3").eval()
    pixels = frames(net, 1)
    files = onnx_files.files_of(net, pixels)
    with torch.inference_mode():
        expected = net(pixels)
    for found, logits in zip(chained(files, net, pixels.numpy()), expected, strict=True):
        np.testing.assert_allclose(found, logits.numpy(), atol=1e-4)


def test_b_alexnet_for_cifar_has_the_published_shapes() -> None:
    """Bytes of BranchyNet's tensors: its pools cover the whole map, 32, 16, 8, 4, where a floor would end in 31."""
    net = build("b-alexnet-cifar", 10).eval()
    with torch.inference_mode():
        logits, outputs = net.resume("input", torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    sizes = {name: 4 * tensor.numel() for name, tensor in outputs.items()}
    assert sizes == {
        "pool1": 32_768,
        "pool2": 16_384,
        "conv3": 24_576,
        "conv4": 24_576,
        "pool5": 4_096,
        "fc6": 1_024,
        "fc7": 512,
        "fc8": 40,
    }
    assert [tuple(each.shape) for each in logits] == [(1, 10)] * 3
    linear = {
        name: next(layer for layer in part.modules() if isinstance(layer, torch.nn.Linear)).in_features
        for name, part in (("b1", net.branch("b1")), ("b2", net.branch("b2")), ("fc6", net.segment("fc6")))
    }
    assert linear == {"b1": 512, "b2": 128, "fc6": 1024}
    assert [(place.name, place.after) for place in net.places] == [("b1", "pool2"), ("b2", "conv3")]


def test_response_normalisation_is_that_of_the_paper() -> None:
    """Three neighbouring channels, 5e-5, 0.75: as torch's own and as the formula."""
    values = 40 * torch.randn(2, 7, 3, 3, generator=torch.Generator().manual_seed(1))
    found = ResponseNorm()(values)
    torch.testing.assert_close(found, torch.nn.LocalResponseNorm(3, 5e-5, 0.75)(values))
    around = sum(float(values[1, channel, 2, 0]) ** 2 for channel in (3, 4, 5))
    assert float(found[1, 4, 2, 0]) == pytest.approx(
        float(values[1, 4, 2, 0]) / (1 + 5e-5 / 3 * around) ** 0.75, rel=1e-5
    )


def test_the_default_backbone_is_small() -> None:
    """At most 200 million multiply-adds and 9 MB of float32 weights."""
    net = build("b-alexnet", 8)
    assert multiply_adds(net) <= 200e6
    assert 4 * sum(parameter.numel() for parameter in net.parameters()) <= 9e6


@pytest.mark.parametrize(("backbone", "millions"), [("resnet18", 1814), ("mobilenet-v2", 300), ("alexnet", 714)])
def test_multiply_adds_are_the_published_ones(backbone: str, millions: int) -> None:
    """At 224, without branches, as torchvision's own tables have them."""
    own = chain(backbone, 1000)
    assert multiply_adds(EarlyExitNet(own.name, own.segments, {}, own.side)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_branches_hang_where_they_are_told_to() -> None:
    """By the names that torchvision gives its blocks, in the chain's order whatever the order of the words."""
    net = build("resnet18", 3, "late=layer3.0,b1=layer1.1", side=64)
    assert [(place.name, place.after) for place in net.places] == [("b1", "layer1.1"), ("late", "layer3.0")]
    assert net.exits == ("b1", "late", "final")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_branches_stand_at_even_shares_of_the_compute(count: int) -> None:
    """ResNet-18's blocks are alike enough that every branch is within a tenth of its share."""
    net = build("resnet18", 3, str(count), side=64)
    shares = {}
    running = 0
    counted = costs(net, 64)
    whole = sum(counted[layer] for name in net.names for layer in net.segment(name).modules() if layer in counted)
    for name in net.names:
        running += sum(counted.get(layer, 0) for layer in net.segment(name).modules())
        shares[name] = running / whole
    assert len(net.places) == count
    for step, place in enumerate(net.places, start=1):
        assert shares[place.after] == pytest.approx(step / (count + 1), abs=0.1)


def test_what_is_published_stays_where_others_are_added() -> None:
    """B-AlexNet's own first branch keeps its layers; the one that is new gets a head of its own."""
    published, mixed = build("b-alexnet-cifar", 10), build("b-alexnet-cifar", 10, "b1=pool2,b9=pool5")
    assert str(mixed.branch("b1")) == str(published.branch("b1"))
    assert "BatchNorm" in str(mixed.branch("b9"))


@pytest.mark.parametrize(
    ("backbone", "places", "side", "named"),
    [
        ("b-alexnet", "b1=pool9", 0, "pool1, pool2"),
        ("b-alexnet", "pool1=pool1", 0, "name"),
        ("b-alexnet", "b1=pool1,b1=pool2", 0, "not taken"),
        ("b-alexnet", "b1", 0, "NAME=SEGMENT"),
        ("b-alexnet", "99", 0, "1 to 7"),
        ("b-alexnet", "", 64, "--side"),
        ("alexnet", "", 128, "--side"),
        ("resnet18", "", 8, "32 to 1024"),
        ("resnet81", "", 0, "did you mean 'resnet18'"),
        ("vgg", "", 0, "b-alexnet-cifar, b-alexnet-tiny"),
    ],
)
def test_what_a_backbone_does_not_have_is_named_in_one_line(backbone: str, places: str, side: int, named: str) -> None:
    """The complaint says what there is."""
    with pytest.raises(InputError, match=named) as caught:
        build(backbone, 4, places, side)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_had_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without the file, and a server that is not there: what was tried, and where the file may be put."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="--pretrained: mobilenet_v3_small") as caught:
        build("mobilenet-v3-small", 4, pretrained=True)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backbone", ["mobilenet-v3-small", "resnet18"])
def test_pretrained_weights_come_with_a_head_of_our_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    """Where torchvision's file is at hand (here one of its form): every weight below the head is from it."""
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = backbone.replace("-", "_")
    given = models.get_model(name, weights=None)
    place = tmp_path / "hub" / "checkpoints" / models.get_model_weights(name).DEFAULT.url.rpartition("/")[2]
    place.parent.mkdir(parents=True)
    torch.save(given.state_dict(), place)
    net = build(backbone, 4, pretrained=True)
    own = [tensor for tensor in net.segments.state_dict().values() if tensor.shape[:1] != (4,)]
    other = [tensor for tensor in given.state_dict().values() if tensor.shape[:1] != (1000,)]
    assert len(own) == len(other)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(own, other, strict=True))
    assert net.eval()(torch.zeros(1, 224, 224, 3, dtype=torch.uint8))[-1].shape == (1, 4)
