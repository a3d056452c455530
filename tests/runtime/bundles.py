"""Small bundles made of a few ONNX nodes, and the whole model that their segments come from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from popexd import bundle
from popexd.bundle import Bundle
from popexd.errors import BundleError

CLASSES = ("bolt", "nut", "ring")
SIDE = 16
# name, after, [nodes as (op, attributes)], shape; what a name in `after` gives is what the segment reads.
DIAMOND: list[tuple[str, tuple[str, ...], tuple[int, ...]]] = [
    ("stem", ("input",), (1, 4, 8, 8)),
    ("left", ("stem",), (1, 4, 8, 8)),
    ("right", ("stem",), (1, 4, 8, 8)),
    ("join", ("left", "right"), (1, 4, 8, 8)),
    ("head", ("join", "stem"), (1, 3)),
]


def weights(name: str, *shape: int) -> Any:
    """Make a named initialiser that depends on its name only."""
    values = np.random.default_rng(sum(name.encode())).normal(size=shape).astype(np.float32) * 0.3
    return numpy_helper.from_array(values, name)


def nodes_of(name: str) -> tuple[list[Any], list[Any]]:
    """Return the ONNX nodes of one segment or branch, and their initialisers."""
    node = helper.make_node
    if name == "stem":
        return [
            node("Cast", ["input"], ["floats"], to=TensorProto.FLOAT),
            node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
            node("Mul", ["planes", "shrink"], ["small"]),
            node("Conv", ["small", "stem_w"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            node("Relu", ["maps"], ["stem"]),
        ], [weights("stem_w", 4, 3, 3, 3), numpy_helper.from_array(np.float32(1 / 255), "shrink")]
    if name in ("left", "right"):
        return [
            node("Conv", ["stem", f"{name}_w"], [f"{name}_maps"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            node("Relu", [f"{name}_maps"], [name]),
        ], [weights(f"{name}_w", 4, 4, 3, 3)]
    if name == "join":
        return [node("Add", ["left", "right"], ["join"])], []
    before = {"head": ["join", "stem"], "early": ["stem"]}[name]
    first = [node("Add", before, ["sum"])] if len(before) > 1 else [node("Identity", before, ["sum"])]
    flat = node("Flatten", ["sum"], [f"{name}_flat"])
    return [*first, flat, node("MatMul", [f"{name}_flat", f"{name}_w"], [name])], [weights(f"{name}_w", 256, 3)]


def model(inputs: dict[str, tuple[int, ...]], names: list[str], output: str, shape: tuple[int, ...]) -> bytes:
    """Make an ONNX file of the nodes of some segments."""
    nodes, initialisers = [], []
    for name in names:
        found = nodes_of(name)
        nodes += found[0]
        initialisers += found[1]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(name, TensorProto.UINT8 if name == "input" else TensorProto.FLOAT, side)
            for name, side in inputs.items()
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        initialisers,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    stream: bytes = made.SerializeToString()
    return stream


def diamond(folder: Path, **files: bytes) -> Bundle:
    """Write a bundle that forks and joins, with a tensor that is needed again at its end, and an early branch."""
    shapes = {"input": (1, SIDE, SIDE, 3)} | {name: shape for name, _, shape in DIAMOND}
    content = {
        f"segments/{name}.onnx": model({parent: shapes[parent] for parent in after}, [name], name, shape)
        for name, after, shape in DIAMOND
    }
    content["segments/early.onnx"] = model({"stem": shapes["stem"]}, ["early"], "early", (1, 3))
    content["validation.npz"] = validation()
    content |= {f"segments/{name}.onnx": data for name, data in files.items()}
    facts = {
        "schema": "popexd/bundle/1",
        "name": "diamond",
        "classes": list(CLASSES),
        "input": {"name": "input", "height": SIDE, "width": SIDE, "channels": 3, "dtype": "uint8", "layout": "NHWC"},
        "segments": [
            {
                "name": name,
                "file": f"segments/{name}.onnx",
                "after": list(after),
                "output": {"shape": list(shape), "dtype": "float32"},
            }
            for name, after, shape in DIAMOND
        ],
        "exits": [
            {
                "name": "early",
                "after": "stem",
                "file": "segments/early.onnx",
                "temperature": 1.5,
                "threshold": 0.9,
                "criterion": "confidence",
            }
        ],
        "codecs": {
            "input": {
                "camera": {"bytes": 2500, "accuracy": 0.9, "agreement": 1.0},
                "jpeg-90": {"bytes": 900, "accuracy": 0.9, "agreement": 1.0},
                "webp-75": {"bytes": 300, "accuracy": 0.8, "agreement": 0.9},
            },
            "stem": {"f32": {"bytes": 1024, "accuracy": 0.9, "agreement": 1.0}}
            | {codec: {"bytes": 200, "accuracy": 0.9, "agreement": 0.99} for codec in ("q8+zstd", "q4c")},
        },
        "validation": {"file": "validation.npz", "samples": 8, "accuracy": {}, "shares": {}},
        "training": {},
    }
    return bundle.write(folder, facts, content)


def validation() -> bytes:
    """Make a validation table of eight samples."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        exits=np.array(["early", "final"]),
        confidence=np.linspace(0.5, 1, 16, dtype=np.float32).reshape(2, 8),
        correct=np.ones((2, 8), dtype=bool),
        predicted=np.zeros((2, 8), dtype=np.uint8),
        label=np.zeros(8, dtype=np.uint8),
        quality=np.array(["clear"] * 8),
    )
    return stream.getvalue()


def whole_logits(pixels: np.ndarray) -> np.ndarray:
    """Run the whole diamond as one model in one session."""
    names = [name for name, _, _ in DIAMOND]
    session = onnxruntime.InferenceSession(
        model({"input": (1, SIDE, SIDE, 3)}, names, "head", (1, 3)), providers=["CPUExecutionProvider"]
    )
    logits: np.ndarray = session.run(None, {"input": pixels})[0]
    return logits


def frame(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Make the pixels of a frame."""
    return np.random.default_rng(seed).integers(0, 256, (1, side, side, 3), dtype=np.uint8)


def default_bundle() -> Bundle:
    """Load the bundle that ships with the package, or skip the test while there is none."""
    try:
        return bundle.load("default")
    except BundleError as error:
        pytest.skip(str(error))
