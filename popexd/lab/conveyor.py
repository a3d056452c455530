"""A generated industrial camera above a conveyor belt: one part a frame, under light, dirt, blur and noise.

It trains the default model and is the demo's camera. Everything follows from (seed, index); nothing is downloaded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from popexd.lab.parts import CLASSES, DISTRACTORS, REFLECTIONS, Part, Random, part, value_noise

QUALITIES = ("clear", "blurred", "noisy", "dark", "occluded")
QUALITY_SHARES = (0.48, 0.18, 0.12, 0.1, 0.12)
SIZE = (640, 480)

_BELTS = 16
_BELT_COLOURS = (
    (48, 50, 52),
    (66, 84, 70),
    (92, 94, 92),
    (54, 66, 92),
    (120, 116, 106),
    (38, 38, 40),
    (70, 62, 56),
    (150, 150, 146),
)
_NOISE_SIGMAS = (2.0, 4.0, 7.0, 11.0, 17.0, 25.0, 36.0, 50.0)
_METALS = (
    (205, 207, 212),
    (176, 180, 186),
    (150, 152, 156),
    (92, 94, 99),
    (205, 178, 112),
    (196, 134, 98),
    (60, 61, 64),
)
_PLASTICS = (
    (228, 226, 218),
    (44, 46, 50),
    (52, 92, 168),
    (186, 48, 42),
    (214, 122, 34),
    (62, 130, 84),
    (140, 142, 138),
)


@dataclass(frozen=True)
class Frame:
    """One camera image with the truth about it; `label` is an index into `parts.CLASSES`."""

    image: Image.Image
    label: int
    quality: str
    jpeg_quality: int

    @property
    def class_name(self) -> str:
        """The name of the part in the picture."""
        return CLASSES[self.label]

    def jpeg(self) -> bytes:
        """Encode as the camera sends it."""
        stream = io.BytesIO()
        self.image.save(stream, "JPEG", quality=self.jpeg_quality)
        return stream.getvalue()


@dataclass(frozen=True)
class Shot:
    """What the camera sends, with the truth that only the laboratory knows."""

    index: int
    jpeg: bytes
    label: int
    class_name: str
    quality: str


@dataclass(frozen=True)
class _Light:
    """Where the main light stands (radians in the image plane, height above the belt) and how dark its shadow is."""

    angle: float
    height: float
    shadow: float


def scene(index: int, seed: int, size: tuple[int, int] = SIZE, quality: str | None = None) -> Frame:
    """Generate frame `index` of the series `seed`, size (width, height); eight in a row hold each class once.

    `quality` pins what is wrong with the picture; left out, it is drawn with QUALITY_SHARES.
    """
    shuffle = np.random.default_rng([seed, 1, index // len(CLASSES)])
    label = int(shuffle.permutation(len(CLASSES))[index % len(CLASSES)])
    random = np.random.default_rng([seed, 2, index])
    drawn = str(random.choice(QUALITIES, p=QUALITY_SHARES))
    quality = drawn if quality is None else quality
    light = _Light(random.uniform(0, 2 * np.pi), random.uniform(0.45, 1.2), random.uniform(0.25, 0.7))
    image = _belt(random, size)
    _scatter(image, random, light)
    box = _place_target(image, random, light, CLASSES[label])
    if quality == "occluded":
        _occlude(image, random, light, box)
    image = _illuminate(image, random, quality)
    image = _blur(image, random, quality)
    image = _sense(image, random, quality)
    return Frame(image, label, quality, int(random.integers(62, 93)))


def camera(
    seed: int, size: tuple[int, int] = SIZE, start: int = 0, frames: int | None = None, quality: str | None = None
) -> Iterator[Shot]:
    """Yield frames `start`, `start + 1`, … of the series `seed` as JPEG with their label; endless without `frames`."""
    index = start
    while frames is None or index < start + frames:
        frame = scene(index, seed, size, quality)
        yield Shot(index, frame.jpeg(), frame.label, frame.class_name, frame.quality)
        index += 1


def _belt(random: Random, size: tuple[int, int]) -> Image.Image:
    texture = _belt_texture(int(random.integers(_BELTS)))
    left = int(random.integers(0, texture.width - SIZE[0] + 1))
    top = int(random.integers(0, texture.height - SIZE[1] + 1))
    image = texture.crop((left, top, left + SIZE[0], top + SIZE[1]))
    if size != SIZE:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return image.transpose(Image.Transpose.ROTATE_180) if random.random() < 0.5 else image


@lru_cache(maxsize=_BELTS)
def _belt_texture(which: int) -> Image.Image:
    """Paint one belt: rubber or fabric, woven or ribbed, with wear along the running direction, scratches and dust."""
    random = np.random.default_rng([78, which])
    shape = (700, 1000)
    base = np.array(_BELT_COLOURS[which % len(_BELT_COLOURS)], dtype=np.float32)
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    shade = 0.05 * random.standard_normal(shape).astype(np.float32)
    shade += 0.10 * value_noise(random, shape, (140, 260)) + 0.07 * value_noise(random, shape, (9, 160))
    shade += 0.06 * value_noise(random, shape, (4, 4)) + 0.05 * value_noise(random, shape, (2, 300))
    pitch = random.uniform(4, 15)
    if which % 3 == 0:
        shade += 0.07 * np.sin(rows * 2 * np.pi / pitch) * np.sin(columns * 2 * np.pi / pitch)
    elif which % 3 == 1:
        shade += 0.09 * np.tanh(3 * np.sin((rows + columns * random.choice([0, 1])) * 2 * np.pi / (pitch * 2.5)))
    texture = base * (1 + shade[..., None]) + 5 * value_noise(random, shape, (200, 300))[..., None] * (1, 0.6, -0.5)
    image = Image.fromarray(np.clip(texture, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(90):
        x, y, length = random.uniform(0, 1000), random.uniform(0, 700), random.exponential(90)
        tone = int(random.choice([20, 200]))
        end = (x + length, y + length * random.normal(0, 0.08))
        draw.line(
            [(x, y), end], fill=(tone, tone, tone, int(random.integers(15, 80))), width=int(random.integers(1, 3))
        )
    for x, y in random.uniform((0, 0), (1000, 700), (500, 2)):
        grain, tone = random.exponential(0.9) + 0.4, int(random.integers(20, 230))
        draw.ellipse([x - grain, y - grain, x + grain, y + grain], fill=(tone, tone, tone - 8, 120))
    spill = 1.6 * value_noise(random, shape, (90, 140)) - 0.5 + 0.4 * value_noise(random, shape, (12, 16))
    stains = 1 - 0.3 * np.clip(spill, 0, 1)
    image = ImageChops.multiply(image, Image.fromarray((255 * stains).astype(np.uint8)).convert("RGB"))
    return image.filter(ImageFilter.GaussianBlur(0.6))


def _scatter(image: Image.Image, random: Random, light: _Light) -> None:
    """Lay small stuff around: blanks, pins, rings, swarf, and now and then a small part of another class."""
    unit = image.height / 480
    for _ in range(int(random.integers(0, 6))):
        stray = random.random() < 0.12
        kind = str(random.choice(CLASSES if stray else DISTRACTORS))
        radius = (random.uniform(14, 26) if stray else random.uniform(10, 46)) * unit
        centre = (random.uniform(0, image.width), random.uniform(0, image.height))
        _lay(image, random, light, part(kind, random), centre=centre, radius=radius, step=3)


def _place_target(image: Image.Image, random: Random, light: _Light, kind: str) -> tuple[float, float, float]:
    radius = random.uniform(0.19, 0.4) * image.height
    margin = 0.72 * radius
    centre = (random.uniform(margin, image.width - margin), random.uniform(margin, image.height - margin))
    _lay(image, random, light, part(kind, random), centre=centre, radius=radius)
    return (*centre, radius)


def _lay(
    image: Image.Image,
    random: Random,
    light: _Light,
    shape: Part,
    *,
    centre: tuple[float, float],
    radius: float,
    step: int = 1,
) -> None:
    """Put a part on the belt in a random pose, with its shadows."""
    turn = random.uniform(0, 2 * np.pi)
    mirrored = 1 if random.random() < 0.5 else -1
    table = _reflections(random, light, turn, mirrored)
    grid = shape.tone[::step, ::step]
    colour = table[shape.reflection[::step, ::step]] * grid[..., None].astype(np.uint16) // 255
    rgba = np.dstack([colour.astype(np.uint8), shape.alpha[::step, ::step]])
    reach = int(radius * 1.12) + 2
    pose = _pose(random, turn, mirrored, scale=grid.shape[0] / 2 / radius, radius=radius, reach=reach)
    laid = Image.fromarray(rgba).transform(
        (2 * reach, 2 * reach), Image.Transform.PERSPECTIVE, pose, Image.Resampling.BILINEAR
    )
    corner = (int(centre[0]) - reach, int(centre[1]) - reach)
    alpha = laid.getchannel("A")
    contact = alpha.filter(ImageFilter.BoxBlur(max(2.0, radius * 0.05)))
    length = radius * 0.09 / light.height
    offset = (round(length * np.cos(light.angle)), round(length * np.sin(light.angle)))
    dark = (9, 9, 11)
    image.paste(dark, (corner[0] + offset[0], corner[1] + offset[1]), contact.point(_ramp(light.shadow)))
    image.paste(dark, corner, contact.point(_ramp(0.45)))
    image.paste(laid.convert("RGB"), corner, alpha)


@lru_cache(maxsize=64)
def _ramp_table(per_mille: int) -> tuple[int, ...]:
    return tuple(min(255, value * per_mille // 1000) for value in range(256))


def _ramp(factor: float) -> list[int]:
    return list(_ramp_table(int(factor * 50) * 20))


def _pose(random: Random, turn: float, mirrored: int, *, scale: float, radius: float, reach: int) -> tuple[float, ...]:
    """Coefficients that lead from the laid picture back to the drawn part: rotation, stretch and slight perspective."""
    squeeze = random.uniform(0.8, 1.0)
    tilt = random.uniform(0, np.pi)
    cos_turn, sin_turn, cos_tilt, sin_tilt = np.cos(turn), np.sin(turn), np.cos(tilt), np.sin(tilt)
    stretch = np.array([[cos_tilt, sin_tilt], [-sin_tilt / squeeze, cos_tilt / squeeze]])
    unstretch = np.array([[cos_tilt, -sin_tilt], [sin_tilt, cos_tilt]]) @ stretch
    rotate = np.array([[cos_turn, sin_turn], [-sin_turn * mirrored, cos_turn * mirrored]])
    to_part = rotate @ unstretch * scale
    lean_x, lean_y = random.uniform(-0.12, 0.12, 2) / radius
    shift = np.array([[1, 0, -reach], [0, 1, -reach], [0, 0, 1]], dtype=float)
    matrix = np.eye(3)
    matrix[:2, :2] = to_part
    matrix[2, :2] = (lean_x, lean_y)
    matrix[:2] += scale * radius * matrix[2]
    whole = matrix @ shift
    whole /= whole[2, 2]
    return tuple(float(value) for value in whole.ravel()[:8])


def _reflections(random: Random, light: _Light, turn: float, mirrored: int) -> npt.NDArray[np.uint16]:
    """Tabulate the colour a surface shows for each of its slopes: [REFLECTIONS², 3], in the part's own orientation."""
    metal = random.random() < 0.72
    palette = _METALS if metal else _PLASTICS
    base = np.array(palette[int(random.integers(len(palette)))], dtype=np.float32) * random.uniform(0.8, 1.1)
    normal_x, normal_y, normal_z = _slopes()
    seen = (light.angle - turn) * mirrored
    angle = seen + np.pi
    horizontal = 1 / np.hypot(1, light.height)
    lamp = (np.cos(angle) * horizontal, np.sin(angle) * horizontal, light.height * horizontal)
    facing = np.clip(normal_x * lamp[0] + normal_y * lamp[1] + normal_z * lamp[2], 0, 1)
    mirror_x, mirror_y, mirror_z = 2 * normal_z * normal_x, 2 * normal_z * normal_y, 2 * normal_z**2 - 1
    toward = np.clip(mirror_x * lamp[0] + mirror_y * lamp[1] + mirror_z * lamp[2], 0, 1)
    if metal:
        sky = (
            0.32
            + 0.38 * np.clip(mirror_z, 0, 1) ** 0.5
            + random.uniform(0, 0.25) * np.sin(mirror_x * 6 + mirror_y * 4 + seen)
        )
        shine = random.uniform(0.5, 1.1) * toward ** random.uniform(6, 30)
        colour = base * (0.75 * sky + 0.35 * facing)[..., None] + 205 * shine[..., None]
    else:
        shine = random.uniform(0.15, 0.7) * toward ** random.uniform(12, 50)
        colour = base * (0.35 + 0.68 * facing)[..., None] + 190 * shine[..., None]
    table: npt.NDArray[np.uint16] = np.clip(colour, 0, 255).astype(np.uint16).reshape(-1, 3)
    return table


@lru_cache(maxsize=1)
def _slopes() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    axis = ((np.arange(REFLECTIONS) + 0.5) * 2 / REFLECTIONS - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y, np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))


def _occlude(image: Image.Image, random: Random, light: _Light, box: tuple[float, float, float]) -> None:
    """Cover a part of the target: a cable, a guide rail, or another piece lying on top."""
    x, y, radius = box
    angle = random.uniform(0, 2 * np.pi)
    away = random.uniform(0.2, 0.7) * radius
    at = (x + away * np.cos(angle), y + away * np.sin(angle))
    if random.random() < 0.45:
        kind = str(random.choice(["disc", "plate", "pin", "crumb", "swarf"]))
        piece = part(kind, random)
        _lay(image, random, light, piece, centre=at, radius=radius * random.uniform(0.45, 0.75), step=2)
        return
    width = radius * random.uniform(0.14, 0.5)
    along = np.array([-np.sin(angle), np.cos(angle)]) * 2 * max(image.size)
    across = np.array([np.cos(angle), np.sin(angle)])
    tone = random.uniform(25, 190) * random.uniform(0.8, 1.2, 3)
    draw = ImageDraw.Draw(image, "RGBA")
    for band in np.linspace(-1, 1, 13):
        middle = np.array(at) + across * width * band * 0.5
        lit = np.clip(0.5 + 0.6 * np.sqrt(1 - 0.9 * band**2) - 0.25 * band, 0, 1.4)
        shade = (*(int(value) for value in np.clip(tone * lit, 0, 255)), 255)
        ends = [tuple(middle - along), tuple(middle + along)]
        draw.line(ends, fill=shade, width=max(2, round(width / 10)))


def _illuminate(image: Image.Image, random: Random, quality: str) -> Image.Image:
    """Fall-off, vignette and colour of the light over the whole view, and now and then a hard reflection."""
    rows, columns = np.mgrid[-1:1:12j, -1:1:16j].astype(np.float32)
    angle, slope = random.uniform(0, 2 * np.pi), random.uniform(0, 0.35)
    field = (
        0.9
        + slope * (np.cos(angle) * columns + np.sin(angle) * rows)
        - random.uniform(0, 0.22) * (rows**2 + columns**2)
    )
    level = random.uniform(0.14, 0.34) if quality == "dark" else random.uniform(0.75, 1.1)
    warmth = random.uniform(-0.06, 0.06)
    tinted = np.clip(field[..., None] * level * np.array([1 + warmth, 1, 1 - warmth]) * 255, 0, 255).astype(np.uint8)
    image = ImageChops.multiply(image, Image.fromarray(tinted).resize(image.size, Image.Resampling.BILINEAR))
    if random.random() < (0.5 if quality == "dark" else 0.15):
        at, turned = random.uniform(-1, 1, 2), random.uniform(0, np.pi)
        along = (columns - at[0]) * np.cos(turned) + (rows - at[1]) * np.sin(turned)
        across = (rows - at[1]) * np.cos(turned) - (columns - at[0]) * np.sin(turned)
        spread = random.uniform(0.18, 0.4)
        apart = (along / (spread * random.uniform(1.5, 5))) ** 2 + (across / spread) ** 2
        glow = np.exp(-apart) * random.uniform(50, 190)
        soft = Image.fromarray(np.clip(glow, 0, 255).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
        image = ImageChops.screen(image, Image.merge("RGB", (soft, soft, soft)))
    return image


def _blur(image: Image.Image, random: Random, quality: str) -> Image.Image:
    """Defocus and the smear of the moving belt, strong in "blurred" frames and slight in some others."""
    unit = image.height / 480
    if quality == "blurred":
        if random.random() < 0.5:
            return image.filter(ImageFilter.BoxBlur((random.uniform(6, 22) * unit, random.uniform(0, 1.5) * unit)))
        spread = random.uniform(2.2, 6.5) * unit
        return image.filter(ImageFilter.BoxBlur(spread)).filter(ImageFilter.BoxBlur(spread * 0.6))
    if random.random() < 0.3:
        return image.filter(ImageFilter.BoxBlur((random.uniform(0.3, 2.5) * unit, random.uniform(0.2, 0.8) * unit)))
    return image


def _sense(image: Image.Image, random: Random, quality: str) -> Image.Image:
    """The sensor: gain after darkness, noise, and a tone curve."""
    if quality == "noisy":
        level = int(random.integers(4, 8))
    elif quality == "dark":
        level = int(random.integers(2, 5))
    else:
        level = int(random.choice(3, p=(0.5, 0.35, 0.15)))
    grain = _grain(level)
    left = int(random.integers(0, max(1, grain.width - image.width + 1)))
    top = int(random.integers(0, max(1, grain.height - image.height + 1)))
    window = grain.crop((left, top, left + image.width, top + image.height))
    image = ImageChops.add(image, window, 1, -128)
    gamma, gain = random.uniform(0.75, 1.1), random.uniform(1.0, 1.45)
    if quality == "dark":
        gain = random.uniform(1.2, 2.2)
    curve = np.clip(255 * (np.arange(256) / 255 * gain) ** gamma, 0, 255).astype(int).tolist()
    return image.point(curve * 3)


@lru_cache(maxsize=len(_NOISE_SIGMAS))
def _grain(level: int) -> Image.Image:
    """Sensor noise around 128; a little softened, as the demosaicing of a colour sensor does."""
    random = np.random.default_rng([79, level])
    shape = (640, 860)
    luminance = random.standard_normal(shape, dtype=np.float32)[..., None]
    colour = random.standard_normal((*shape, 3), dtype=np.float32)
    values = 128 + _NOISE_SIGMAS[level] * (0.8 * luminance + 0.6 * colour)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
