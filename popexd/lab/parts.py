"""Machined and moulded parts as height fields: the shapes that lie on the conveyor belt of `popexd.lab.conveyor`.

A part is drawn once, from straight above, on a grid of [-1, 1] x [-1, 1] by signed distances (negative inside). Its
slopes are kept as an index into a table of reflections, so that shading it under any light is one look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Field = npt.NDArray[np.floating[Any]]
Random = np.random.Generator

GRID = 288
REFLECTIONS = 96
VARIANTS = 32
DISTRACTOR_VARIANTS = 12
CLASSES = ("nut", "washer", "gear", "bearing", "bolt", "spring", "bracket", "clip")
DISTRACTORS = ("disc", "pin", "plate", "o-ring", "swarf", "crumb")

_AXIS = ((np.arange(GRID, dtype=np.float32) + 0.5) * (2 / GRID) - 1).astype(np.float32)
_X, _Y = np.meshgrid(_AXIS, _AXIS)
_RADIUS = np.hypot(_X, _Y)
_ANGLE = np.arctan2(_Y, _X)


@dataclass(frozen=True)
class Part:
    """A drawn part, all arrays [GRID, GRID]: coverage 0..255, reflection index, tone 0..255."""

    alpha: npt.NDArray[np.uint8]
    reflection: npt.NDArray[np.int16]
    tone: npt.NDArray[np.uint8]


@dataclass
class _Relief:
    """Signed distance of the outline, height above the belt, and tone, while a part is being drawn."""

    distance: Field
    height: Field
    tone: Field


def part(kind: str, random: Random) -> Part:
    """Pick one of the VARIANTS shapes of a class, or of the fewer of a distractor."""
    return drawn(kind, int(random.integers(VARIANTS if kind in CLASSES else DISTRACTOR_VARIANTS)))


@lru_cache(maxsize=512)
def drawn(kind: str, variant: int) -> Part:
    """Draw a shape; the same arguments always give the same part."""
    kinds = CLASSES + DISTRACTORS
    random = np.random.default_rng([77, kinds.index(kind), variant])
    relief = _DRAW[kind](random)
    return _finish(relief, random)


def value_noise(random: Random, shape: tuple[int, int], cells: tuple[float, float]) -> Field:
    """Make smooth noise, about -1 to 1, with features of `cells` (height, width) pixels."""
    coarse = (max(2, round(shape[0] / cells[0])), max(2, round(shape[1] / cells[1])))
    small = random.uniform(-1, 1, coarse).astype(np.float32)
    large = Image.fromarray(small).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(large, dtype=np.float32)


def _finish(relief: _Relief, random: Random) -> Part:
    alpha = np.clip(0.5 - relief.distance * (GRID / 2), 0, 1)
    height = relief.height + 0.0035 * value_noise(random, (GRID, GRID), (5, 5)) * random.uniform(0, 1)
    brushed = (
        value_noise(random, (GRID, GRID), (1.5, 60))
        if random.random() < 0.5
        else value_noise(random, (GRID, GRID), (3, 3))
    )
    bow = random.uniform(0.05, 0.3)
    slope_y, slope_x = np.gradient(height, 2 / GRID)
    normal_x = -slope_x + bow * _X + 0.05 * brushed
    normal_y = -slope_y + bow * _Y + 0.05 * brushed[::-1]
    length = np.sqrt(1 + normal_x**2 + normal_y**2)
    column = np.clip((normal_x / length + 1) * (REFLECTIONS / 2), 0, REFLECTIONS - 1).astype(np.int32)
    row = np.clip((normal_y / length + 1) * (REFLECTIONS / 2), 0, REFLECTIONS - 1).astype(np.int32)
    stains = value_noise(random, (GRID, GRID), (60, 60)) + 0.6 * value_noise(random, (GRID, GRID), (15, 15))
    tone = relief.tone * (0.9 + 0.13 * random.uniform(0, 1) * stains + 0.04 * brushed)
    tone = tone * _contact_shade(height, alpha)
    for _ in range(int(random.integers(0, 7))):
        tone = tone * (1 - 0.35 * (np.abs(_line(random, 0.9)) < random.uniform(0.003, 0.009)))
    return Part(
        np.round(alpha * 255).astype(np.uint8),
        (row * REFLECTIONS + column).astype(np.int16),
        np.clip(tone * 255, 0, 255).astype(np.uint8),
    )


def _contact_shade(height: Field, alpha: Field) -> Field:
    """Darken what lies lower than its surroundings: the cheap stand-in for ambient occlusion."""
    scaled = Image.fromarray((np.clip(height, 0, 1) * alpha * 255).astype(np.uint8))
    around = np.asarray(scaled.filter(ImageFilter.BoxBlur(9)), dtype=np.float32) / 255
    return np.asarray(np.clip(1 - 1.6 * np.clip(around - height, 0, 0.4), 0.3, 1), dtype=np.float32)


def _bevel(distance: Field, width: float, height: float) -> Field:
    """Rise from the outline to `height` over `width` in a quarter circle."""
    inside = np.clip(1 + distance / width, 0, 1)
    return np.asarray(height * np.sqrt(1 - inside**2 + 1e-6), dtype=np.float32)


def _polygon(corners: int, radius: float, phase: float = 0.0) -> Field:
    sector = 2 * np.pi / corners
    folded = np.mod(_ANGLE + phase + sector / 2, sector) - sector / 2
    return np.asarray(_RADIUS * np.cos(folded) - radius * np.cos(np.pi / corners), dtype=np.float32)


def _box(x: Field, y: Field, half_width: float, half_height: float, rounding: float = 0.03) -> Field:
    away_x, away_y = np.abs(x) - half_width + rounding, np.abs(y) - half_height + rounding
    outside = np.hypot(np.maximum(away_x, 0), np.maximum(away_y, 0))
    return np.asarray(outside + np.minimum(np.maximum(away_x, away_y), 0) - rounding, dtype=np.float32)


def _circle(x: float, y: float, radius: float) -> Field:
    return np.asarray(np.hypot(_X - x, _Y - y) - radius, dtype=np.float32)


def _line(random: Random, reach: float) -> Field:
    angle = random.uniform(0, np.pi)
    return np.asarray(_X * np.sin(angle) + _Y * np.cos(angle) - random.uniform(-reach, reach), dtype=np.float32)


def _flat(value: float = 1.0) -> Field:
    return np.full((GRID, GRID), value, dtype=np.float32)


def _nut(random: Random) -> _Relief:
    outer, hole = random.uniform(0.74, 0.88), random.uniform(0.34, 0.5)
    corners = 6 if random.random() < 0.85 else 4
    outline = _polygon(corners, outer)
    chamfer = _RADIUS - outer * random.uniform(0.86, 0.95)
    height = np.minimum(_bevel(outline, 0.05, 0.3), 0.3 - 0.5 * np.clip(chamfer, 0, 1))
    flange = random.random() < 0.25
    if flange:
        rim = _RADIUS - 0.92
        outline, height = np.minimum(outline * 0.9, rim), np.maximum(height, _bevel(rim, 0.05, 0.08))
    bore = hole - _RADIUS
    wall = np.clip(-bore / 0.1, 0, 1)
    height = np.where(bore > -0.1, height * wall + 0.02 * np.sin(_RADIUS * 140), height)
    tone = np.where(bore > -0.02, 0.4, 1.0)
    return _Relief(np.maximum(outline, bore - random.uniform(0.02, 0.08)), height, tone.astype(np.float32))


def _washer(random: Random) -> _Relief:
    outer = random.uniform(0.74, 0.9)
    hole = outer * random.uniform(0.4, 0.66)
    distance = np.maximum(_RADIUS - outer, hole - _RADIUS)
    height = _bevel(distance, random.uniform(0.02, 0.06), random.uniform(0.05, 0.12))
    style = random.random()
    if style < 0.3:
        height = height + 0.25 * np.clip(outer - _RADIUS, 0, 1)
    elif style < 0.45:
        teeth = int(random.integers(12, 20))
        height = height + 0.03 * np.sin(_ANGLE * teeth) * (np.mean([outer, hole]) > _RADIUS)
    return _Relief(distance, height.astype(np.float32), _flat())


def _gear(random: Random) -> _Relief:
    teeth, depth = int(random.integers(9, 23)), random.uniform(0.07, 0.16)
    pitch, hole = random.uniform(0.72, 0.82), random.uniform(0.14, 0.34)
    profile = np.tanh(random.uniform(1.5, 4) * np.cos(_ANGLE * teeth))
    outline = (_RADIUS - pitch - depth / 2 * profile) * 0.7
    distance = np.maximum(outline, hole - _RADIUS)
    height = _bevel(distance, 0.03, 0.2)
    hub, web = hole + random.uniform(0.1, 0.18), pitch - depth - random.uniform(0.08, 0.16)
    dish = np.maximum(hub - _RADIUS, _RADIUS - web)
    height = height - random.uniform(0.03, 0.12) * np.clip(-dish / 0.03, 0, 1) * (web > hub)
    spokes = int(random.integers(3, 7))
    if random.random() < 0.5 and web - hub > 0.18:
        middle = (hub + web) / 2
        sector = 2 * np.pi / spokes
        folded = np.mod(_ANGLE, sector) - sector / 2
        opening = np.hypot(_RADIUS * np.cos(folded) - middle, _RADIUS * np.sin(folded)) - (web - hub) * 0.38
        distance = np.maximum(distance, -opening)
        height = np.minimum(height, _bevel(distance, 0.03, 0.2))
    return _Relief(distance.astype(np.float32), height.astype(np.float32), _flat())


def _bearing(random: Random) -> _Relief:
    outer = random.uniform(0.76, 0.9)
    hole = outer * random.uniform(0.34, 0.5)
    width = (outer - hole) * random.uniform(0.2, 0.3)
    distance = np.maximum(_RADIUS - outer, hole - _RADIUS)
    rings = np.maximum(distance, np.minimum(_RADIUS - hole - width, outer - width - _RADIUS))
    height, tone = _bevel(rings, 0.04, 0.28), _flat()
    groove = np.maximum(hole + width - _RADIUS, _RADIUS - outer + width)
    in_groove = groove < 0
    if random.random() < 0.4:
        height = np.where(in_groove, 0.2 + 0.04 * np.clip(-groove / 0.05, 0, 1), height)
        tone = np.where(in_groove, random.choice([0.35, 0.8, 1.0]), tone)
    else:
        balls, middle = int(random.integers(7, 13)), (outer + hole) / 2
        sector = 2 * np.pi / balls
        folded = np.mod(_ANGLE + random.uniform(0, 1), sector) - sector / 2
        size = min((outer - hole) / 2 - width, middle * np.sin(sector / 2)) * 0.95
        apart = np.hypot(_RADIUS * np.cos(folded) - middle, _RADIUS * np.sin(folded))
        ball = np.sqrt(np.clip(size**2 - apart**2, 0, None))
        height = np.where(in_groove, np.maximum(ball, 0.02), height)
        tone = np.where(in_groove & (apart > size), 0.3, tone)
    return _Relief(distance, height.astype(np.float32), tone.astype(np.float32))


def _shaft(x: Field, y: Field, half_length: float, radius: float) -> tuple[Field, Field]:
    """Distance and height of a cylinder lying along x."""
    distance = _box(x, y, half_length, radius, 0.02)
    return distance, np.sqrt(np.clip(radius**2 - y**2, 0, None)).astype(np.float32)


def _bolt(random: Random) -> _Relief:
    radius, head = random.uniform(0.12, 0.2), random.uniform(0.14, 0.26)
    half = random.uniform(0.62, 0.9)
    across = radius * random.uniform(1.6, 2.0)
    shaft_x = _X - head / 2
    distance, height = _shaft(shaft_x, _Y, half - head / 2, radius)
    start = -half + head + random.uniform(0, 0.6) * half
    threads = random.uniform(60, 105)
    threaded = start < _X
    height = height + 0.016 * np.sin(threads * _X + 14 * _Y * radius) * threaded
    head_x = _X + half - head / 2
    cap = _box(head_x, _Y, head / 2, across, 0.03)
    if random.random() < 0.75:
        facets = np.minimum(0.3, 0.3 - 0.55 * np.clip(np.abs(_Y) - across / 2, 0, 1)) + 0.1
    else:
        facets = 0.12 + np.sqrt(np.clip(across**2 - _Y**2, 0, None)) * 0.9
    crown = np.minimum(facets, _bevel(cap, 0.05, 0.5))
    height = np.where(cap < 0, np.maximum(crown, height), height)
    return _Relief(np.minimum(distance, cap), height.astype(np.float32), _flat())


def _spring(random: Random) -> _Relief:
    coils, half = random.uniform(5, 11), random.uniform(0.6, 0.88)
    radius, wire = random.uniform(0.17, 0.36), random.uniform(0.035, 0.06)
    wire = min(wire, 0.62 * half / coils)
    distance, height, tone = _flat(9), _flat(0), _flat()
    turns = np.linspace(0, coils * 2 * np.pi, int(coils * 30))
    flat_ends = np.clip(np.minimum(turns, turns[-1] - turns) / (2 * np.pi), 0.35, 1)
    along = np.cumsum(flat_ends)
    xs = (along - along[0]) / (along[-1] - along[0]) * 2 * half - half
    ys, zs = radius * np.sin(turns), radius * np.cos(turns)
    reach = int(np.ceil((wire + 0.03) * GRID / 2))
    for x, y, z in sorted(zip(xs, ys, zs, strict=True), key=lambda point: point[2]):
        column, row = int((x + 1) * GRID / 2), int((y + 1) * GRID / 2)
        window = np.s_[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        apart = np.hypot(_X[window] - x, _Y[window] - y)
        distance[window] = np.minimum(distance[window], apart - wire)
        top = np.sqrt(np.clip(wire**2 - apart**2, 0, None)) + z + radius
        upper = (apart < wire) & (top > height[window])
        height[window] = np.where(upper, top, height[window])
        tone[window] = np.where(upper, 0.55 + 0.45 * (z / radius + 1) / 2, tone[window])
    return _Relief(distance, height, tone)


def _bracket(random: Random) -> _Relief:
    thick, long, short = random.uniform(0.2, 0.34), random.uniform(0.78, 0.9), random.uniform(0.5, 0.85)
    corner_x, corner_y = -short, long - 2 * thick
    upright = _box(_X - corner_x - thick, _Y, thick, long)
    foot = _box(_X - corner_x - short, _Y - corner_y - thick, short, thick)
    distance = np.minimum(upright, foot)
    holes = [(corner_x + thick, -long * random.uniform(0.45, 0.7)), (corner_x + 2 * short - thick, corner_y + thick)]
    if random.random() < 0.4:
        holes.append((corner_x + thick, corner_y + thick))
    size = thick * random.uniform(0.3, 0.55)
    for x, y in holes:
        distance = np.maximum(distance, -_circle(x, y, size))
    height = _bevel(distance, 0.03, 0.12)
    tone = _flat()
    if random.random() < 0.5:
        folded = np.clip((_Y - corner_y + 0.06) / 0.12, 0, 1)
        height = height + 0.12 * folded
        tone = 1 - 0.3 * folded * random.uniform(-0.3, 1)
    return _Relief(distance.astype(np.float32), height.astype(np.float32), tone.astype(np.float32))


def _clip(random: Random) -> _Relief:
    outer = random.uniform(0.72, 0.84)
    hole = outer * random.uniform(0.6, 0.76)
    gap = random.uniform(0.12, 0.6)
    eccentric = random.uniform(0, 0.5) * (outer - hole)
    ring = np.maximum(_RADIUS - outer, hole - np.hypot(_X + eccentric, _Y))
    opening = np.abs(_ANGLE) - gap
    distance = np.maximum(ring, -opening * _RADIUS)
    ear = random.uniform(0.1, 0.15)
    inward = random.random() < 0.4
    at = hole - ear * 0.3 if inward else outer
    for side in (-1, 1):
        x, y = at * np.cos(side * (gap + 0.12)), at * np.sin(side * (gap + 0.12))
        distance = np.minimum(distance, _circle(x, y, ear))
        distance = np.maximum(distance, -_circle(x, y, ear * random.uniform(0.35, 0.5)))
    height = _bevel(distance, 0.025, random.uniform(0.06, 0.12))
    return _Relief(distance.astype(np.float32), height, _flat())


def _disc(random: Random) -> _Relief:
    distance = _RADIUS - random.uniform(0.75, 0.9)
    return _Relief(distance, _bevel(distance, random.uniform(0.04, 0.5), 0.2), _flat())


def _pin(random: Random) -> _Relief:
    radius = random.uniform(0.08, 0.2)
    distance, height = _shaft(_X, _Y, 0.88, radius)
    return _Relief(distance, height, _flat())


def _plate(random: Random) -> _Relief:
    distance = _box(_X, _Y, 0.85, random.uniform(0.3, 0.7), random.uniform(0.02, 0.2))
    if random.random() < 0.5:
        distance = np.maximum(distance, -_circle(random.uniform(-0.5, 0.5), 0, random.uniform(0.08, 0.2)))
    return _Relief(distance, _bevel(distance, 0.04, 0.12), _flat())


def _o_ring(random: Random) -> _Relief:
    wire, middle = random.uniform(0.06, 0.1), random.uniform(0.6, 0.8)
    distance = np.abs(_RADIUS - middle) - wire
    height = np.sqrt(np.clip(wire**2 - (_RADIUS - middle) ** 2, 0, None))
    return _Relief(distance, height, _flat(random.uniform(0.15, 0.6)))


def _swarf(random: Random) -> _Relief:
    start, turns = random.uniform(0.2, 0.6), random.uniform(0.5, 2.5)
    spiral = np.mod(_ANGLE / (2 * np.pi) * random.choice([-1, 1]), 1)
    width = random.uniform(0.03, 0.09)
    distance = _flat(9)
    for lap in range(int(np.ceil(turns))):
        at = start + (0.85 - start) * (spiral + lap) / turns
        distance = np.minimum(
            distance, np.where(spiral + lap < turns, np.abs(_RADIUS - at) - width * spiral - 0.015, 9)
        )
    return _Relief(distance, 0.1 + 0.06 * np.sin(_ANGLE * 9), _flat())


def _crumb(random: Random) -> _Relief:
    wobble = sum(random.uniform(-0.15, 0.15) * np.sin(k * _ANGLE + random.uniform(0, 6)) for k in range(2, 7))
    distance = np.asarray((_RADIUS - 0.6 - wobble) * 0.7, dtype=np.float32)
    height = _bevel(distance, 0.4, 0.25) + 0.05 * value_noise(random, (GRID, GRID), (30, 30))
    return _Relief(distance, height.astype(np.float32), _flat(random.uniform(0.4, 1)))


_DRAW: dict[str, Callable[[Random], _Relief]] = {
    "nut": _nut,
    "washer": _washer,
    "gear": _gear,
    "bearing": _bearing,
    "bolt": _bolt,
    "spring": _spring,
    "bracket": _bracket,
    "clip": _clip,
    "disc": _disc,
    "pin": _pin,
    "plate": _plate,
    "o-ring": _o_ring,
    "swarf": _swarf,
    "crumb": _crumb,
}
