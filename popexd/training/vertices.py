"""Any classifier as a graph of vertices: what it reads, how large its output is, how much it computes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from popexd.errors import InputError
from popexd.profile import INPUT
from popexd.training.networks import darknet53, inception_v4

BYTES_PER_NUMBER = 4

FOLDED = (nn.BatchNorm2d, nn.LayerNorm, nn.Dropout, nn.Flatten, nn.Identity)
"""Modules that become part of what they read, besides activations and plain views."""

COUNTED_POOLS = frozenset({"alexnet"})
"""Networks whose adaptive pool is a vertex although it changes nothing at the usual size, as spec (b) counts them."""

_OWN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "darknet53": (darknet53, 256),
    "inception_v4": (inception_v4, 299),
}
_SIDES = {"inception_v3": 299}


@dataclass(frozen=True)
class Vertex:
    """One layer with all that is folded into it (batch normalisation, activation, dropout, views).

    Attributes:
        kind: what it does: `conv`, `linear`, `pool`, `add`, `concatenate`, ... .
        after: the vertices it reads, or `input`.
        shape: of its output for one image, without the batch.
        multiply_adds: of its convolution or linear layer.
        parameters: of all that is in it.
        input_numbers: numbers in what it reads.
        nodes: names in the trace.
    """

    name: str
    kind: str
    after: tuple[str, ...]
    shape: tuple[int, ...]
    multiply_adds: int
    parameters: int
    input_numbers: int
    nodes: tuple[str, ...] = field(repr=False)

    @property
    def output_numbers(self) -> int:
        """Numbers in its output."""
        return int(torch.Size(self.shape).numel())

    @property
    def output_bytes(self) -> int:
        """Bytes of its output as float32."""
        return BYTES_PER_NUMBER * self.output_numbers


@dataclass(frozen=True)
class Network:
    """A traced network and its vertices, in an order in which they can run."""

    name: str
    side: int
    traced: fx.GraphModule
    vertices: tuple[Vertex, ...]

    @property
    def input_bytes(self) -> int:
        """Bytes of one image as float32."""
        return BYTES_PER_NUMBER * 3 * self.side * self.side

    @property
    def multiply_adds(self) -> int:
        """Of all vertices together."""
        return sum(vertex.multiply_adds for vertex in self.vertices)

    @property
    def parameters(self) -> int:
        """Of all vertices together."""
        return sum(vertex.parameters for vertex in self.vertices)

    @property
    def cut_vertices(self) -> tuple[str, ...]:
        """The vertices that every path from the input to the end passes, but for the end itself."""
        last = {vertex.name: index for index, vertex in enumerate(self.vertices)}
        for index, vertex in enumerate(self.vertices):
            for parent in vertex.after:
                if parent != INPUT:
                    last[parent] = max(last[parent], index)
        reads_input = max(index for index, vertex in enumerate(self.vertices) if INPUT in vertex.after)
        found, open_until = [], reads_input
        for index, vertex in enumerate(self.vertices[:-1]):
            if open_until <= index:
                found.append(vertex.name)
            open_until = max(open_until, last[vertex.name])
        return tuple(found)

    def image(self, batch: int = 1) -> Tensor:
        """A random image of the usual size."""
        return torch.rand(batch, 3, self.side, self.side)


def load(name: str) -> Network:
    """Build a network by name, without trained weights: torchvision's classifiers, `darknet53`, `inception_v4`.

    Raises:
        InputError: no such classifier, or one that cannot be traced.
    """
    module, side = _module(name.replace("-", "_").lower())
    module.eval()
    try:
        traced = fx.symbolic_trace(module)
    except (TypeError, RuntimeError, fx.proxy.TraceError) as error:
        text = str(error).splitlines()[0][:100]
        raise InputError(f"--model: {name!r} cannot be traced ({text}), expected another classifier") from error
    return _Folding(name, side, traced).network()


def _module(name: str) -> tuple[nn.Module, int]:
    from torchvision import models

    if name in _OWN:
        build, side = _OWN[name]
        return build(), side
    known = models.list_models(module=models)
    if name not in known:
        from popexd.complaints import nearest

        raise InputError(f"--model: {name!r}{nearest(name, [*known, *_OWN])}")
    # Auxiliary heads are for training, and random initialisation only costs time.
    extra = {"aux_logits": False, "init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    module: nn.Module = models.get_model(name, weights=None, **extra)
    return module, _SIDES.get(name, 224)


class _Shapes(fx.Interpreter):
    """Runs the trace once and keeps every output's shape."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; keep the shape if it is a tensor's, the total of several as a flat one."""
        found = super().run_node(n)
        if isinstance(found, Tensor) and n.op not in ("get_attr", "output"):
            self.shapes[n.name] = tuple(found.shape[1:])
        elif isinstance(found, tuple | list) and any(isinstance(part, Tensor) for part in found):
            self.shapes[n.name] = (sum(part[0].numel() for part in found if isinstance(part, Tensor)),)
        return found


class _Folding:
    """Turns nodes into vertices."""

    def __init__(self, name: str, side: int, traced: fx.GraphModule) -> None:
        self.name, self.side, self.traced = name, side, traced
        self.modules = dict(traced.named_modules())
        shapes = _Shapes(traced)
        with torch.inference_mode():
            shapes.run(torch.zeros(1, 3, side, side))
        self.shapes = shapes.shapes
        self.owner: dict[str, str] = {}
        self.made: dict[str, dict[str, Any]] = {}

    def network(self) -> Network:
        """Fold, in the trace's order."""
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.owner[node.name] = INPUT
            elif node.op != "output" and node.name in self.shapes:
                self.add(node)
        vertices = tuple(Vertex(**each) for each in self.made.values())
        if not vertices:
            raise InputError(f"--model: {self.name!r} has no layers, expected a classifier")
        return Network(self.name, self.side, self.traced, vertices)

    def add(self, node: fx.Node) -> None:
        """Fold a node into what it reads, or make it a vertex."""
        parents = [each for each in node.all_input_nodes if each.name in self.owner]
        if not parents:
            return  # made of constants
        owners = tuple(dict.fromkeys(self.owner[each.name] for each in parents))
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        alone = len(parents) == 1 and len(self.readers(parents[0])) == 1 and owners[0] != INPUT
        if alone and self.folds(node, module, parents[0]):
            known = self.made[owners[0]]
            known["nodes"] = (*known["nodes"], node.name)
            if self.numbers(node) != torch.Size(known["shape"]).numel():  # a view keeps the map as it was
                known["shape"] = self.shapes[node.name]
            known["parameters"] += _parameters(module)
            self.owner[node.name] = owners[0]
            return
        self.owner[node.name] = node.name
        self.made[node.name] = {
            "name": node.name,
            "kind": _kind(node, module),
            "after": owners,
            "shape": self.shapes[node.name],
            "multiply_adds": _multiply_adds(module, self.shapes[node.name]),
            "parameters": _parameters(module),
            "input_numbers": sum(self.numbers(each) for each in parents),
            "nodes": (node.name,),
        }

    def numbers(self, node: fx.Node) -> int:
        """Numbers in a node's output; the image's for the input."""
        return int(torch.Size(self.shapes.get(node.name, (3, self.side, self.side))).numel())

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """Who reads the tensor itself, not only its size."""
        return [each for each in node.users if each.name in self.shapes]

    def folds(self, node: fx.Node, module: nn.Module | None, parent: fx.Node) -> bool:
        """Whether a node with one parent, which nobody else reads, is no vertex of its own."""
        if module is None:
            return _view_or_activation(node)
        if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            return self.name not in COUNTED_POOLS and self.shapes[node.name] == self.shapes[parent.name]
        plain = not list(module.parameters()) and "activation" in type(module).__module__
        return isinstance(module, FOLDED) or plain


_VIEWS = frozenset({"flatten", "view", "reshape", "contiguous", "squeeze", "unsqueeze", "permute", "transpose"})
_IDLE = frozenset({"dropout", "stochastic_depth"})  # outside of training
_ACTIVATIONS = frozenset({"relu", "relu6", "relu_", "sigmoid", "hardswish", "hardsigmoid", "silu", "gelu", "softmax"})
_KINDS: Mapping[str, str] = {
    "add": "add",
    "iadd": "add",
    "cat": "concatenate",
    "concat": "concatenate",
    "mul": "multiply",
    "imul": "multiply",
    "mean": "pool",
    "adaptive_avg_pool2d": "pool",
    "avg_pool2d": "pool",
    "max_pool2d": "pool",
}


def _target(node: fx.Node) -> str:
    if isinstance(node.target, str):
        return node.target.rpartition(".")[2]
    return getattr(node.target, "__name__", str(node.target))


def _view_or_activation(node: fx.Node) -> bool:
    picks = node.target is operator.getitem and len(node.all_input_nodes) == 1
    return picks or _target(node) in _VIEWS | _IDLE | _ACTIVATIONS


def _kind(node: fx.Node, module: nn.Module | None) -> str:
    match module:
        case nn.Conv2d():
            return "depthwise" if module.groups > 1 else "conv"
        case nn.Linear():
            return "linear"
        case None:
            return _KINDS.get(_target(node), "other")
    return "pool" if "Pool" in type(module).__name__ else "other"


def _parameters(module: nn.Module | None) -> int:
    return 0 if module is None else sum(each.numel() for each in module.parameters())


def _multiply_adds(module: nn.Module | None, shape: tuple[int, ...]) -> int:
    if isinstance(module, nn.Conv2d | nn.Linear):
        return int(torch.Size(shape).numel()) * int(module.weight[0].numel())
    return 0
