"""Camera frames: told apart by their first bytes, bounded by their header, decoded by Pillow behind this door.

Orientation tags are ignored and transparency is dropped: a fixed camera's pixels are taken as they are, and the device
and every worker make the same tensor of the same bytes.
"""

from __future__ import annotations

import binascii
import io
import json
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from popexd.errors import FrameRejected
from popexd.protocol.nesting import nested_deeper

ImageFormat = Literal["jpeg", "png", "webp"]
_FORMATS = ("JPEG", "PNG", "WEBP")
_PIXELS = 50_000_000
# Start-of-frame markers of JPEG; C4, C8 and CC in between mean something else.
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# A progressive JPEG has ten or so. Each is as much work as the whole picture, and may take but a dozen bytes.
_MOST_SCANS = 64
_BLANKS = b" \t\r\n"


class Limits(Protocol):
    """The largest frame that is accepted."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of the image file."""

    @property
    def frame_pixels(self) -> int:
        """Width times height, from the file's header."""


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """The defaults of the configuration's `[limits]`."""

    frame_bytes: int = 8_000_000
    frame_pixels: int = _PIXELS


DEFAULT_LIMITS = FrameLimits()


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image file as it came from the camera, not decoded; its size is what its header says."""

    data: bytes
    format: ImageFormat
    width: int
    height: int


def sniff(payload: bytes, limits: Limits = DEFAULT_LIMITS) -> ImageBytes:
    """Find the image file in a frame's payload and check its type and size, without decoding it.

    Accepted: JPEG, PNG or WebP bytes as they are; the same as a data URI or bare base64 (line breaks allowed); JSON
    with either of these under `image` or `data`.

    Raises
    ------
    FrameRejected
        With the reason `empty`, `type`, `truncated`, `too-large`, `pixels`, `scans`, `json` or `base64`.
    """
    # Base64 in JSON takes less than half as much again as the file, line breaks included.
    if len(payload) > limits.frame_bytes * 3 // 2 + 1024:
        raise FrameRejected("too-large", f"{len(payload)} bytes")
    data = payload if _format(payload) else _unwrapped(payload)
    if len(data) > limits.frame_bytes:
        raise FrameRejected("too-large", f"{len(data)} bytes, expected at most {limits.frame_bytes}")
    found = _format(data)
    if found is None:
        raise FrameRejected("empty" if not data else "type", f"no JPEG, PNG or WebP: starts with {data[:8].hex()}")
    width, height = {"jpeg": _jpeg_size, "png": _png_size, "webp": _webp_size}[found](data)
    _check_pixels(width, height, limits.frame_pixels)
    return ImageBytes(data, found, width, height)


def load_image(data: bytes, height: int, width: int, max_pixels: int = _PIXELS) -> NDArray[np.uint8]:
    """Decode an image file and resize it bilinearly to uint8 RGB [1, height, width, 3]; its aspect is not kept.

    A JPEG of more than twice the size is decoded at a half, a quarter or an eighth (the decoder's own scaling).

    Raises
    ------
    FrameRejected
        With the reason `type`, `pixels`, `truncated` or `decode`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            _check_pixels(file.width, file.height, max_pixels)
            if file.format == "JPEG":
                file.draft("RGB", (width, height))
            picture = _rgb(file)
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(picture)[None]
    except FrameRejected:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything over a damaged file
        raise _translated(error) from error


def encode_image(pixels: NDArray[np.uint8], codec: str) -> bytes:
    """Encode uint8 RGB [1, height, width, 3] or [height, width, 3] with `jpeg-<quality>` or `webp-<quality>`.

    Raises
    ------
    FrameRejected
        With the reason `codec` or `decode`.
    """
    kind, _, quality = codec.partition("-")
    if kind not in ("jpeg", "webp") or not quality.isdecimal() or not 1 <= int(quality) <= 100:
        raise FrameRejected("codec", f"{codec!r}, expected jpeg-<1…100> or webp-<1…100>")
    stream = io.BytesIO()
    try:
        picture = Image.fromarray(np.ascontiguousarray(pixels.reshape(pixels.shape[-3:])), "RGB")
        if kind == "jpeg":
            picture.save(stream, "JPEG", quality=int(quality))
        else:
            picture.save(stream, "WEBP", quality=int(quality), method=_WEBP_METHOD)
    except Exception as error:
        raise FrameRejected("decode", f"cannot encode as {codec}: {error}") from error
    return stream.getvalue()


# Of the encoder's 0…6: beyond it the size falls by a per cent or two and the time doubles.
_WEBP_METHOD = 2


def _format(data: bytes) -> ImageFormat | None:
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def _unwrapped(payload: bytes) -> bytes:
    text = payload.strip(_BLANKS)
    if not text:
        raise FrameRejected("empty", "no bytes")
    if text[:1] == b"{":
        text = _json_member(text).strip(_BLANKS)
        if not text:
            raise FrameRejected("empty", "an empty string in JSON")
        return _from_uri(text) if text[:5].lower() == b"data:" else _from_base64(text)
    if text[:5].lower() == b"data:":
        return _from_uri(text)
    try:
        return _from_base64(text)
    except FrameRejected:
        reason = "truncated" if _is_stump(payload) else "type"
        raise FrameRejected(reason, f"no image, data URI, base64 or JSON: starts with {payload[:8].hex()}") from None


def _is_stump(payload: bytes) -> bool:
    """Tell whether these few bytes are how an image file begins."""
    beginnings = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
    return any(beginning.startswith(payload) for beginning in beginnings) or (
        payload[:4] == b"RIFF" and b"WEBP".startswith(payload[8:12]) and len(payload) < 12
    )


def _json_member(text: bytes) -> bytes:
    if nested_deeper(text):
        raise FrameRejected("json", "nested too deeply")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameRejected("json", f"not JSON: {str(error)[:80]}") from error
    members = content if isinstance(content, dict) else {}
    for key in ("image", "data"):
        if isinstance(value := members.get(key), str):
            return value.encode(errors="replace")
    raise FrameRejected("json", "expected a string under `image` or `data`")


def _from_uri(text: bytes) -> bytes:
    head, comma, content = text.partition(b",")
    if not comma or not head.lower().endswith(b";base64"):
        raise FrameRejected("base64", "a data URI, expected data:<type>;base64,<content>")
    return _from_base64(content)


def _from_base64(text: bytes) -> bytes:
    plain = text.translate(None, _BLANKS)
    plain += b"=" * (-len(plain) % 4)
    try:
        return binascii.a2b_base64(plain, strict_mode=True)
    except binascii.Error as error:
        raise FrameRejected("base64", str(error)) from error


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if not 1 <= width * height <= max_pixels:
        raise FrameRejected("pixels", f"{width} x {height} pixels, expected 1 to {max_pixels}")


def _truncated() -> FrameRejected:
    return FrameRejected("truncated", "ends within its header")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    if data.count(b"\xff\xda") > _MOST_SCANS:
        raise FrameRejected("scans", f"a JPEG of more than {_MOST_SCANS} scans")
    # Pillow refuses a JPEG without its end marker: so do we, before it is sent anywhere undecoded.
    if data.rfind(b"\xff\xd9") < 0:
        raise FrameRejected("truncated", "a JPEG without its end")
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            raise _truncated()
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            raise FrameRejected("type", "a JPEG without a frame header")
        if position + 9 > len(data):
            raise _truncated()
        if marker in _START_OF_FRAME:
            return int.from_bytes(data[position + 7 : position + 9]), int.from_bytes(data[position + 5 : position + 7])
        position += 2 + int.from_bytes(data[position + 2 : position + 4])


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 24:
        raise _truncated()
    if data[12:16] != b"IHDR":
        raise FrameRejected("type", "a PNG that does not begin with its header")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _webp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 30 or 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise FrameRejected("truncated", f"a WebP of {len(data)} bytes")
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    raise FrameRejected("type", f"a WebP that begins with {kind!r}")


def _rgb(file: Image.Image) -> Image.Image:
    if file.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255 instead of scaling it. In its own type: a wider one costs a gigabyte for the
        # largest frame that is allowed.
        grey = np.asarray(file) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8), "L").convert("RGB")
    if file.mode != "RGB":
        return file.convert("RGB")
    file.load()
    return file


def _translated(error: Exception) -> FrameRejected:
    detail = f"{type(error).__name__}: {str(error)[:120]}"
    if isinstance(error, UnidentifiedImageError):
        return FrameRejected("type", "no JPEG, PNG or WebP")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return FrameRejected("pixels", detail)
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return FrameRejected("truncated", detail)
    return FrameRejected("decode", detail)
