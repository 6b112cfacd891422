"""Generated pictures that are no radiograph of anybody: test patterns, sheets, slices of cylinders, noise.

One more family to judge novelty by. None of them is ever a training image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Grey = NDArray[np.uint8]
Draw = Callable[[np.random.Generator, int, int], NDArray[np.floating] | Image.Image]


def _even(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.floating]:
    return np.full((rows, columns), float(rng.integers(0, 256)))


def _noise(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.floating]:
    return rng.normal(rng.uniform(60, 190), rng.uniform(2, 80), (rows, columns))


def _gradient(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.floating]:
    y, x = np.indices((rows, columns))
    angle = rng.uniform(0, 2 * np.pi)
    ramp = x * np.cos(angle) + y * np.sin(angle)
    return np.asarray(255 * (ramp - ramp.min()) / np.ptp(ramp))


def _chessboard(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.floating]:
    y, x = np.indices((rows, columns))
    step = int(rng.integers(8, 80))
    return ((x // step + y // step) % 2 * rng.uniform(60, 255)).astype(float)


def _line_pairs(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.floating]:
    x = np.arange(columns)
    chirp = np.sin(2 * np.pi * x * rng.uniform(0.5, 2) * (1 + x / columns * 20) / columns)
    return np.tile(127 + 120 * np.sign(chirp), (rows, 1))


def _step_wedge(rng: np.random.Generator, rows: int, columns: int) -> Image.Image:
    image = Image.new("L", (columns, rows), int(rng.integers(0, 60)))
    draw, steps = ImageDraw.Draw(image), int(rng.integers(6, 20))
    for n in range(steps):
        y = rows * (0.1 + 0.8 * n / steps)
        draw.rectangle((columns * 0.3, y, columns * 0.7, y + rows * 0.8 / steps), fill=255 * (n + 1) // steps)
    return image


def _cylinder(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.floating]:
    """A slice of a water cylinder with inserts, as quality control of a CT scanner takes it."""
    y, x = np.indices((rows, columns))
    radius = min(rows, columns) * rng.uniform(0.3, 0.48)
    slice_ = 120.0 * (np.hypot(y - rows / 2, x - columns / 2) < radius)
    for angle in np.arange(0, 2 * np.pi, np.pi / 4):
        cy, cx = rows / 2 + 0.6 * radius * np.sin(angle), columns / 2 + 0.6 * radius * np.cos(angle)
        slice_[np.hypot(y - cy, x - cx) < radius * 0.12] = rng.uniform(0, 255)
    return np.asarray(slice_ + rng.normal(0, 4, (rows, columns)))


def _sheet(rng: np.random.Generator, rows: int, columns: int) -> Image.Image:
    """Lines of words, black on white or white on black."""
    paper = int(rng.choice((0, 255)))
    image = Image.new("L", (columns, rows), paper)
    draw = ImageDraw.Draw(image)
    for y in range(20, rows - 20, int(rng.integers(14, 40))):
        words = " ".join("".join(rng.choice(list("abcdefghilmnorstu"), rng.integers(2, 10))) for _ in range(12))
        draw.text((20, y), words[: int(rng.integers(5, 90))], fill=255 - paper)
    return image


KINDS: dict[str, Draw] = {
    "even": _even, "noise": _noise, "gradient": _gradient, "chessboard": _chessboard, "line pairs": _line_pairs,
    "step wedge": _step_wedge, "cylinder": _cylinder, "sheet": _sheet,
}  # fmt: skip


def phantoms(each: int = 25, seed: int = 0) -> list[tuple[str, Grey]]:
    """So many of each kind with its name; grey (rows, columns) uint8, the same for the same seed."""
    made = []
    for place, (name, draw) in enumerate(KINDS.items()):
        for number in range(each):
            rng = np.random.default_rng((seed, place, number))
            rows, columns = (int(side) for side in rng.integers(300, 900, 2))
            made.append((name, np.clip(np.asarray(draw(rng, rows, columns)), 0, 255).astype(np.uint8)))
    return made
