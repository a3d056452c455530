"""Tensor messages for the default model, cut wherever a test likes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popexd.bundle import Bundle, load
from popexd.plan import Tier
from popexd.protocol import codec
from popexd.protocol.tensors import Stage, TensorMessage
from popexd.runtime import frames
from popexd.runtime.background import reference_frame
from popexd.runtime.segments import SegmentRunner


@cache
def bundle() -> Bundle:
    """The model of these tests."""
    return load("default")


@cache
def runner() -> SegmentRunner:
    """The model, loaded; for the test's own thread."""
    return SegmentRunner(bundle(), 1)


def names() -> list[str]:
    """Its segments in order."""
    return [segment.name for segment in bundle().segments]


@cache
def frame() -> bytes:
    """A camera's JPEG file."""
    return reference_frame(160, 120)


def pixels(file: bytes | None = None) -> NDArray[np.uint8]:
    """The decoded picture, at the network's size."""
    return frames.load_image(frame() if file is None else file, bundle().input.height, bundle().input.width)


def whole(file: bytes | None = None) -> NDArray[Any]:
    """The whole model's logits."""
    return runner().run({"input": pixels(file)}, names())[names()[-1]].reshape(-1)


def rest(cut: str) -> tuple[str, ...]:
    """The segments that follow a cut."""
    return tuple(names()) if cut == "input" else tuple(names()[names().index(cut) + 1 :])


def message(cut: str = "pool2", name: str = "f32", file: bytes | None = None, **over: Any) -> TensorMessage:
    """What a device ships that cut the model after `cut`, with the codec `name`; one stage, in the cloud."""
    if codec.is_image_codec(name):
        data = frame() if file is None else file
        sent = data if name == "camera" else frames.encode_image(pixels(data), name)
        tensors = {"input": codec.image(sent, name)}
    else:
        head = names()[: len(names()) - len(rest(cut))]
        live = runner().run({"input": pixels(file)}, head) if head else {"input": pixels(file)}
        tensors = {each: codec.encode(tensor, name) for each, tensor in live.items()}
    made = TensorMessage(
        frame_id="boot-1",
        device="box",
        fingerprint=bundle().fingerprint,
        plan_id="boot-1",
        attempt=1,
        route=(Stage(Tier.CLOUD, rest(cut)),),
        deadline_seconds=30.0,
        tensors=tensors,
    )
    return replace(made, **over)
