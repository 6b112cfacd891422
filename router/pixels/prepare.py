"""One grey image to the network's input: the same function in training and in service.

Finds the exposed field (uniform margins and collimation edges go), evens out window and gamma, and letterboxes
to a square. Only numpy and Pillow; no DICOM, no file. A change of any pixel it returns is a new `flow.PREPROCESSING`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Crop = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels of the image given."""

THUMBNAIL = 192
LEAST_SIDE = 0.25
"""A field smaller than this share of the image's side is not believed on that axis."""
FLAT = 0.06
"""A row or column whose middle grey values span less than this share of the image's is margin."""
EDGE = 0.10
"""A collimation edge is a step of at least this share of the grey span, along most of its length."""
LONGEST = 2.0
"""Strips longer than this ratio are squeezed to it, so that their short side keeps detail."""
LEAST_SPAN = 0.005
"""An image whose grey values span less than this share of its brightest is even."""
MIDDLE = 0.45
"""Where the median grey is put by gamma."""


def prepare(
    grey: NDArray[np.uint8] | NDArray[np.float32], *, size: int, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint8], Crop]:
    """Grey image (height, width), bone white, uint8 or float32 in 0…1, to a picture (size, size) and its crop.

    `mask` is True where the image is real (False: padding, burnt-out shutter); its bounding box limits the crop.
    An image without contrast gives an even grey picture. Raises ValueError for an empty or not two-dimensional one.
    """
    if grey.ndim != 2 or 0 in grey.shape:
        raise ValueError(f"an image must be (height, width) and not empty, not {grey.shape}")
    image = Image.fromarray(np.ascontiguousarray(grey))
    crop = field(image, mask)
    top, left, bottom, right = crop
    height, width = fit(bottom - top, right - left, size)
    box = (left, top, right, bottom)
    small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0), np.float32)
    picture = np.zeros((size, size), np.uint8)
    y, x = (size - height) // 2, (size - width) // 2
    picture[y : y + height, x : x + width] = even(small)
    return picture, crop


def field(image: Image.Image, mask: NDArray[np.bool_] | None = None) -> Crop:
    """The exposed field of a grey image (mode L or F): what is left when margins and shutters are cut away."""
    width, height = image.size
    ratio = max(1.0, max(width, height) / THUMBNAIL)
    shape = max(1, round(width / ratio)), max(1, round(height / ratio))
    thumbnail = np.asarray(image.resize(shape, Image.Resampling.BOX, reducing_gap=1.0), np.float32)
    bounds = _bounding_box(mask, (height, width), thumbnail.shape)
    bounds = _trim(thumbnail, bounds)
    bounds = _trim(thumbnail, _collimation(thumbnail, bounds))
    rows, columns = height / thumbnail.shape[0], width / thumbnail.shape[1]
    top, left, bottom, right = bounds
    return (
        min(int(top * rows), height - 1),
        min(int(left * columns), width - 1),
        min(max(round(bottom * rows), int(top * rows) + 1), height),
        min(max(round(right * columns), int(left * columns) + 1), width),
    )


def _bounding_box(mask: NDArray[np.bool_] | None, shape: tuple[int, int], small: tuple[int, ...]) -> Crop:
    if mask is None or not mask.any():
        return 0, 0, small[0], small[1]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    down, across = small[0] / shape[0], small[1] / shape[1]
    top, left = int(rows[0] * down), int(columns[0] * across)
    bottom, right = int(np.ceil((rows[-1] + 1) * down)), int(np.ceil((columns[-1] + 1) * across))
    return top, left, max(bottom, top + 1), max(right, left + 1)


def _trim(image: NDArray[np.float32], bounds: Crop) -> Crop:
    """Cut rows and columns of hardly any contrast from the outside; small marks in a margin do not count."""
    for _ in range(3):
        top, left, bottom, right = bounds
        part = image[top:bottom, left:right]
        low, high = np.percentile(part[::2, ::2], (2, 98))
        flat = FLAT * (high - low)
        if flat <= 0:
            return bounds
        a, b = _keep(_spans(part, axis=1) > flat)
        c, d = _keep(_spans(part, axis=0) > flat)
        trimmed = top + a, left + c, top + b, left + d
        if trimmed == bounds:
            break
        bounds = trimmed
    return bounds


def _spans(part: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    ordered = np.sort(part, axis=axis)
    count = part.shape[axis]
    low, high = int(count * 0.08), min(count - 1, int(count * 0.92))
    spans: NDArray[np.float32] = ordered.take(high, axis=axis) - ordered.take(low, axis=axis)
    return spans


def _keep(textured: NDArray[np.bool_]) -> tuple[int, int]:
    where = np.flatnonzero(textured)
    if len(where) == 0 or where[-1] + 1 - where[0] < LEAST_SIDE * len(textured):
        return 0, len(textured)
    return int(where[0]), int(where[-1]) + 1


def _collimation(image: NDArray[np.float32], bounds: Crop) -> Crop:
    """Straight steps that run along most of a side, in its outer third, with the brighter or livelier side within."""
    top, left, bottom, right = bounds
    part = image[top:bottom, left:right]
    low, high = np.percentile(part[::2, ::2], (2, 98))
    step = EDGE * (high - low)
    a, b = _steps(part, step)
    c, d = _steps(part.T, step)
    return top + a, left + c, top + b, left + d


def _steps(part: NDArray[np.float32], step: float) -> tuple[int, int]:
    count = len(part)
    if count < 16:
        return 0, count
    jump = part[3:] - part[:-3]
    inwards, outwards = (jump > step).mean(axis=1), (jump < -step).mean(axis=1)
    third = count // 3
    first = np.flatnonzero(np.maximum(inwards, outwards)[:third] > 0.7)
    last = np.flatnonzero(np.maximum(inwards, outwards)[-third:] > 0.7)
    spread = part.std(axis=1)
    begin, end = 0, count
    if len(first) and spread[: first[-1] + 1].mean() < 0.6 * spread[third:-third].mean():
        begin = int(first[-1]) + 3
    if len(last) and spread[count - third + last[0] :].mean() < 0.6 * spread[third:-third].mean():
        end = count - third + int(last[0])
    return begin, end


def fit(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) that a field of this shape takes in a square of `size` pixels."""
    ratio = min(max(width / height, 1 / LONGEST), LONGEST)
    if ratio >= 1:
        return max(1, round(size / ratio)), size
    return size, max(1, round(size * ratio))


def even(small: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Stretch 1st to 99th percentile to the whole range, then bring the median to MIDDLE by gamma."""
    low, middle, high = (float(v) for v in np.percentile(small, (1, 50, 99)))
    if not high - low > LEAST_SPAN * max(abs(high), 1e-6):
        return np.full(small.shape, 128, np.uint8)
    stretched = np.clip((small - low) / (high - low), 0, 1)
    median = min(max((middle - low) / (high - low), 0.05), 0.95)
    gamma = min(max(np.log(MIDDLE) / np.log(median), 0.5), 2.0)
    picture: NDArray[np.uint8] = (np.power(stretched, np.float32(gamma)) * 255 + 0.5).astype(np.uint8)
    return picture
