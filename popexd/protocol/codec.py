"""Tensor codecs: how a feature tensor becomes bytes on the wire and a tensor again.

===========  ==========================================================  ===================
codec        what is sent                                                error
===========  ==========================================================  ===================
``f32``      every value as float32; a uint8 tensor too (the papers'     none
             raw tensor), restored to uint8
``f16``      every value as float16                                      2^-11 relative
``q8``       affine codes 0…255, one per byte                            half a step
``q4``       affine codes 0…15, two per byte                             half a step
``q2``       affine codes 0…3, four per byte                             half a step
===========  ==========================================================  ===================

The suffix ``c`` (``q8c``) takes one step and offset per channel (axis 1) of a tensor with three or more axes;
``+zstd`` compresses the bytes. A decoded value is ``scale * code + zero``. At the input cut an image codec takes their
place, whose bytes this module only carries.
"""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from popexd.errors import MessageRejected

CODECS: tuple[str, ...] = tuple(
    base + packing for base in ("f32", "f16", "q8", "q8c", "q4", "q4c", "q2", "q2c") for packing in ("", "+zstd")
)
DTYPES: tuple[str, ...] = ("float32", "float16", "float64", "uint8")
MAX_ELEMENTS = 8 * 1024 * 1024
MAX_AXES = 8

_NAME = re.compile(r"(?P<kind>f32|f16|q8|q4|q2)(?P<channel>(?<=q[842])c)?(?P<zstd>\+zstd)?")
_IMAGE = re.compile(r"camera|(?:jpeg|webp)-(?:[1-9][0-9]?|100)")
_BITS = {"f32": 32, "f16": 16, "q8": 8, "q4": 4, "q2": 2}
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_QUANTISED = 3e38  # far enough below for every rounding on the way back
_NO_PARAMETERS: NDArray[np.float32] = np.empty(0, np.float32)
# All codes of one packed byte, as one little-endian word.
_UNPACK4: NDArray[Any] = np.array([b & 15 | b >> 4 << 8 for b in range(256)], "<u2")
_UNPACK2: NDArray[Any] = np.array(
    [b & 3 | (b >> 2 & 3) << 8 | (b >> 4 & 3) << 16 | b >> 6 << 24 for b in range(256)], "<u4"
)
# A zstd context must not be used by two threads at once and costs more to make than a small tensor to compress:
# whoever needs one takes it out of the pool (deque operations are atomic) and puts it back.
_compressors: deque[zstandard.ZstdCompressor] = deque()
_decompressors: deque[zstandard.ZstdDecompressor] = deque()


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One tensor as bytes, with what is needed to restore it; an image codec's `data` is the image file.

    `dtype` and `shape` are the original tensor's; `scale` and `zero` (float32) hold one number, or one per channel.
    """

    data: bytes
    codec: str
    dtype: str
    shape: tuple[int, ...]
    scale: NDArray[np.float32] = field(default_factory=lambda: _NO_PARAMETERS)
    zero: NDArray[np.float32] = field(default_factory=lambda: _NO_PARAMETERS)

    @property
    def size_bytes(self) -> int:
        """Bytes that have to travel for this tensor: data and parameters, without the message's envelope."""
        return len(self.data) + self.scale.nbytes + self.zero.nbytes


def is_feature_codec(name: str) -> bool:
    """Tell whether `name` is a codec of this module, to be used with `encode` and `decode`."""
    return _NAME.fullmatch(name) is not None


def is_image_codec(name: str) -> bool:
    """Tell whether `name` is `camera`, `jpeg-<1…100>` or `webp-<1…100>`: an image at the input cut."""
    return _IMAGE.fullmatch(name) is not None


def image(data: bytes, codec: str) -> Encoded:
    """Carry the bytes of an image file under the image codec `codec`."""
    if not is_image_codec(codec):
        raise MessageRejected("codec", f"{codec!r} is not an image codec")
    return Encoded(data, codec, "uint8", (len(data),))


def encode(array: NDArray[Any], codec: str) -> Encoded:
    """Encode a tensor of any shape and of a type in `DTYPES`.

    Values that the codec cannot express (NaN, infinities, float16 overflow) make it fall back to `f32`, which the
    result's `codec` tells.

    Raises
    ------
    MessageRejected
        With the reason `codec`, `dtype` or `values` (a float64 beyond float32).
    """
    kind, per_channel, zstd = _parse(codec)
    dtype = array.dtype.name
    if dtype not in DTYPES:
        raise MessageRejected("dtype", f"{dtype} tensors cannot be sent, expected one of {', '.join(DTYPES)}")
    scale = zero = _NO_PARAMETERS
    values = _float32(array)
    if kind == "f32":
        data = values.astype("<f4", copy=False).tobytes()
    elif kind == "f16":
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        if not np.isfinite(halves).all():
            return encode(array, _fallback(zstd))
        data = halves.tobytes()
    else:
        quantised = _quantise(values, _BITS[kind], _channels(array.shape) if per_channel else 1)
        if quantised is None:
            return encode(array, _fallback(zstd))
        codes, scale, zero = quantised
        data = _pack(codes, _BITS[kind])
    return Encoded(_compress(data) if zstd else data, codec, dtype, array.shape, scale, zero)


def decode(encoded: Encoded, max_elements: int = MAX_ELEMENTS) -> NDArray[Any]:
    """Restore the tensor; everything is checked before anything is allocated. The array may be read-only.

    Raises
    ------
    MessageRejected
        With the reason `codec`, `dtype`, `shape`, `too-large`, `length`, `scale`, `zstd` or `values`.
    """
    kind, per_channel, zstd = _parse(encoded.codec)
    if encoded.dtype not in DTYPES:
        raise MessageRejected("dtype", f"unknown type {encoded.dtype!r}")
    count = _checked_count(encoded.shape, max_elements)
    channels = _channels(encoded.shape) if per_channel else 1
    _check_parameters(encoded, channels if kind.startswith("q") else 0, (1 << _BITS[kind]) - 1)
    expected = (count * _BITS[kind] + 7) // 8
    data = _decompress(encoded.data, expected) if zstd else encoded.data
    if len(data) != expected:
        raise MessageRejected("length", f"{len(data)} bytes, expected {expected} for {encoded.codec} {encoded.shape}")
    if kind == "f32":
        values: NDArray[Any] = np.frombuffer(data, "<f4").reshape(encoded.shape)
    elif kind == "f16":
        values = np.frombuffer(data, "<f2").reshape(encoded.shape)
    else:
        values = _dequantise(_unpack(data, _BITS[kind], count), encoded)
    return _restored(values, encoded.dtype)


def _parse(codec: str) -> tuple[str, bool, bool]:
    match = _NAME.fullmatch(codec)
    if match is None:
        raise MessageRejected("codec", f"{codec[:40]!r} is not a tensor codec")
    return match["kind"], match["channel"] is not None, match["zstd"] is not None


def _fallback(zstd: bool) -> str:
    return "f32+zstd" if zstd else "f32"


def _channels(shape: tuple[int, ...]) -> int:
    """Return how many scales a per-channel codec takes; with fewer than three axes a channel is but one value: one."""
    return shape[1] if len(shape) > 2 else 1


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype != np.float64:
        return np.ascontiguousarray(array, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(array, np.float32)
    if not np.array_equal(np.isfinite(values), np.isfinite(array)):
        raise MessageRejected("values", "float64 values beyond the range of float32")
    return values


def _quantise(
    values: NDArray[np.float32], bits: int, channels: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]] | None:
    """Return codes (flat), scale and zero; None where the values or their range are not finite."""
    levels = (1 << bits) - 1
    if values.size == 0:
        return np.empty(0, np.uint8), np.ones(channels, np.float32), np.zeros(channels, np.float32)
    planes = values.reshape(values.shape[0], channels, -1) if channels > 1 else values.reshape(1, 1, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        low = planes.min(axis=(0, 2))
        high = planes.max(axis=(0, 2))
        span = high - low
        reach = np.maximum(np.maximum(np.abs(low), np.abs(high)), span)
    if not (reach <= _LARGEST_QUANTISED).all():
        return None
    scale = np.maximum(span / np.float32(levels), np.float32(_SMALLEST_SCALE))
    # The offset of a half makes the cast, which truncates, round to nearest.
    steps = planes - low[:, None]
    steps *= (np.float32(1) / scale)[:, None]
    steps += np.float32(0.5)
    return steps.astype(np.uint8).reshape(-1), scale, low


def _dequantise(codes: NDArray[np.uint8], encoded: Encoded) -> NDArray[np.float32]:
    values = codes.astype(np.float32)
    if encoded.scale.size == 1:
        values *= encoded.scale[0]
        values += encoded.zero[0]
    elif values.size:
        planes = values.reshape(encoded.shape[0], encoded.scale.size, -1)
        planes *= encoded.scale[:, None]
        planes += encoded.zero[:, None]
    return values.reshape(encoded.shape)


def _restored(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "uint8":
        if values.size and not (values.min() > -1 and values.max() < 256):
            raise MessageRejected("values", "values outside 0…255 for a uint8 tensor")
        values = np.rint(values).clip(0, 255)
    with np.errstate(over="ignore"):
        restored: NDArray[Any] = values.astype(dtype, copy=False)
    return restored


def _pack(codes: NDArray[np.uint8], bits: int) -> bytes:
    if bits == 8:
        return codes.tobytes()
    per_byte = 8 // bits
    if codes.size % per_byte:
        codes = np.concatenate([codes, np.zeros(per_byte - codes.size % per_byte, np.uint8)])
    words: NDArray[Any]
    if bits == 4:
        words = codes.view("<u2")
        words = words | words >> 4
    else:
        words = codes.view("<u4")
        words = words | words >> 6 | words >> 12 | words >> 18
    packed: NDArray[np.uint8] = words.astype(np.uint8)
    return packed.tobytes()


def _unpack(data: bytes, bits: int, count: int) -> NDArray[np.uint8]:
    packed = np.frombuffer(data, np.uint8)
    if bits == 8:
        return packed
    words = (_UNPACK4 if bits == 4 else _UNPACK2)[packed]
    return words.view(np.uint8)[:count]


def _checked_count(shape: tuple[int, ...], max_elements: int) -> int:
    if len(shape) > MAX_AXES or any(size < 0 for size in shape):
        raise MessageRejected("shape", f"{len(shape)} axes, expected at most {MAX_AXES} of no negative size")
    # An empty tensor must not smuggle in a huge axis: every axis counts as at least one.
    if math.prod(max(size, 1) for size in shape) > max_elements:
        raise MessageRejected("too-large", f"more than {max_elements} elements")
    return math.prod(shape)


def _check_parameters(encoded: Encoded, expected: int, levels: int) -> None:
    scale, zero = encoded.scale, encoded.zero
    if scale.shape != (expected,) or zero.shape != (expected,):
        raise MessageRejected("scale", f"{scale.size} scales and {zero.size} offsets, expected {expected}")
    if expected == 0:
        return
    span = scale.astype(np.float64) * levels
    reach = np.maximum(np.maximum(np.abs(zero), np.abs(span + zero)), span)
    if not (scale > 0).all() or not (reach <= _LARGEST).all():
        raise MessageRejected("scale", "scales and offsets must be finite and scales positive")


def _compress(data: bytes) -> bytes:
    try:
        context = _compressors.pop()
    except IndexError:
        context = zstandard.ZstdCompressor(level=1)
    compressed = context.compress(data)
    _compressors.append(context)
    return compressed


def _decompress(data: bytes, expected: int) -> bytes:
    """Decompress one zstd frame that announces exactly `expected` bytes."""
    try:
        if zstandard.frame_content_size(data) != expected:
            raise MessageRejected("zstd", f"the frame does not announce {expected} bytes")
        try:
            context = _decompressors.pop()
        except IndexError:
            context = zstandard.ZstdDecompressor()
        plain = context.decompress(data, max_output_size=expected, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MessageRejected("zstd", str(error)) from error
    _decompressors.append(context)
    return plain
