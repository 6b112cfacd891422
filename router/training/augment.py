"""Augmentation against shortcuts: what tells hospitals apart is made common to all classes.

Works on one grey image and its exposed field, in Pillow and numpy, at about the cost of a tenth of the network.
Every choice comes from the generator given, so that a seed repeats a run. Knows no files and no labels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from router.pixels.prepare import Crop, even, fit

Rng = np.random.Generator
Picture = NDArray[np.uint8]

WORDS = (
    "R",
    "L",
    "D",
    "E",
    "AP",
    "PA",
    "SUPINE",
    "PORTABLE",
    "LEITO",
    "DX",
    "SIN",
    "ERECT",
    "A",
    "B",
    "(a)",
    "12",
    "M",
)


def robust(
    image: Image.Image, field: Crop, rng: Rng, size: int, others: Sequence[Image.Image] = (), *, inverted: bool = False
) -> Picture:
    """One augmented picture (size, size) of a grey image; `others` lend their histograms. `inverted`: bone black."""
    content = _place(image, field, rng, size)
    content = _grey(content, rng, others, inverted)
    content = _marks(content, rng)
    content = _degrade(content, rng)
    return _canvas(content, rng, size)


def paper(picture: Picture, rng: Rng) -> Picture:
    """The paper's: a horizontal flip half of the time, and a rotation within 10 degrees."""
    image = Image.fromarray(picture)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    return np.asarray(image.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR))


def _window(image: Image.Image, field: Crop, rng: Rng) -> tuple[float, float, float, float]:
    """A box (left, top, right, bottom) near the field: as found, tighter, or looser."""
    top, left, bottom, right = field
    height, width = bottom - top, right - left
    kind = rng.random()
    if kind < 0.45:
        cuts = rng.uniform(-0.03, 0.05, 4)
    elif kind < 0.8:
        cuts = rng.uniform(0, 0.16, 4)
    else:
        cuts = -rng.uniform(0, 0.25, 4)
    return (
        left + cuts[0] * width,
        top + cuts[1] * height,
        right - cuts[2] * width,
        bottom - cuts[3] * height,
    )


def _place(image: Image.Image, field: Crop, rng: Rng, size: int) -> Image.Image:
    """Crop, aspect, rotation, quarter turn and mirror in one resampling."""
    left, top, right, bottom = _window(image, field, rng)
    width, height = right - left, bottom - top
    aspect = math.exp(rng.uniform(-0.28, 0.28) if rng.random() < 0.7 else 0.0)
    rows, columns = fit(round(1000 * height), round(1000 * width * aspect), size)
    scale = rng.uniform(0.7, 1.0) if rng.random() < 0.3 else 1.0
    rows, columns = max(8, round(rows * scale)), max(8, round(columns * scale))
    angle = math.radians(rng.normal(0, 5) if rng.random() < 0.85 else rng.uniform(-25, 25))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    across, down = width / columns, height / rows
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b = across * cosine * mirror, -across * sine
    d, e = down * sine * mirror, down * cosine
    x, y = (left + right) / 2, (top + bottom) / 2
    data = (a, b, x - a * columns / 2 - b * rows / 2, d, e, y - d * columns / 2 - e * rows / 2)
    fill = 0 if rng.random() < 0.8 else int(rng.integers(256))
    placed = image.transform((columns, rows), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=fill)
    if rng.random() < 0.15:
        turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
        placed = placed.transpose(turns[rng.integers(3)])
    return placed


def _grey(image: Image.Image, rng: Rng, others: Sequence[Image.Image], inverted: bool) -> Image.Image:
    """Window, gamma, histogram of another image, local equalisation, uneven light, polarity."""
    if others and rng.random() < 0.2:
        image = _match(image, others[int(rng.integers(len(others)))])
    values: NDArray[np.float32] = np.asarray(image, np.float32) / np.float32(255)
    if rng.random() < 0.3:
        values = _local(values, rng)
    low, high = np.percentile(values[::3, ::3], (rng.uniform(0, 6), rng.uniform(94, 100)))
    values = np.clip((values - low) / max(high - low, 0.02), 0, 1)
    values = values ** math.exp(rng.normal(0, 0.25))
    if rng.random() < 0.25:
        values *= _gradient(values.shape, rng)
    if inverted:
        values = 1 - values
    return Image.fromarray((values * 255).astype(np.uint8))


def _match(image: Image.Image, other: Image.Image) -> Image.Image:
    own, wanted = np.cumsum(image.histogram()), np.cumsum(other.histogram())
    table = np.searchsorted(wanted / wanted[-1], own / own[-1]).clip(0, 255)
    return image.point(table.tolist())


def _local(values: NDArray[np.float32], rng: Rng) -> NDArray[np.float32]:
    """Local normalisation, mixed in by chance: what equalised films of any class look like."""
    radius = max(values.shape) * rng.uniform(0.04, 0.15)
    mean = _blur(values, radius)
    spread = np.sqrt(_blur((values - mean) ** 2, radius)) + 0.02
    local = np.clip((values - mean) / spread * 0.2 + 0.5, 0, 1)
    share = rng.uniform(0.4, 1.0)
    return local * np.float32(share) + values * np.float32(1 - share)


def _blur(values: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    image = Image.fromarray((values * 255).clip(0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.BoxBlur(radius)), np.float32) / np.float32(255)


def _gradient(shape: tuple[int, ...], rng: Rng) -> NDArray[np.float32]:
    y, x = np.linspace(-0.5, 0.5, shape[0])[:, None], np.linspace(-0.5, 0.5, shape[1])[None]
    return (0.75 + x * rng.uniform(-0.5, 0.5) + y * rng.uniform(-0.5, 0.5)).astype(np.float32)


def _marks(image: Image.Image, rng: Rng) -> Image.Image:
    """Letters, tags, arrows and wires drawn, and pieces erased, on every class alike."""
    width, height = image.size
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.4:
        for _ in range(rng.integers(1, 4)):
            x, y = _near_border(rng, width), _near_border(rng, height)
            ink = int(rng.choice((255, 255, 230, 0)))
            if rng.random() < 0.25:
                draw.rectangle((x, y, x + width * 0.08, y + height * 0.06), fill=255 - ink)
            draw.text((x, y), WORDS[rng.integers(len(WORDS))], fill=ink, font=_font(int(rng.integers(7, 22))))
    if rng.random() < 0.12:
        points = [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(int(rng.integers(2, 5)))]
        draw.line(points, fill=int(rng.choice((255, 200, 0))), width=int(rng.integers(1, 3)))
    if rng.random() < 0.35:
        for _ in range(rng.integers(1, 3)):
            w, h = width * rng.uniform(0.05, 0.25), height * rng.uniform(0.05, 0.25)
            x, y = rng.uniform(-w / 2, width - w / 2), rng.uniform(-h / 2, height - h / 2)
            draw.rectangle((x, y, x + w, y + h), fill=int(rng.choice((0, 0, 128, int(rng.integers(256))))))
    return image


_fonts: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}


def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if points not in _fonts:
        _fonts[points] = ImageFont.load_default(points)
    return _fonts[points]


def _near_border(rng: Rng, length: int) -> float:
    place = rng.beta(0.4, 0.4) * 0.95
    return float(place * length)


def _degrade(image: Image.Image, rng: Rng) -> Image.Image:
    """Blur, coarse pixels, noise, JPEG."""
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.15:
        share = rng.uniform(0.4, 0.8)
        small = max(4, round(image.width * share)), max(4, round(image.height * share))
        image = image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
    if rng.random() < 0.15:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(20, 80)))
        image = Image.open(buffer).convert("L")
    if rng.random() < 0.25:
        noise = rng.standard_normal((image.height, image.width), np.float32) * np.float32(rng.uniform(2, 14))
        image = Image.fromarray((np.asarray(image, np.float32) + noise).clip(0, 255).astype(np.uint8))
    return image


def _canvas(image: Image.Image, rng: Rng, size: int) -> Picture:
    """Put the content on the square: mostly as `prepare` would, else on a margin that it failed to cut away."""
    content = np.asarray(image, np.float32)
    height, width = content.shape
    centred = rng.random() < 0.6
    y, x = (int((size - n) * (0.5 if centred else rng.random())) for n in (height, width))
    picture = np.zeros((size, size), np.uint8)
    if rng.random() < 0.75:
        picture[y : y + height, x : x + width] = even(content)
        return picture
    level = float(rng.choice((0.0, 255.0, rng.uniform(0, 90), rng.uniform(0, 255))))
    margin = np.full((size, size), level, np.float32)
    if rng.random() < 0.5:
        margin += rng.standard_normal((size, size), np.float32) * 4
    margin[y : y + height, x : x + width] = content
    if rng.random() < 0.3:
        edge, thick = float(rng.choice((0, 255))), int(rng.integers(1, 4))
        margin[y : y + thick, x : x + width] = edge
        margin[y + height - thick : y + height, x : x + width] = edge
        margin[y : y + height, x : x + thick] = edge
        margin[y : y + height, x + width - thick : x + width] = edge
    return even(margin)
