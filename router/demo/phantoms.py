"""Phantoms: radiographs of bodies that never lived, for a demonstration that needs no patient's picture.

A body is a list of simple solids (ellipsoids and tubes) with linear attenuation coefficients relative to what
surrounds them. The X-ray is their projection: path lengths add up along parallel rays, Beer and Lambert turn them
into intensity, scatter and quantum noise do to it what they do in an examination room, and the detector takes the
logarithm. No phantom is ever a training image. A phantom is a phantom: what a model says of it shows that the way is
open, not how well the model reads patients.

Units: centimetres, 1/cm. Axes: x to the picture's right, y down, z along the beam.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Point = tuple[float, float]

WATER, BONE, AIR_IN_LUNG, GAS = 0.20, 0.32, -0.145, -0.19
"""Attenuation of water, and what bone, aerated lung and bowel gas add to or take from it (about 70 keV)."""


@dataclass
class Plate:
    """The detector: path integrals of attenuation on a grid of `rows` × `columns` pixels of `pitch` cm."""

    width: float
    height: float
    columns: int

    def __post_init__(self) -> None:
        self.pitch = self.width / self.columns
        self.rows = round(self.height / self.pitch)
        self.integral: Field = np.zeros((self.rows, self.columns), np.float32)
        y, x = np.mgrid[0 : self.rows, 0 : self.columns].astype(np.float32)
        self.x: Field = (x + 0.5) * self.pitch - self.width / 2
        self.y: Field = (y + 0.5) * self.pitch - self.height / 2

    def ellipsoid(
        self, x: float, y: float, a: float, b: float, c: float, mu: float, *, turn: float = 0.0, power: float = 2.0
    ) -> None:
        """An ellipsoid at (x, y) with half axes a, b across and c along the beam; `power` > 2 makes it boxier."""
        reach = max(a, b)
        part = self._window(x - reach, y - reach, x + reach, y + reach)
        dx, dy = self.x[part] - x, self.y[part] - y
        u = dx * math.cos(turn) + dy * math.sin(turn)
        v = dy * math.cos(turn) - dx * math.sin(turn)
        inside = 1 - np.abs(u / a) ** power - np.abs(v / b) ** power
        self.integral[part] += mu * 2 * c * np.clip(inside, 0, None) ** (1 / power)

    def tube(self, points: Sequence[Point], radius: float | Sequence[float], mu: float, *, hollow: float = 0.0) -> None:
        """A round tube along a line of points; `hollow` is the share of the radius that is marrow, not cortex."""
        radii = [radius] * len(points) if isinstance(radius, int | float) else list(radius)
        widest = max(radii)
        xs, ys = [x for x, _ in points], [y for _, y in points]
        whole = self._window(min(xs) - widest, min(ys) - widest, max(xs) + widest, max(ys) + widest)
        gx, gy = self.x[whole], self.y[whole]
        path = np.zeros_like(gx)
        for (x0, y0), (x1, y1), r0, r1 in zip(points, points[1:], radii, radii[1:], strict=False):
            length = (x1 - x0) ** 2 + (y1 - y0) ** 2 or 1e-9
            t = np.clip(((gx - x0) * (x1 - x0) + (gy - y0) * (y1 - y0)) / length, 0, 1)
            square = (gx - x0 - t * (x1 - x0)) ** 2 + (gy - y0 - t * (y1 - y0)) ** 2
            r = r0 + t * (r1 - r0)
            outer = np.sqrt(np.clip(r**2 - square, 0, None))
            inner = np.sqrt(np.clip((hollow * r) ** 2 - square, 0, None))
            path = np.maximum(path, 2 * (outer - 0.75 * inner))
        self.integral[whole] += mu * path

    def _window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """The part of the grid that a solid can touch: the rest need not be computed."""
        row, column = self.height / 2, self.width / 2
        return (
            slice(max(0, int((top + row) / self.pitch)), max(0, int((bottom + row) / self.pitch) + 2)),
            slice(max(0, int((left + column) / self.pitch)), max(0, int((right + column) / self.pitch) + 2)),
        )

    def develop(self, rng: np.random.Generator, *, scatter: float = 0.12, dose: float = 4e4) -> NDArray[np.uint16]:
        """12-bit grey values, bone white: Beer-Lambert, scatter, quantum noise, logarithm."""
        primary = np.exp(-np.clip(self.integral, 0, None))
        blurred = _blur(primary, max(2, self.columns // 14))
        intensity = _blur((1 - scatter) * primary + scatter * blurred, 2)
        counted = rng.poisson(intensity * dose) / dose
        density = -np.log(np.clip(counted, 1 / dose, None))
        low, high = np.percentile(density, [0.2, 99.7])
        grey: NDArray[np.uint16] = np.round(np.clip((density - low) / (high - low), 0, 1) * 4095).astype(np.uint16)
        return grey


def _blur(image: Field, radius: int) -> Field:
    """Three box means in a row, which is nearly a Gaussian."""
    size = 2 * radius + 1
    for axis in (0, 1, 0, 1, 0, 1):
        pad = [(radius + 1, radius) if a == axis else (0, 0) for a in (0, 1)]
        summed = np.cumsum(np.pad(image, pad, mode="edge"), axis=axis)
        ahead = np.take(summed, range(size, summed.shape[axis]), axis=axis)
        behind = np.take(summed, range(summed.shape[axis] - size), axis=axis)
        image = (ahead - behind) / size
    return image


def _vertebrae(plate: Plate, x: float, top: float, bottom: float, count: int, half_width: float, mu: float) -> None:
    """A column of vertebral bodies with discs between, pedicles as rings, spinous and transverse processes."""
    step = (bottom - top) / count
    for n in range(count):
        y = top + (n + 0.5) * step
        w = half_width * (0.8 + 0.2 * n / count)
        plate.ellipsoid(x, y, w, 0.41 * step, 1.5 * half_width, mu, power=4)
        plate.ellipsoid(x, y - 0.40 * step, w * 0.95, 0.05 * step, half_width, mu, power=4)
        plate.ellipsoid(x, y + 0.40 * step, w * 0.95, 0.05 * step, half_width, mu, power=4)
        for side in (-1, 1):
            plate.ellipsoid(x + side * 0.62 * w, y - 0.1 * step, 0.2 * w, 0.2 * step, 0.5, mu)
            plate.tube(
                [(x + side * w * 0.8, y - 0.05 * step), (x + side * w * 1.8, y - 0.1 * step)], 0.12 * step, mu * 0.8
            )
        plate.ellipsoid(x, y + 0.3 * step, 0.14 * w, 0.28 * step, 1.2, mu)


def _ribs(plate: Plate, top: float, bottom: float, half_width: float, count: int, radius: float, mu: float) -> None:
    for n in range(count):
        y = top + n * (bottom - top) / count
        reach = half_width * min(1.0, 0.50 + 0.11 * n)
        drop = (bottom - top) * (0.10 + 0.012 * n)
        for side in (-1, 1):
            back = [
                (side * (0.08 * half_width + reach * math.sin(t)), y - 0.02 * drop + drop * (1 - math.cos(t)) * 0.9)
                for t in np.linspace(0, math.pi / 2, 9)
            ]
            plate.tube(back, radius, mu, hollow=0.65)
            front = [
                (side * reach * (1 - 0.75 * t), y + drop * 0.9 + drop * 1.5 * t + 0.3 * drop * math.sin(math.pi * t))
                for t in np.linspace(0, 0.75, 7)
            ]
            plate.tube(front, radius * 1.05, mu * 0.55, hollow=0.7)


def _chest(plate: Plate, *, child: bool) -> None:
    s = 0.55 if child else 1.0
    plate.ellipsoid(0, 3 * s, 17.5 * s, 26 * s, 9.5 * s, WATER * 0.8, power=3)
    plate.ellipsoid(0, -21 * s, 6.0 * s, 9 * s, 5.5 * s, WATER * 0.8)
    for side in (-1, 1):
        plate.ellipsoid(side * 15 * s, -12.5 * s, 7 * s, 5.5 * s, 5 * s, WATER * 0.6, turn=side * 0.45)
        plate.tube(
            [(side * 17 * s, -12 * s), (side * (21 if not child else 24) * s, (8 if not child else -14) * s)],
            3.2 * s,
            WATER * 0.8,
        )
        lung_height = (11.0 if child else 13.8) * s
        plate.ellipsoid(
            side * 7.4 * s, -1.5 * s, 5.9 * s, lung_height, 7.2 * s, AIR_IN_LUNG, turn=side * -0.07, power=2.5
        )
        plate.tube(
            [
                (side * 1.5 * s, -12.7 * s),
                (side * 6 * s, -13.6 * s),
                (side * 11 * s, -14.6 * s),
                (side * 14.5 * s, -15.2 * s),
            ],
            0.62 * s,
            BONE,
            hollow=0.6,
        )
        plate.tube(
            [(side * 14.0 * s, -13 * s), (side * 11.5 * s, -9 * s), (side * 12 * s, -2 * s)],
            0.55 * s,
            BONE * 0.6,
            hollow=0.5,
        )
        plate.ellipsoid(side * 16.3 * s, -13.2 * s, 2.1 * s, 2.3 * s, 1.9 * s, BONE * 0.7)
        plate.tube(
            [(side * 16.5 * s, -12.5 * s), (side * (19.5 if not child else 23) * s, (3 if not child else -14) * s)],
            1.1 * s,
            BONE,
            hollow=0.6,
        )
        for n in range(5):
            angle = -0.9 + 0.45 * n
            plate.tube(
                [
                    (side * 2.2 * s, -1.5 * s),
                    (side * (2.2 + 3.2 * math.cos(angle)) * s, (-1.5 + 3.4 * math.sin(angle) + 0.8) * s),
                    (side * (2.2 + 6.4 * math.cos(angle)) * s, (-1.5 + 7 * math.sin(angle) + 1.2) * s),
                ],
                [0.5 * s, 0.28 * s, 0.1 * s],
                WATER * 0.9,
            )
    _vertebrae(plate, 0, -22 * s, 22 * s, 15, 1.7 * s, BONE * 0.42)
    heart = 1.15 if child else 1.0
    plate.ellipsoid(1.9 * s, 4.6 * s, 5.8 * s * heart, 6.2 * s * heart, 5.5 * s, -AIR_IN_LUNG * 0.95, turn=0.5)
    plate.ellipsoid(-0.9 * s, 0.5 * s, 3.3 * s * heart, 6.5 * s, 4 * s, -AIR_IN_LUNG * 0.8)
    plate.ellipsoid(2.0 * s, -6.2 * s, 2.0 * s, 2.2 * s, 3 * s, -AIR_IN_LUNG * 0.9)
    plate.ellipsoid(0, -6 * s, 2.6 * s * (1.4 if child else 1.0), 8 * s, 3.5 * s, -AIR_IN_LUNG * 0.7)
    plate.tube([(0, -22 * s), (0, -5 * s)], 0.85 * s, GAS)
    for side, height in ((-1, 10.5), (1, 11.6)):
        plate.ellipsoid(side * 7.6 * s, (height + 5.5) * s, 8.2 * s, 7.2 * s, 8 * s, WATER * 0.75)
    plate.ellipsoid(6.5 * s, 14.5 * s, 2.6 * s, 1.6 * s, 2.2 * s, GAS * 0.8)
    _ribs(plate, -15.5 * s, 12 * s, 13.6 * s, 10, 0.55 * s, BONE * 0.75)


def chest(plate_columns: int = 1024) -> Plate:
    """An adult's chest, postero-anterior."""
    plate = Plate(38, 42, plate_columns)
    _chest(plate, child=False)
    return plate


def child_chest(plate_columns: int = 900) -> Plate:
    """A small child's chest, antero-posterior, arms up, on a landscape field."""
    plate = Plate(22, 18.5, plate_columns)
    _chest(plate, child=True)
    return plate


def spine(plate_columns: int = 560) -> Plate:
    """A lumbar and thoracic spine with a curve, antero-posterior, narrowly collimated."""
    plate = Plate(20, 44, plate_columns)
    plate.ellipsoid(0, 0, 19, 40, 10, WATER * 0.85, power=3)
    for side in (-1, 1):
        plate.ellipsoid(side * 8.5, -16, 6, 13, 7, AIR_IN_LUNG * 0.9)
    step, count = 2.55, 17
    for n in range(count):
        y = -21.5 + n * step
        x = 1.3 * math.sin(2.3 * math.pi * n / count) * (0.3 + 0.7 * math.sin(math.pi * n / count))
        w = 1.45 + 0.06 * n
        plate.ellipsoid(x, y, w, 0.42 * step, 2.2, BONE * 0.75, power=4)
        for end in (-0.40, 0.40):
            plate.ellipsoid(x, y + end * step, w * 0.97, 0.05 * step, 2.0, BONE * 0.8, power=4)
        for side in (-1, 1):
            plate.ellipsoid(x + side * 0.6 * w, y - 0.12 * step, 0.2 * w, 0.2 * step, 0.9, BONE * 1.2)
            plate.tube([(x + side * w * 0.8, y - 0.1), (x + side * w * 1.75, y - 0.25)], 0.28, BONE * 0.8)
        plate.ellipsoid(x, y + 0.35 * step, 0.17 * w, 0.3 * step, 1.6, BONE)
        if n < 10:
            for side in (-1, 1):
                plate.tube(
                    [(x + side * 1.4, y - 0.4), (x + side * 5, y - 0.6), (x + side * 9.5, y + 2.6)],
                    0.42,
                    BONE * 0.6,
                    hollow=0.6,
                )
    for side in (-1, 1):
        plate.ellipsoid(side * 7.5, 21.5, 5.5, 5, 2.2, BONE * 0.8, turn=side * 0.4)
    plate.ellipsoid(0, 22, 4, 3.2, 3, BONE * 0.7)
    return plate


def abdomen(plate_columns: int = 1000) -> Plate:
    """A supine abdomen: bowel gas, psoas, lumbar spine, the wings of the pelvis."""
    plate = Plate(36, 43, plate_columns)
    plate.ellipsoid(0, 0, 17.5, 34, 11, WATER * 0.9, power=3.2)
    plate.ellipsoid(-8.5, -13, 8, 8.5, 5, WATER * 0.25)
    plate.ellipsoid(9.5, -14, 4.5, 4.5, 3, WATER * 0.2)
    for side in (-1, 1):
        plate.ellipsoid(side * 6.2, -4.5, 2.7, 5.4, 2.4, WATER * 0.22, turn=side * -0.2)
        plate.tube([(side * 2.2, -8), (side * 4.2, 3), (side * 6.5, 11)], [1.2, 2.2, 2.4], WATER * 0.14)
        plate.ellipsoid(side * 10.2, 12.5, 6.3, 6.2, 1.5, BONE * 0.62, turn=side * 0.6)
        plate.ellipsoid(side * 10.2, 20.5, 2.6, 2.6, 2.4, BONE * 0.6)
        plate.tube([(side * 4.5, 8.5), (side * 8.5, 6.0), (side * 13.2, 7.0), (side * 15.3, 11.5)], 0.6, BONE * 0.9)
        plate.tube([(side * 10.5, 20.5), (side * 14.8, 23.0)], 1.9, BONE * 0.6, hollow=0.6)
        for n in range(3):
            plate.tube(
                [(side * 2.2, -20 + 2.6 * n), (side * 9, -19.3 + 2.6 * n), (side * 15, -14.5 + 3 * n)],
                0.55,
                BONE * 0.62,
                hollow=0.6,
            )
        plate.tube([(side * 2.5, 21.2), (side * 6.5, 19.2)], 1.0, BONE * 0.6)
    _vertebrae(plate, 0, -22, 9.5, 9, 2.05, BONE * 0.62)
    plate.ellipsoid(0, 12.8, 4.1, 4.4, 2.0, BONE * 0.6)
    loops: list[tuple[float, float, float, float, float]] = [
        (-12.2, 1.0, 1.9, 4.2, 0.1),
        (-12.0, 8.2, 2.2, 3.0, -0.1),
        (-7, -8.0, 3.6, 1.6, 0.2),
        (0.5, -9.8, 4.2, 1.7, -0.1),
        (8.2, -8.6, 3.8, 1.7, -0.3),
        (12.8, -4.6, 1.6, 3.8, -0.1),
        (12.8, 3.4, 1.5, 3.4, 0.1),
        (6.8, 11.6, 2.8, 1.4, 0.7),
        (1.4, 15.8, 2.4, 2.0, 0.0),
        (-4.6, 4.2, 2.2, 1.1, 0.4),
        (3.8, 2.4, 2.0, 1.0, -0.5),
        (-2.0, 8.2, 1.9, 0.9, 0.9),
        (7.6, -15.2, 3.4, 2.6, 0.2),
    ]
    for x, y, a, b, turn in loops:
        plate.ellipsoid(x, y, a, b, 1.7, GAS * 0.75, turn=turn)
        plate.ellipsoid(x + 0.3 * a, y - 0.15 * b, 0.5 * a, 0.6 * b, 1.0, GAS * 0.6, turn=turn + 0.3)
    return plate


def hand(plate_columns: int = 800) -> Plate:
    """A left hand, postero-anterior, with wrist."""
    plate = Plate(20, 26, plate_columns)
    plate.ellipsoid(0, 4, 4.6, 5.2, 1.4, WATER * 0.9, power=2.6)
    plate.tube([(-0.2, 7), (-0.2, 16)], [3.0, 2.9], WATER * 0.45)
    fingers: list[tuple[Point, float, tuple[float, float, float], float]] = [
        ((-3.0, 1.2), -0.20, (4.0, 2.3, 1.8), 0.95),
        ((-1.0, 0.7), -0.05, (4.5, 2.8, 2.0), 1.0),
        ((0.9, 0.9), 0.06, (4.2, 2.6, 2.0), 0.95),
        ((2.7, 1.6), 0.20, (3.2, 1.9, 1.7), 0.85),
    ]
    wrist: Point = (-0.3, 7.6)
    for (x, y), lean, bones, thick in fingers:
        _ray(plate, ((wrist[0] + 0.45 * (x - wrist[0]), wrist[1] - 1.2), (x, y)), 0.42 * thick)
        for length in bones:
            tip = (x + length * math.sin(lean), y - length * math.cos(lean))
            plate.tube([(x, y), tip], 0.92 * thick, WATER * 0.55)
            gap = 0.08
            _ray(plate, ((x + gap * (tip[0] - x), y + gap * (tip[1] - y)), tip), 0.36 * thick)
            x, y = tip
    thumb = [(-1.9, 6.4), (-4.4, 3.9), (-6.3, 1.7), (-7.3, -0.5)]
    for start, end in itertools.pairwise(thumb):
        plate.tube([start, end], 1.15, WATER * 0.5)
        _ray(plate, ((start[0] * 0.92 + end[0] * 0.08, start[1] * 0.92 + end[1] * 0.08), end), 0.44)
    for x, y, r in [
        (-1.7, 7.0, 0.75),
        (-0.6, 6.7, 0.7),
        (0.5, 6.8, 0.75),
        (1.5, 7.2, 0.65),
        (-1.5, 8.1, 0.75),
        (-0.3, 8.2, 0.75),
        (0.9, 8.3, 0.65),
    ]:
        plate.ellipsoid(x, y, r, r * 0.9, 0.7, BONE * 0.8)
    _ray(plate, ((-1.1, 9.2), (-0.9, 16)), 0.95)
    _ray(plate, ((1.1, 9.5), (1.0, 16)), 0.62)
    return plate


def _ray(plate: Plate, ends: tuple[Point, Point], radius: float) -> None:
    """A long bone: a hollow shaft with thicker ends."""
    (x0, y0), (x1, y1) = ends
    points = [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in (0, 0.14, 0.35, 0.65, 0.86, 1)]
    plate.tube(points, [radius * f for f in (1.25, 1.2, 0.8, 0.75, 1.05, 1.1)], BONE, hollow=0.6)


PARTS: dict[str, tuple[Callable[[], Plate], str]] = {
    "chest": (chest, "adult_chest"),
    "child's chest": (child_chest, "pediatric_chest"),
    "spine": (spine, "spine"),
    "abdomen": (abdomen, "abdominal"),
    "hand": (hand, "others"),
}
"""What is drawn, how, and the class it stands for."""


def radiograph(part: str, seed: int = 0) -> NDArray[np.uint16]:
    """The phantom of `part` as 12-bit grey values, shape (rows, columns), bone white."""
    draw, _ = PARTS[part]
    return draw().develop(np.random.default_rng(seed))
