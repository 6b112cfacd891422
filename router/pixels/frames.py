"""Which bytes are which frame: native pixels by arithmetic, encapsulated ones by fragments and offset tables.

Source: PS3.5 §8.1.1, A.4; PS3.3 C.7.6.3.1.8 (extended offset table).
"""

from __future__ import annotations

import struct
from itertools import pairwise

from router.dicom.data_set import DataSet
from router.dicom.elements import ITEM, SEQUENCE_END, UNDEFINED, Element
from router.pixels.header import Layout, UndecodableError, pixel_element

MOST_FRAGMENTS = 1_000_000
EXTENDED_OFFSETS = 0x7FE00001
STARTS = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0c\x6a\x50")
"""How a codestream begins: JPEG and JPEG-LS, JPEG 2000, JP2."""

Fragment = tuple[int, int]
"""Place and length of a fragment's bytes."""


def native(data_set: DataSet, layout: Layout, frame: int | None = None) -> memoryview:
    """The bytes of one frame, or of all frames. One-bit frames can only be had together.

    Raises UndecodableError if the pixel data is shorter than the header says, even if the wanted frame is there.
    """
    element = pixel_element(data_set)
    if element.undefined:
        raise UndecodableError("fragments where native pixels should be")
    needed = -(-layout.frame_bits * layout.frames // 8)
    if element.offset + element.length > data_set.size or element.length < needed:
        raise UndecodableError("the pixel data is cut short")
    if layout.allocated == 1 and element.length > 2 * needed + 64:
        raise UndecodableError("the pixel data is too long for one bit a sample")
    if frame is None:
        return data_set.view(element.offset, min(element.length, needed + needed % 2))
    step = layout.frame_bits // 8
    return data_set.view(element.offset + frame * step, step + step % 2)


def encapsulated(data_set: DataSet, frames: int) -> list[list[Fragment]]:
    """The fragments of every frame. Raises UndecodableError if the frames cannot be told apart."""
    element = pixel_element(data_set)
    if not element.undefined:
        raise UndecodableError("native pixels where fragments should be")
    table, fragments = _fragments(data_set, element)
    if not fragments or any(length == 0 for _, length in fragments):
        raise UndecodableError("the pixel data has no fragments, or empty ones")
    if frames == 1:
        return [fragments]
    if len(fragments) < frames:
        raise UndecodableError("the pixel data has fewer fragments than frames")
    for offsets in (table, _extended(data_set, frames)):
        grouped = _by_offsets(fragments, offsets, frames)
        if grouped:
            return grouped
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    grouped = _by_starts(data_set, fragments)
    if len(grouped) != frames:
        raise UndecodableError("the fragments do not add up to the frames")
    return grouped


def read(data_set: DataSet, fragments: list[Fragment]) -> bytes:
    """The bytes of one frame."""
    pieces = []
    for offset, length in fragments:
        data_set.stream.seek(offset)
        pieces.append(data_set.stream.read(length))
    return b"".join(pieces)


def _fragments(data_set: DataSet, element: Element) -> tuple[list[int], list[Fragment]]:
    """The basic offset table and the fragments that follow it."""
    stream, order = data_set.stream, data_set.coding.order
    position, end = element.offset, data_set.size
    found: list[Fragment] = []
    while end - position >= 8 and len(found) <= MOST_FRAGMENTS:
        stream.seek(position)
        group, number, length = struct.unpack(order + "HHL", stream.read(8))
        tag, position = group << 16 | number, position + 8
        if tag == SEQUENCE_END:
            break
        if tag != ITEM:
            raise UndecodableError("the pixel data holds something that is not a fragment")
        if length == UNDEFINED or position + length > end:
            raise UndecodableError("a fragment is longer than the pixel data")
        found.append((position, length))
        position += length
    if not found:
        return [], []
    offset, length = found[0]
    stream.seek(offset)
    if stream.read(min(length, 6)).startswith(STARTS):  # the offset table was left out
        return [], found
    stream.seek(offset)
    raw = stream.read(min(length, 4 * MOST_FRAGMENTS))
    return [at for (at,) in struct.iter_unpack(order + "L", raw[: len(raw) // 4 * 4])], found[1:]


def _extended(data_set: DataSet, frames: int) -> list[int]:
    element = data_set.elements.get(EXTENDED_OFFSETS)
    if element is None or element.length != 8 * frames:
        return []
    raw = data_set.value(element, 8 * MOST_FRAGMENTS)
    return [at for (at,) in struct.iter_unpack("<Q", raw[: len(raw) // 8 * 8])]


def _by_offsets(fragments: list[Fragment], offsets: list[int], frames: int) -> list[list[Fragment]]:
    """Fragments grouped by an offset table. Empty if the table is wrong."""
    if len(offsets) != frames or offsets[0] != 0 or any(a >= b for a, b in pairwise(offsets)):
        return []
    first = fragments[0][0]
    starts = {at - first: index for index, (at, _) in enumerate(fragments)}
    if any(offset not in starts for offset in offsets):
        return []
    bounds = [*(starts[offset] for offset in offsets), len(fragments)]
    return [fragments[a:b] for a, b in pairwise(bounds)]


def _by_starts(data_set: DataSet, fragments: list[Fragment]) -> list[list[Fragment]]:
    """Fragments grouped by where a codestream begins."""
    grouped: list[list[Fragment]] = []
    for offset, length in fragments:
        data_set.stream.seek(offset)
        if not grouped or data_set.stream.read(min(length, 6)).startswith(STARTS):
            grouped.append([])
        grouped[-1].append((offset, length))
    return grouped
