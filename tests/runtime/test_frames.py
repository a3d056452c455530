"""Camera frames: every accepted form gives the same picture, everything else a reason and nothing more."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from popexd.errors import FrameRejected
from popexd.runtime.frames import FrameLimits, encode_image, load_image, sniff

FORMATS = ("jpeg", "png", "webp")
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "pets.zip"


def picture(width: int = 96, height: int = 64, mode: str = "RGB") -> Image.Image:
    """Make a smooth picture with a bright corner."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, (across + down) / 2], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def file(kind: str = "jpeg", source: Image.Image | None = None) -> bytes:
    """Make an image file."""
    stream = io.BytesIO()
    (source or picture()).save(stream, kind.upper(), **({"lossless": True} if kind == "webp" else {}))
    return stream.getvalue()


def reason(payload: bytes, limits: FrameLimits | None = None) -> str:
    """Return why a payload is refused, at its header or at the latest when decoded."""
    with pytest.raises(FrameRejected) as caught:
        load_image(sniff(payload, limits or FrameLimits()).data, 32, 32)
    return caught.value.reason


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """Make a PNG file that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    """Make a JPEG file whose header claims a size."""
    data = file("jpeg")
    position = data.index(b"\xff\xc0") + 5
    return data[:position] + struct.pack(">HH", height, width) + data[position + 4 :]


def wrapped(data: bytes) -> dict[str, bytes]:
    """Return the same file in every form in which a camera may send it."""
    plain = base64.b64encode(data)
    lines = base64.encodebytes(data)
    uri = b"data:image/jpeg;base64," + plain
    return {
        "raw": data,
        "base64": plain,
        "base64 in lines": lines,
        "base64 with CRLF": lines.replace(b"\n", b"\r\n"),
        "base64 without padding": plain.rstrip(b"="),
        "data URI": uri,
        "data URI in lines": b"DATA:image/jpeg;charset=x;BASE64," + lines,
        "JSON image": json.dumps({"image": plain.decode(), "camera": "x"}).encode(),
        "JSON data": json.dumps({"data": uri.decode()}).encode(),
        "indented JSON": b"\n  " + json.dumps({"image": lines.decode()}, indent=2).encode() + b"\n",
    }


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("form", wrapped(b""))
def test_every_form_of_a_frame_is_found(kind: str, form: str) -> None:
    """Raw bytes, base64, data URIs and JSON give the file's own bytes, its type and its size."""
    data = file(kind)
    found = sniff(wrapped(data)[form])

    assert found.data == data
    assert (found.format, found.width, found.height) == (kind, 96, 64)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", "empty"),
        (b" \r\n ", "empty"),
        (b'{"image": ""}', "empty"),
        (b"data:image/png;base64,", "empty"),
        (b"\0", "type"),
        (b"hello world", "type"),
        (b"GIF89a" + b"\0" * 50, "type"),
        (b"\x00\x00\x00\x20ftypavif" + b"\0" * 50, "type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "type"),
        (base64.b64encode(b"not an image at all"), "type"),
        (b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 50, "type"),
        (b"{", "json"),
        (b"{}", "json"),
        (b'{"image": 3}', "json"),
        (b'{"picture": "/9j/"}', "json"),
        (b'{"image": {"data": "/9j/"}}', "json"),
        (b'{"a":' * 60_000, "json"),
        (b'{"image": "\xff"}', "json"),
        (b'{"image": "***"}', "base64"),
        (b'{"image": "\\ud800"}', "base64"),
        (b"data:image/jpeg,plain", "base64"),
        (b"data:image/jpeg;base64,****", "base64"),
        (b"data:image/jpeg;base64", "base64"),
        (b"\xff\xd8", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\x89PNG", "truncated"),
        (b"\x89PNG\r\n\x1a\n\0\0", "truncated"),
        (b"RIFF\0", "truncated"),
        (b"RIFF\0\0\0\0WEBP", "truncated"),
    ],
)
def test_what_is_no_frame_is_refused_with_a_reason(payload: bytes, expected: str) -> None:
    """Each kind of wrong payload has its own reason to count by."""
    assert reason(payload) == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_frame_is_refused(kind: str) -> None:
    """A file cut anywhere in its content is refused, most often from its header already."""
    data = file(kind)

    reasons = {reason(data[:end]) for end in range(1, len(data) - 40, 7)}

    assert reasons <= {"truncated", "type", "decode"}
    assert reason(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize("form", wrapped(b""))
def test_an_oversize_frame_is_refused_in_every_form(form: str) -> None:
    """The limit in bytes holds for the image file however it is wrapped."""
    data = file("png", picture(400, 300))
    payload = wrapped(data)[form]

    assert sniff(payload, FrameLimits(frame_bytes=len(data))).data == data
    assert reason(payload, FrameLimits(frame_bytes=len(data) - 1)) == "too-large"
    assert reason(payload * 20, FrameLimits(frame_bytes=len(data))) == "too-large"


@pytest.mark.parametrize(
    "bomb",
    [
        png_of(50_000, 50_000, b"\0" * 1000),
        png_of(2**31 - 1, 2**31 - 1),
        png_of(10_000, 5_001),
        png_of(0, 5),
        jpeg_of(65_000, 65_000),
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6,
        b"RIFF\x18\0\0\0WEBPVP8L\x0c\0\0\0\x2f" + b"\xff" * 12,
    ],
)
def test_a_decompression_bomb_is_refused_from_its_header(bomb: bytes) -> None:
    """A small file that claims more pixels than allowed is refused before it is decoded, and by the decoder too."""
    with pytest.raises(FrameRejected) as caught:
        sniff(bomb)
    assert caught.value.reason == "pixels"

    with pytest.raises(FrameRejected):
        load_image(bomb, 32, 32)


@pytest.mark.filterwarnings("error")
def test_the_pixel_limit_is_ours_not_pillows() -> None:
    """Beyond Pillow's own limits it is still FrameRejected that is raised, even with its warnings made errors."""
    with pytest.raises(FrameRejected) as caught:
        load_image(png_of(20_000, 10_000), 32, 32, max_pixels=10**9)
    assert caught.value.reason == "pixels"

    with pytest.raises(FrameRejected) as caught:
        load_image(png_of(10_000, 9_000), 32, 32, max_pixels=10**9)
    assert caught.value.reason == "pixels"


def test_a_second_frame_header_does_not_smuggle_pixels() -> None:
    """A JPEG that shows a small header first and a huge one later is refused when decoded."""
    data = file("jpeg")
    start = data.index(b"\xff\xc0")
    length = 2 + int.from_bytes(data[start + 2 : start + 4])
    huge = jpeg_of(60_000, 60_000)[start : start + length]

    assert reason(data[: start + length] + huge + data[start + length :]) in ("pixels", "decode")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(96, 64), (640, 480), (1, 1), (30, 200)])
def test_a_frame_becomes_the_network_input(kind: str, size: tuple[int, int]) -> None:
    """Whatever its size, a frame becomes one uint8 RGB picture of the network's size that looks the same."""
    source = picture(*size)
    array = load_image(file(kind, source), 48, 56)
    expected = np.asarray(source.resize((56, 48), Image.Resampling.BILINEAR)).astype(int)

    assert (array.shape, array.dtype) == ((1, 48, 56, 3), np.uint8)
    assert np.abs(array[0].astype(int) - expected).mean() < 6


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "I;16", "CMYK"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    """Grey, palette, transparent, 16-bit and print colours are converted."""
    grey = Image.fromarray(np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16))
    source = grey if mode == "I;16" else picture(mode=mode)
    array = load_image(file("jpeg" if mode == "CMYK" else "png", source), 64, 96)

    assert array.shape == (1, 64, 96, 3)
    assert array.max() > 200
    assert array.min() < 60


def test_a_large_jpeg_is_decoded_small() -> None:
    """The decoder's own scaling gives nearly the picture that full decoding gives."""
    source = picture(1920, 1080)
    array = load_image(file("jpeg", source), 224, 224)
    expected = np.asarray(source.resize((224, 224), Image.Resampling.BILINEAR)).astype(int)

    assert np.abs(array[0].astype(int) - expected).mean() < 2


def test_orientation_tags_are_ignored() -> None:
    """A fixed camera's pixels are taken as they are, on the device and in the cloud alike."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    picture().save(stream, "JPEG", exif=exif)

    np.testing.assert_array_equal(load_image(stream.getvalue(), 64, 96), load_image(file("jpeg"), 64, 96))


@pytest.mark.parametrize("codec", ["jpeg-75", "jpeg-100", "webp-75", "webp-1"])
def test_a_resized_frame_travels_as_an_image(codec: str) -> None:
    """An image codec gives a file that loads to nearly the same picture at the same size."""
    array = load_image(file("png"), 64, 96)
    encoded = encode_image(array, codec)

    assert sniff(encoded).format == codec.split("-", maxsplit=1)[0]
    assert (sniff(encoded).width, sniff(encoded).height) == (96, 64)
    difference = np.abs(load_image(encoded, 64, 96).astype(int) - array.astype(int)).mean()
    assert difference < (20 if codec == "webp-1" else 4)


@pytest.mark.parametrize("codec", ["camera", "jpeg", "jpeg-0", "jpeg-101", "webp-x", "q8"])
def test_what_is_no_image_codec_cannot_encode(codec: str) -> None:
    """Codecs without a picture are refused."""
    with pytest.raises(FrameRejected):
        encode_image(np.zeros((8, 8, 3), np.uint8), codec)


def test_pixels_of_the_wrong_form_cannot_be_encoded() -> None:
    """Pillow's complaint comes out as ours."""
    with pytest.raises(FrameRejected):
        encode_image(np.zeros((1, 8, 8, 7), np.uint8), "jpeg-75")


@given(st.binary(max_size=200))
def test_random_payloads_are_only_ever_refused(payload: bytes) -> None:
    """Nothing but FrameRejected comes out of random bytes, behind any magic and in any wrapping."""
    for magic in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBP", b"data:;base64,", b'{"image":"'):
        with pytest.raises(FrameRejected):
            load_image(sniff(magic + payload).data, 16, 16)


FILES = {kind: file(kind) for kind in FORMATS}


@given(st.sampled_from(FORMATS), st.data())
def test_damaged_files_are_only_ever_refused(kind: str, data: st.DataObject) -> None:
    """A file with damaged bytes gives a picture of the right form or FrameRejected."""
    damaged = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        array = load_image(sniff(bytes(damaged)).data, 16, 16)
    except FrameRejected:
        return

    assert (array.shape, array.dtype) == ((1, 16, 16, 3), np.uint8)


@pytest.mark.skipif(not PHOTOS.is_file(), reason="the real photos are not here")
def test_real_photos_load() -> None:
    """Photos from real cameras keep their size in the header and load to the network's input."""
    with zipfile.ZipFile(PHOTOS) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith(".jpg")][::100]
        for name in names:
            data = archive.read(name)
            found = sniff(data)
            with Image.open(io.BytesIO(data)) as opened:
                assert (found.width, found.height) == opened.size
            assert load_image(data, 224, 224).shape == (1, 224, 224, 3)

    assert len(names) >= 10


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    """Each is as much work as the whole picture: a frame within its limits could take the device an hour."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    last = whole[whole.rfind(b"\xff\xda") : -2]

    assert sniff(whole[:-2] + last * 40 + whole[-2:]).width == 64
    with pytest.raises(FrameRejected, match="scans"):
        sniff(whole[:-2] + last * 100 + whole[-2:])


@pytest.mark.parametrize("mode", ["I;16", "RGB", "RGBA", "LA", "P", "1"])
def test_the_largest_frame_of_any_kind_takes_bounded_memory(mode: str) -> None:
    """A few kilobytes of PNG may hold fifty million pixels: some ten bytes for each, not twenty."""
    side = 2_000
    picture = Image.fromarray(np.zeros((side, side), np.uint16)) if mode == "I;16" else Image.new(mode, (side, side))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    del picture
    code = (
        "import resource, sys; from popexd.runtime.frames import load_image\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "data = sys.stdin.buffer.read(); before = peak(); load_image(data, 16, 16); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=stream.getvalue(), capture_output=True, check=True)

    assert int(done.stdout) < 12 * side * side
