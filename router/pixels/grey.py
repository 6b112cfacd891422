"""Stored samples to a grey image with white bone: the grey pipeline of PS3.3 C.7.6.16 figure, as a table.

At most 65536 different values occur, so every step (modality LUT, VOI LUT or window, polarity) works on the list
of values, and the image is looked up once. Sources: PS3.3 C.11.1, C.11.2, C.7.6.3.1.5, C.7.5.1.1.2, C.8.11.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.dicom.data_set import DataSet
from router.pixels.decoders import Frame
from router.pixels.header import Layout, UndecodableError, decimals, text
from router.pixels.lut import read_lut

Levels = NDArray[np.float64]
"""One number for each different value that the image may hold."""

SAMPLED = 1_000_000
"""About as many pixels are counted to judge a window."""
MOSTLY = 0.95
LEAST_SHOWN = 0.08
"""A window is nonsense if it shows the middle 98 % of the pixels in less than this share of the grey range …"""
MOST_CLIPPED = 0.7
"""… or if it shows more than this share of all but the extreme values as plain black or white."""


@dataclass(frozen=True, slots=True)
class Grey:
    """A grey image (rows, columns), bone white; `mask` is False at padding; `window` as in PictureFacts."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None = None
    window: tuple[float, float] | None = None


def to_grey(data_set: DataSet, form: Layout, frame: Frame) -> Grey:
    """One frame as the data set wants it shown, but with white bone. Raises UndecodableError if no sample is usable."""
    if form.photometric == "PALETTE COLOR":
        return Grey(_palette(data_set, frame.samples))
    if frame.samples.ndim == 3:
        return Grey(_luminance(frame, form))
    index, stored = _indexed(frame.samples)
    every = max(1, int((index.size / SAMPLED) ** 0.5))
    counts: NDArray[np.int64] = np.bincount(index[::every, ::every].ravel(), minlength=len(stored))
    padding = _padding(data_set, form, stored)
    if padding is not None and counts[padding].sum() > MOSTLY * counts.sum():
        padding = None
    if padding is not None:
        counts = np.where(padding, 0, counts)
    with np.errstate(all="ignore"):
        shown, window = _shown(data_set, _modality(data_set, stored), counts)
    if dark_bone(data_set, form):
        shown = 1.0 - shown
    table = (np.nan_to_num(np.clip(shown, 0, 1)) * 255 + 0.5).astype(np.uint8)
    if padding is None:
        return Grey(table.take(index), None, window)
    table[padding] = 0
    return Grey(table.take(index), ~padding.take(index) if padding.any() else None, window)


def dark_bone(data_set: DataSet, form: Layout) -> bool:
    """Whether low values stand for bone. An image for processing is judged by the sign of its intensity relation."""
    sign = data_set.elements.get(0x00281041)
    if text(data_set, 0x00080068).upper() == "FOR PROCESSING" and sign is not None and sign.length == 2:
        return int.from_bytes(data_set.value(sign, 2), "little" if data_set.coding.order == "<" else "big") == 1
    return form.photometric == "MONOCHROME1"


def _luminance(frame: Frame, form: Layout) -> NDArray[np.uint8]:
    """Colour to uint8 luminance (ITU-R BT.601, as PS3.3 C.7.6.3.1.2 uses it)."""
    samples = frame.samples
    spare = min(16, form.stored) - 8
    if spare > 0:
        samples = samples >> spare
    samples = np.clip(samples, 0, 255).astype(np.uint8)
    if frame.ybr:
        return np.ascontiguousarray(samples[..., 0])
    red, green, blue = (samples[..., i].astype(np.uint16) for i in range(3))
    luminance: NDArray[np.uint8] = ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)
    return luminance


def _palette(data_set: DataSet, samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Palette colour to luminance; values outside the palette take its ends (PS3.3 C.7.6.3.1.5, C.7.6.3.1.6)."""
    index, stored = _indexed(samples)
    luminance = np.zeros(len(stored))
    for descriptor, data, weight in ((0x00281101, 0x00281201, 77), (0x00281102, 0x00281202, 150),
                                     (0x00281103, 0x00281203, 29)):  # fmt: skip
        lut = read_lut(data_set, data_set.elements, descriptor, data)
        if lut is None:
            raise UndecodableError("a palette is missing or broken")
        luminance += weight * lut.apply(stored) / (255 if lut.values.max() < 256 else 65535)
    table: NDArray[np.uint8] = np.clip(luminance, 0, 255).astype(np.uint8)
    luminances: NDArray[np.uint8] = table.take(index)
    return luminances


def _indexed(samples: NDArray[Any]) -> tuple[NDArray[Any], Levels]:
    """The image as indices into a list of at most 65536 stored values in rising order."""
    if samples.dtype.kind == "u" and samples.dtype.itemsize <= 2:
        return samples, np.arange(int(samples.max()) + 1, dtype=np.float64)
    if samples.dtype.kind == "f":
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(samples.min()), float(samples.max())
    if samples.dtype.kind == "i" and high - low < 65536:
        return (samples.astype(np.int32) - int(low)).astype(np.uint16), np.arange(low, high + 1, dtype=np.float64)
    step = (high - low) / 65535
    if not np.isfinite(step):
        raise UndecodableError("the pixel values are beyond any range")
    # In 64 bits: the range of 32-bit floats does not fit into 32 bits, and a denormal step is not exact.
    index = np.minimum((samples.astype(np.float64) - low) / (step or 1.0), 65535).astype(np.uint16)
    return index, low + step * np.arange(65536, dtype=np.float64)


def _padding(data_set: DataSet, form: Layout, stored: Levels) -> NDArray[np.bool_] | None:
    """Which stored values are padding (PS3.3 C.7.5.1.1.2): one value, or a range with its limit."""
    value, limit = (_number(data_set, form, tag) for tag in (0x00280120, 0x00280121))
    if value is None:
        return None
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def _number(data_set: DataSet, form: Layout, tag: int) -> int | None:
    element = data_set.elements.get(tag)
    if element is None or element.length != 2:
        return None
    order = "little" if data_set.coding.order == "<" else "big"
    return int.from_bytes(data_set.value(element, 2), order, signed=form.kind == "i")  # type: ignore[arg-type]


def _modality(data_set: DataSet, stored: Levels) -> Levels:
    """Stored values in modality units (PS3.3 C.11.1): by table, else by slope and intercept, else as they are."""
    item = data_set.first_item(0x00283000)
    lut = read_lut(data_set, item, 0x00283002, 0x00283006) if item else None
    if lut is not None:
        return lut.apply(stored)
    slope, intercept = decimals(data_set, 0x00281053), decimals(data_set, 0x00281052)
    if not slope or not 1e-9 < abs(slope[0]) < 1e12 or (intercept and abs(intercept[0]) > 1e12):
        return stored
    return stored * slope[0] + (intercept[0] if intercept else 0.0)


def _shown(data_set: DataSet, units: Levels, counts: NDArray[np.int64]) -> tuple[Levels, tuple[float, float]]:
    """Modality units to 0…1 by the first VOI LUT or window that shows something, else by percentiles."""
    item = data_set.first_item(0x00283010)
    lut = read_lut(data_set, item, 0x00283002, 0x00283006, signed=bool(units.min() < 0)) if item else None
    if lut is not None:
        shown = lut.normalised().apply(units)
        if _sensible(shown, counts):
            return shown, (lut.first, lut.first + len(lut.values) - 1)
    function = text(data_set, 0x00281056).upper()
    centres, widths = decimals(data_set, 0x00281050), decimals(data_set, 0x00281051)
    for centre, width in zip(centres, widths, strict=False):
        shown, bounds = _windowed(units, centre, width, function)
        if bounds[1] > bounds[0] and _sensible(shown, counts):
            return shown, bounds
    low, high = _percentiles(units, counts, 0.5, 99.5)
    return (units - low) / max(high - low, 1e-12), (low, high)


def _windowed(units: Levels, centre: float, width: float, function: str) -> tuple[Levels, tuple[float, float]]:
    """A window of PS3.3 C.11.2.1.2 (linear) or C.11.2.1.3 (linear exact, sigmoid), and its bounds."""
    if function in ("SIGMOID", "LINEAR_EXACT"):
        bounds = centre - width / 2, centre + width / 2
    else:
        bounds = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    if not bounds[1] > bounds[0]:
        return units, bounds
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (units - centre) / width, -60, 60))), bounds
    return (units - bounds[0]) / (bounds[1] - bounds[0]), bounds


def _sensible(shown: Levels, counts: NDArray[np.int64]) -> bool:
    """Whether this way of showing is good. It must not squeeze the greys together or clip them to black and white."""
    low, high = _percentiles(np.clip(shown, 0, 1), counts, 1, 99)
    present = np.flatnonzero(counts)
    if len(present) < 3:
        return high > low
    middle = slice(present[0] + 1, present[-1])
    clipped = (shown[middle] <= 0) | (shown[middle] >= 1)
    total = counts[middle].sum()
    return bool(high - low >= LEAST_SHOWN and counts[middle][clipped].sum() <= MOST_CLIPPED * total)


def _percentiles(values: Levels, counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Two percentiles of values that occur so many times each."""
    order = np.argsort(values, kind="stable")
    rising = np.cumsum(counts[order])
    places = np.searchsorted(rising, rising[-1] * np.array((low, high)) / 100, side="left")
    first, last = (float(values[order[min(place, len(order) - 1)]]) for place in places)
    return first, last
