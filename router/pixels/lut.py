"""Lookup tables as they lie in a data set: descriptor and data, with the errors that real ones have.

Sources: PS3.3 C.11.1.1 (modality), C.11.2.1.1 (VOI), C.7.6.3.1.5–6 (palette).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.dicom.data_set import DataSet
from router.dicom.elements import Element

Levels = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Lut:
    """`values[i]` is the output for input `first + i`; inputs beyond the ends take the end's output."""

    first: int
    values: Levels

    def apply(self, levels: Levels) -> Levels:
        place = np.clip(levels - self.first, 0, len(self.values) - 1).astype(np.intp)
        return self.values[place]

    def normalised(self) -> Lut:
        """The same with outputs from 0 to 1: the bits in a descriptor are too often wrong to go by."""
        low, high = float(self.values.min()), float(self.values.max())
        return Lut(self.first, (self.values - low) / max(high - low, 1.0))


def read_lut(
    data_set: DataSet, within: Mapping[int, Element], descriptor: int, data: int, *, signed: bool | None = None
) -> Lut | None:
    """The table of two elements, or None when it is absent, too short or nonsense.

    `signed`: how the first mapped value is meant; None: as the pixels are.
    """
    described, stored = within.get(descriptor), within.get(data)
    if described is None or stored is None or described.length != 6 or stored.length < 2:
        return None
    order = data_set.coding.order
    count, first, bits = struct.unpack(order + "3H", data_set.value(described, 6))
    if signed is None:
        sign = data_set.elements.get(0x00280103)
        signed = sign is not None and data_set.value(sign, 2).strip(b"\0") == b"\x01"
    if signed and first >= 0x8000:
        first -= 0x10000
    count = count or 0x10000
    raw = data_set.value(stored, 2 * count)
    if len(raw) < 2 * count and bits <= 8 and len(raw) >= count:
        values = np.frombuffer(raw, np.uint8, count)
    elif len(raw) == 2 * count:
        values = np.frombuffer(raw, order + "u2", count)
    else:
        return None
    return Lut(first, values.astype(np.float64))
