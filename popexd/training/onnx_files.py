"""Segments as ONNX files, node by node: what torch's own exporter would name and shape anew on each release."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from popexd.errors import InputError
from popexd.training.early_exit import FLOOR, Normalise

OPSET = 17
# The oldest representation that holds this opset, for the oldest ONNX Runtime we allow.
IR_VERSION = 8

Weights = npt.NDArray[np.float32]


def segment(
    module: nn.Module, name: str, *, takes: str, taken: tuple[int, ...], gives: tuple[int, ...], pixels: bool
) -> bytes:
    """Write a chain of layers as one ONNX model with input `takes` and output `name`; batch normalisation is folded.

    `pixels` says that the input is uint8 and not float32. Raises InputError for a layer that has no translation.
    """
    graph = _Graph(takes, name)
    for index, layers in enumerate(_steps(module)):
        graph.add(layers, index)
    kind = TensorProto.UINT8 if pixels else TensorProto.FLOAT
    model = helper.make_model(
        helper.make_graph(
            graph.finished(),
            name,
            [helper.make_tensor_value_info(takes, kind, taken)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, gives)],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="popexd",
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _steps(module: nn.Module) -> Iterable[tuple[nn.Module, nn.BatchNorm2d | None]]:
    """Pair every convolution with the normalisation that follows it, and leave out what does nothing at inference."""
    layers = list(module) if isinstance(module, nn.Sequential) else [module]
    layers = [layer for layer in layers if not isinstance(layer, nn.Dropout | nn.Identity)]
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.Conv2d):
            yield layer, after if isinstance(after, nn.BatchNorm2d) else None
        elif not isinstance(layer, nn.BatchNorm2d):
            yield layer, None


class _Graph:
    """Nodes and constants of one file while it is being written."""

    def __init__(self, takes: str, gives: str) -> None:
        self.gives = gives
        self.tensor = takes
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, step: tuple[nn.Module, nn.BatchNorm2d | None], index: int) -> None:
        layer, normalisation = step
        if isinstance(layer, Normalise):
            self.normalise()
        elif isinstance(layer, nn.Conv2d) and layer.groups == 1 and isinstance(layer.padding, tuple):
            weight, bias = _folded(layer, normalisation)
            self.node(
                "Conv",
                constants={f"weight{index}": weight, f"bias{index}": bias},
                kernel_shape=list(layer.kernel_size),
                strides=list(layer.stride),
                dilations=list(layer.dilation),
                pads=[*layer.padding, *layer.padding],
            )
        elif isinstance(layer, nn.Linear):
            constants = {f"weight{index}": _array(layer.weight), f"bias{index}": _array(layer.bias)}
            self.node("Gemm", constants=constants, transB=1)
        elif isinstance(layer, nn.MaxPool2d) and layer.padding == 0 and not layer.ceil_mode:
            size, stride = _pair(layer.kernel_size), _pair(layer.stride)
            self.node("MaxPool", kernel_shape=size, strides=stride)
        elif isinstance(layer, nn.ReLU):
            self.node("Relu")
        elif isinstance(layer, nn.Flatten):
            self.node("Flatten", axis=1)
        else:
            raise InputError(f"segment {self.gives}: no ONNX form for {layer}, expected a layer of the backbones here")

    def normalise(self) -> None:
        """Write what `Normalise` does; the centred values are used twice, once for their own deviation."""
        self.node("Transpose", perm=[0, 3, 1, 2])
        self.node("Cast", to=TensorProto.FLOAT)
        values = self.tensor
        self.mean()
        mean, self.tensor = self.tensor, values
        self.node("Sub", mean)
        centred = self.tensor
        self.node("Mul", centred)
        self.mean()
        self.node("Sqrt")
        self.node("Add", constants={"floor": np.float32(FLOOR)})
        deviation, self.tensor = self.tensor, centred
        self.node("Div", deviation)

    def mean(self) -> None:
        """Average a frame axis by axis: ONNX Runtime sums naively in float32, and 150,000 values cost it digits."""
        for axis in (3, 2, 1):
            self.node("ReduceMean", axes=[axis], keepdims=1)

    def node(
        self, kind: str, *others: str, constants: Mapping[str, Weights | np.float32] | None = None, **attributes: Any
    ) -> None:
        given = constants or {}
        self.constants.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in given.items())
        after = f"{self.gives}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.tensor, *others, *given], [after], **attributes))
        self.tensor = after

    def finished(self) -> list[onnx.NodeProto]:
        self.nodes[-1].output[0] = self.gives
        return self.nodes


def _folded(layer: nn.Conv2d, normalisation: nn.BatchNorm2d | None) -> tuple[Weights, Weights]:
    weight = _array(layer.weight).astype(np.float64)
    bias = np.zeros(layer.out_channels) if layer.bias is None else _array(layer.bias).astype(np.float64)
    if normalisation is not None:
        mean, variance = normalisation.running_mean, normalisation.running_var
        assert mean is not None
        assert variance is not None
        scale = _array(normalisation.weight) / np.sqrt(_array(variance).astype(np.float64) + normalisation.eps)
        weight = weight * scale[:, None, None, None]
        bias = (bias - _array(mean)) * scale + _array(normalisation.bias)
    return weight.astype(np.float32), bias.astype(np.float32)


def _array(tensor: object) -> Weights:
    return np.asarray(tensor.detach().numpy(), dtype=np.float32)  # type: ignore[attr-defined]


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
