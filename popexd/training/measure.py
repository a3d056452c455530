"""What the codecs cost an early-exit net on held-out frames: bytes, accuracy, answers kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from popexd.protocol import codec as tensor_codec
from popexd.runtime.frames import encode_image, load_image
from popexd.training.data import Split
from popexd.training.early_exit import EarlyExitNet

IMAGE_CODECS = ("jpeg-90", "jpeg-75", "jpeg-50", "webp-75", "webp-50")

BATCH = 64

Progress = Callable[[int, int], None]
CodecTable = dict[str, dict[str, dict[str, float]]]


def codec_table(net: EarlyExitNet, split: Split, frames: int, on_frames: Progress | None = None) -> CodecTable:
    """Measure every codec at every cut on the first `frames` of a split: mean bytes, accuracy, answers kept.

    "Answers kept" (agreement) is the share of the final exit's answers that are the same as without the codec.
    """
    count = min(frames, len(split))
    tally = _Tally()
    for start in range(0, count, BATCH):
        if on_frames is not None:
            on_frames(start, count)
        images = np.array(split.images[start : min(start + BATCH, count)])
        with torch.inference_mode():
            logits, outputs = net.resume("input", torch.from_numpy(images))
        plain = [int(each) for each in logits[-1].argmax(dim=1)]
        tally.note("input", "camera", plain, split.camera_bytes[start : start + len(images)])
        tally.note("input", "f32", plain, [image.nbytes for image in images])
        _try_image_codecs(net, images, tally)
        for cut in net.names[:-1]:
            _try_tensor_codecs(net, cut, outputs[cut].contiguous().numpy(), tally)
    return tally.table(split.labels[:count])


class _Tally:
    """Answers and bytes of every frame, by cut and codec."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.bytes: dict[tuple[str, str], list[int]] = defaultdict(list)

    def note(self, cut: str, codec: str, answers: Iterable[int], sizes: Iterable[int]) -> None:
        self.answers[cut, codec].extend(answers)
        self.bytes[cut, codec].extend(sizes)

    def table(self, labels: npt.NDArray[np.uint8]) -> CodecTable:
        plain = np.array(self.answers["input", "f32"])
        found: CodecTable = {}
        for (cut, codec), given in self.answers.items():
            found.setdefault(cut, {})[codec] = {
                "bytes": round(float(np.mean(self.bytes[cut, codec])), 1),
                "accuracy": round(float((np.array(given) == labels).mean()), 5),
                "agreement": round(float((np.array(given) == plain).mean()), 5),
            }
        return found


def _try_image_codecs(net: EarlyExitNet, images: npt.NDArray[np.uint8], tally: _Tally) -> None:
    for name in IMAGE_CODECS:
        files = [encode_image(image, name) for image in images]
        seen = np.concatenate([load_image(file, net.side, net.side) for file in files])
        tally.note("input", name, _answers(net, "input", seen), [len(file) for file in files])


def _try_tensor_codecs(net: EarlyExitNet, cut: str, tensors: npt.NDArray[np.float32], tally: _Tally) -> None:
    for name in tensor_codec.CODECS:
        if name.endswith("+zstd"):
            continue
        encoded = [tensor_codec.encode(tensor[None], name) for tensor in tensors]
        answers = _answers(net, cut, np.concatenate([tensor_codec.decode(one) for one in encoded]))
        tally.note(cut, name, answers, [one.size_bytes for one in encoded])
        packed = [tensor_codec.encode(tensor[None], f"{name}+zstd").size_bytes for tensor in tensors]
        tally.note(cut, f"{name}+zstd", answers, packed)


def _answers(net: EarlyExitNet, cut: str, tensors: npt.NDArray[Any]) -> Iterable[int]:
    """The final exit's class for every frame, run on from a cut."""
    with torch.inference_mode():
        logits, _ = net.resume(cut, torch.from_numpy(np.array(tensors)))
    return [int(each) for each in logits[-1].argmax(dim=1)]
