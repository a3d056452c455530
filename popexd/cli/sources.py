"""Where `popexd camera` takes its frames from: a folder, the generator, a video device or a stream."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from popexd.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SCHEMES = ("http", "https", "rtmp", "rtp", "rtsp", "rtsps", "srt", "udp")

JPEG_QUALITY = 85
_END_OF_IMAGE = b"\xff\xd9"
# One frame of a stream larger than this is no picture; 8 MB is what an agent accepts by default.
_LARGEST_FRAME_BYTES = 32_000_000


def is_live(source: str) -> bool:
    """Tell whether frames of `source` come at a pace of their own."""
    return source != "generated" and (source.startswith("/dev/") or "://" in source)


def frames(source: str, fps: float, loop: bool = False, seed: int = 1) -> Iterator[bytes]:
    """Return the encoded frames of `source`; of a folder's files the bytes as they are, by name.

    Raises:
        InputError: there is no such source, it holds no image, or what is needed to read it is not installed.

    """
    if source == "generated":
        from popexd.lab import conveyor

        return (shot.jpeg for shot in conveyor.camera(seed))
    if is_live(source):
        return _live(source, fps)
    return _folder(Path(source), loop)


def read_image(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        InputError: it cannot be read.

    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected an image file") from error


def _folder(folder: Path, loop: bool) -> Iterator[bytes]:
    if not folder.exists():
        raise InputError(f"--source {folder}: no such folder, expected a folder, 'generated', /dev/videoN or a URL")
    files = [folder] if folder.is_file() else sorted(each for each in folder.rglob("*") if each.is_file())
    images = [each for each in files if each.suffix.lower() in SUFFIXES]
    if not images:
        raise InputError(f"--source {folder}: no image in it, expected files ending in {', '.join(SUFFIXES)}")
    return map(read_image, itertools.cycle(images) if loop else images)


def _live(source: str, fps: float) -> Iterator[bytes]:
    if source.startswith("/dev/"):
        if not Path(source).exists():
            raise InputError(f"--source {source}: no such device")
    elif source.split("://", maxsplit=1)[0] not in SCHEMES:
        raise InputError(f"--source: unknown kind of address, expected one of {', '.join(SCHEMES)}")
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        program = shutil.which("ffmpeg")
        if program is None:
            raise InputError(
                f"--source {_public(source)} needs ffmpeg or OpenCV: "
                "apt install ffmpeg, or pip install opencv-python-headless"
            ) from None
        return _ffmpeg(program, source, fps)
    return _opencv(cv2, source)


def _opencv(cv2: Any, source: str) -> Iterator[bytes]:
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            raise InputError(f"--source {_public(source)}: cannot be opened as video")
        while True:
            read, image = capture.read()
            if not read:
                return
            encoded, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if encoded:
                yield jpeg.tobytes()
    finally:
        capture.release()


def _ffmpeg(program: str, source: str, fps: float) -> Iterator[bytes]:
    """Let ffmpeg write one JPEG after the other to a pipe."""
    kind = ["-f", "v4l2"] if source.startswith("/dev/") else []
    command = [program, "-nostdin", "-loglevel", "error", *kind, "-i", source]
    command += ["-an", "-vf", f"fps={fps:g}", "-c:v", "mjpeg", "-q:v", "4", "-f", "image2pipe", "-"]
    count = 0
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,  # noqa: S603 no shell, checked source
    ):
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        try:
            for jpeg in split_jpegs(iter(lambda: os.read(pipe, 65_536), b"")):
                count += 1
                yield jpeg
        finally:
            process.kill()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if not count:
        raise InputError(f"--source {_public(source)}: {_public(lines[-1]) if lines else 'no picture came'}")


def split_jpegs(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a stream of concatenated JPEGs where one ends; inside one, FF D9 cannot occur in the coded picture."""
    kept = bytearray()
    for chunk in chunks:
        searched = max(0, len(kept) - 1)
        kept += chunk
        while (end := kept.find(_END_OF_IMAGE, searched)) >= 0:
            yield bytes(kept[: end + 2])
            del kept[: end + 2]
            searched = 0
        if len(kept) > _LARGEST_FRAME_BYTES:
            raise InputError(f"--source: more than {_LARGEST_FRAME_BYTES} bytes without the end of a JPEG")


def _public(text: str) -> str:
    """Return `text` without the password an address may carry."""
    return re.sub(r"://[^/\s@]*@", "://", text)
