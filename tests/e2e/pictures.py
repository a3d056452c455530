"""Camera frames in every form, good and bad."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from .rig import photo


def encoded(kind: str) -> bytes:
    """The same picture as a file of another kind: JPEG, PNG, WEBP or GIF."""
    stream = io.BytesIO()
    Image.open(io.BytesIO(photo(0))).save(stream, kind)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    """A PNG file that says it is so large; nothing says that its data agree."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def cut_off_jpeg_with_thumbnail() -> bytes:
    """Half a JPEG whose thumbnail, in front, is whole: its end marker hides that the picture has none."""
    picture = photo(0)
    thumbnail = b"Exif\0\0" + photo(1)[:2000] + b"\xff\xd9"
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    return (picture[:2] + segment + picture[2:])[: len(segment) + len(picture) // 2]


def text(payload: bytes) -> str:
    """Base64 of some bytes."""
    return base64.b64encode(payload).decode()


JPEG, PNG, WEBP = photo(0), encoded("PNG"), encoded("WEBP")

GOOD: dict[str, tuple[bytes, bytes]] = {
    # what is sent, and the image file in it
    "jpeg": (JPEG, JPEG),
    "png": (PNG, PNG),
    "webp": (WEBP, WEBP),
    "data URI": (f"data:image/png;base64,{text(PNG)}".encode(), PNG),
    "base64": (text(JPEG).encode(), JPEG),
    "base64 with line breaks": (base64.encodebytes(WEBP).replace(b"\n", b"\r\n"), WEBP),
    "JSON image": (json.dumps({"image": text(JPEG), "camera": "left"}).encode(), JPEG),
    "JSON data": (json.dumps({"data": base64.encodebytes(PNG).decode()}).encode(), PNG),
    "JSON with a data URI": (json.dumps({"image": f"data:image/webp;base64,{text(WEBP)}"}).encode(), WEBP),
}

# Known to be bad from their first bytes: rejected on the device in every mode.
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "blank": (b" \r\n\t ", "empty"),
    "stump": (b"\xff\xd8\xff", "truncated"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "half a WebP": (WEBP[: len(WEBP) // 2], "truncated"),
    "random": (np.random.default_rng(3).bytes(5000), "type"),
    "GIF": (encoded("GIF"), "type"),
    "plain text": (b"good morning!", "type"),
    "too large": (JPEG + bytes(300_000), "too-large"),
    "too large within JSON": (json.dumps({"image": text(JPEG + bytes(300_000))}).encode(), "too-large"),
    "decompression bomb, PNG": (png(60_000, 60_000), "pixels"),
    "decompression bomb, JPEG": (
        JPEG.replace(struct.pack(">HH", 120, 160), struct.pack(">HH", 65_000, 65_000), 1),
        "pixels",
    ),
    "no pixels": (png(0, 5), "pixels"),
    "half a JSON": (b'{"image": "abc', "json"),
    "JSON of something else": (b'{"picture": "abcd"}', "json"),
    "JSON with a number": (b'{"image": 5}', "json"),
    "JSON too deep": (b'{"image":' + b"[" * 100_000, "json"),
    "JSON with an empty image": (b'{"image": ""}', "empty"),
    "bad base64 in JSON": (b'{"image": "@@@@"}', "base64"),
    "bad base64 in a data URI": (b"data:image/jpeg;base64,@@@@", "base64"),
    "a data URI without base64": (b"data:image/jpeg,abcd", "base64"),
}

# Found out only by who decodes them: the device, or a worker to whom they were sent as they are.
LATE: dict[str, tuple[bytes, str]] = {
    "half a PNG": (PNG[: len(PNG) // 2], "truncated"),
    "half a JPEG with a thumbnail": (cut_off_jpeg_with_thumbnail(), "truncated"),
    "a PNG without data": (png(160, 120), "truncated"),
    "a bomb in a text chunk": (png(160, 120, chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(50_000_000)))), "decode"),
}
