"""Segments and branches as ONNX files: torch's exporter writes the whole net once, and it is cut at its named outputs.

Every segment's output is one of the net's outputs, so no optimisation reaches across a cut; batch normalisation is
folded into the convolution before it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx.utils
import torch
from torch import Tensor, nn

from popexd.errors import InputError
from popexd.training.early_exit import EarlyExitNet

# What the oldest ONNX Runtime that we allow (1.18) reads; newer torches would write newer ones by default.
OPSET = 20
IR_VERSION = 10

_OUTPUT = "output "


def files_of(net: EarlyExitNet, pixels: Tensor) -> dict[str, bytes]:
    """Write every segment and every branch of a net as an ONNX model: by name, for one frame shaped as `pixels`.

    A segment reads the tensor named after the one before it ("input" for the first, uint8) and writes its own; a branch
    writes its logits. Raises InputError where torch cannot export it.
    """
    names = (*net.names, *(place.name for place in net.places))
    reads = dict(zip(net.names, ("input", *net.names), strict=False)) | {each.name: each.after for each in net.places}
    whole = _exported(net, pixels, names)
    # The cutter looks a cut tensor's type up among the values inside, where an output is not.
    whole.graph.value_info.extend(whole.graph.output)
    cutter = onnx.utils.Extractor(whole)
    files = {}
    for name in names:
        part = cutter.extract_model([reads[name]], [name])
        part.producer_name = "popexd"
        onnx.checker.check_model(part)
        files[name] = bytes(part.SerializeToString())
    return files


class _Opened(nn.Module):
    """The net with every segment's output among its outputs."""

    def __init__(self, net: EarlyExitNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Every segment's output, then every branch's."""
        logits, outputs = self.net.resume("input", pixels)
        return (*outputs.values(), *logits[:-1])


def _exported(net: EarlyExitNet, pixels: Tensor, names: tuple[str, ...]) -> onnx.ModelProto:
    try:
        with _quiet():
            program = torch.onnx.export(
                _Opened(net).eval(),
                (pixels,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=[f"{_OUTPUT}{name}" for name in names],
                verbose=False,
            )
        assert program is not None
        model: onnx.ModelProto = program.model_proto
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        first_line = str(error).strip().splitlines()[0][:100]
        raise InputError(f"export: torch cannot write {net.backbone} as ONNX: {first_line}") from error
    model.ir_version = min(model.ir_version, IR_VERSION)
    _rename(model.graph, names)
    return model


def _rename(graph: onnx.GraphProto, names: tuple[str, ...]) -> None:
    """Give the outputs their names; what torch itself named so inside (`relu`) makes room."""
    new = {name: f"inner {name}" for name in names} | {f"{_OUTPUT}{name}": name for name in names}
    for node in graph.node:
        node.input[:] = [new.get(each, each) for each in node.input]
        node.output[:] = [new.get(each, each) for each in node.output]
    for value in (*graph.output, *graph.value_info, *graph.initializer):
        value.name = new.get(value.name, value.name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own progress and advice to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
