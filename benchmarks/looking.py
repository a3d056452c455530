"""What telling a frame's image quality costs, beside decoding it."""

from __future__ import annotations

import time
from statistics import median

from popexd import bundle
from popexd.lab.conveyor import scene
from popexd.runtime.frames import load_image

from .figures import Figure, percentile
from .options import Options

AT_MOST_SECONDS = 0.001
SIZE = (500, 375)
_FRAMES = 10
_WARM_UP = 5


def measure(options: Options) -> list[Figure]:
    """Decode frames of a camera's size and tell the class of each, by turns."""
    estimator = bundle.load("default").quality
    assert estimator is not None
    jpegs = [scene(index, 17, SIZE).jpeg() for index in range(_FRAMES)]
    decoding, telling = [], []
    for index in range(_WARM_UP + (100 if options.quick else 400)):
        began = time.perf_counter()
        pixels = load_image(jpegs[index % _FRAMES], SIZE[1], SIZE[0])
        decoded = time.perf_counter()
        estimator.classify(pixels)
        told = time.perf_counter()
        decoding.append(decoded - began)
        telling.append(told - decoded)
    decoding, telling = decoding[_WARM_UP:], telling[_WARM_UP:]
    note = f"{median(telling) / median(decoding):.2f} of decoding it; p95 {1000 * percentile(telling, 0.95):.2f} ms"
    details = {"estimate_seconds": median(telling), "decode_seconds": median(decoding)}
    name = f"image quality of a frame of {SIZE[0]} x {SIZE[1]}, median"
    return [Figure("quality", name, median(telling), "ms", at_most=AT_MOST_SECONDS, note=note, details=details)]
