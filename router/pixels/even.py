"""Makes the length of every value of a data set even, as PS3.5 §7.1 wants: each odd value gets one pad byte.

Real senders write odd lengths. But PS3.8 annex E cannot send a data set of odd length: DCMTK and Orthanc refuse its
last fragment. Only pad bytes and the lengths around them change. Every transfer syntax works that is not deflated.
The written file is read back and compared, value by value, before `even_out` returns.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

from router.dicom.data_set import DataSet, open_data_set
from router.dicom.elements import ITEM, PIXELS, SEQUENCE_END, UNDEFINED, Coding, Element, items, walk
from router.dicom.uids import INFLATED, LONG_VRS
from router.pixels.header import OPAQUE, value_representation

MOST_NESTED = 64
MOST_PARTS = 500_000
PIECE = 1 << 20
BINARY = OPAQUE | {"UI", "AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"}
"""These are padded with NUL. All other VRs are text, padded with a space (PS3.5 §6.2)."""
OFFSETS = (0x7FE00001, 0x7FE00002)
"""Where each frame lies, and how long it is (PS3.3 C.7.6.3.1.8)."""

Place = tuple[int, ...]


class NotEvenError(ValueError):
    """The data set cannot be padded. The message is a fixed text."""


@dataclass(frozen=True, slots=True)
class Part:
    """An element, item or fragment: where its length is written (`width` bytes at `field`) and where its value lies.

    A `leaf` holds a value, anything else holds parts.
    """

    place: Place
    vr: str
    field: int
    width: int
    offset: int
    length: int
    leaf: bool
    undefined: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def pad(self) -> bytes:
        return b"" if self.length % 2 == 0 or not self.leaf else b"\0" if self.vr in BINARY else b" "


def even_out(source: Path, target: Path) -> None:
    """Write the Part 10 file `source` to `target`, padded, and compare. Raises ValueError with a fixed text if that
    cannot be done. Then `target` is removed. Raises OSError if a file fails."""
    try:
        _even_out(source, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _even_out(source: Path, target: Path) -> None:
    before = _opened(source)
    try:
        parts = _all_parts(before)
        with target.open("wb") as out:
            _write(before, parts, out)
        after = _opened(target)
        try:
            if not _same_but_padded(before, parts, after):
                raise NotEvenError("what was written does not compare equal")
        finally:
            after.close()
    finally:
        before.close()


def _opened(path: Path) -> DataSet:
    data_set = open_data_set(path, last=0xFFFFFFFF)
    if data_set.broken or data_set.syntax in INFLATED:
        data_set.close()
        raise NotEvenError(data_set.broken or "the data set is deflated")
    return data_set


def _all_parts(data_set: DataSet) -> list[Part]:
    begin = max(element.offset + element.length for element in data_set.meta.values()) if data_set.meta else 0
    parts: list[Part] = []
    for part in _elements(data_set, begin, data_set.size, data_set.coding, ()):
        parts.append(part)
        if len(parts) > MOST_PARTS:
            raise NotEvenError("the data set has too many elements")
    return parts


def _elements(data_set: DataSet, begin: int, end: int, coding: Coding, place: Place) -> Iterator[Part]:
    """The elements of a data set or item, and what they hold, in order."""
    if len(place) > 2 * MOST_NESTED:
        raise NotEvenError("sequences are nested too deeply")
    for element in walk(data_set.stream, begin, end, coding, item=bool(place)):
        if element.offset + element.length > end:
            raise NotEvenError("an element is longer than the data set")
        yield from _element(data_set, element, coding, (*place, element.tag))


def _element(data_set: DataSet, element: Element, coding: Coding, here: Place) -> Iterator[Part]:
    vr, stream = value_representation(element, data_set), data_set.stream
    if coding.explicit and not element.vr:
        raise NotEvenError("an element has no VR")
    width = 2 if coding.explicit and element.vr.encode() not in LONG_VRS else 4
    field = element.offset - width
    if _number(stream, field, width, coding) not in (element.length, UNDEFINED):
        raise NotEvenError("an element's length is not where it should be")
    whole = (here, vr, field, width, element.offset, element.length)
    if element.undefined and (element.tag in PIXELS or element.vr in ("OB", "OW")):
        yield Part(*whole, leaf=False, undefined=True)
        yield from _fragments(data_set, element, coding, here)
    elif element.undefined or vr == "SQ" or (vr == "UN" and _holds_items(stream, element, coding)):
        yield Part(*whole, leaf=False, undefined=element.undefined)
        inner = Coding(coding.explicit and element.vr != "UN", coding.order)
        yield from _items(data_set, element.offset, element.offset + element.length, inner, here)
    else:
        yield Part(*whole, leaf=True)


def _holds_items(stream: BinaryIO, element: Element, coding: Coding) -> bool:
    """Whether a value of unknown kind is a sequence. In Implicit VR only the first item of a private one shows it."""
    return element.length >= 8 and _tag(stream, element.offset, coding) == ITEM


def _items(data_set: DataSet, position: int, end: int, coding: Coding, here: Place) -> Iterator[Part]:
    for number, item in enumerate(items(data_set.stream, position, end, coding)):
        place, known = (*here, number), 0 if item.undefined else item.length
        yield Part(place, "", item.offset - 4, 4, item.offset, known, leaf=False, undefined=item.undefined)
        yield from _elements(data_set, item.offset, item.end, coding, place)


def _fragments(data_set: DataSet, element: Element, coding: Coding, here: Place) -> Iterator[Part]:
    """The fragments of encapsulated pixels. An odd one is padded if no table says where the next one begins."""
    position, end = element.offset, element.offset + element.length
    found: list[Part] = []
    while end - position >= 8:
        tag = _tag(data_set.stream, position, coding)
        length = _number(data_set.stream, position + 4, 4, coding)
        if tag == SEQUENCE_END:
            break
        if tag != ITEM or position + 8 + length > end:
            raise NotEvenError("the pixel data has something that is not a fragment")
        found.append(Part((*here, len(found)), "OB", position + 4, 4, position + 8, length, leaf=True))
        position += 8 + length
    tables = bool(found and found[0].length) or any(tag in data_set.elements for tag in OFFSETS)
    if tables and any(part.pad for part in found[:-1]):
        raise NotEvenError("a fragment of odd length lies before others, and a table says where they are")
    yield from found


def _tag(stream: BinaryIO, position: int, coding: Coding) -> int:
    return _number(stream, position, 2, coding) << 16 | _number(stream, position + 2, 2, coding)


def _number(stream: BinaryIO, position: int, width: int, coding: Coding) -> int:
    stream.seek(position)
    return int.from_bytes(stream.read(width), "little" if coding.order == "<" else "big")


def _write(data_set: DataSet, parts: list[Part], out: BinaryIO) -> None:
    """Copy all bytes, with a pad after each odd value, and the new lengths around it."""
    ends = sorted(part.end for part in parts if part.pad)
    edits: list[tuple[int, int, bytes]] = []
    for part in parts:
        grows = bisect_right(ends, part.end) - bisect_right(ends, part.offset)
        if part.leaf and part.pad:
            edits.append((part.end, 0, part.pad))
        if grows and not part.undefined:
            if part.length + grows >= (1 << 8 * part.width) - 1:
                raise NotEvenError("a padded value is longer than its VR can be")
            code = {2: "H", 4: "L"}[part.width]
            edits.append((part.field, part.width, struct.pack(data_set.coding.order + code, part.length + grows)))
    at = 0
    for position, count, new in sorted(edits):
        _copy(data_set.stream, at, position, out)
        out.write(new)
        at = position + count
    _copy(data_set.stream, at, data_set.size, out)


def _copy(stream: BinaryIO, begin: int, end: int, out: BinaryIO) -> None:
    stream.seek(begin)
    while begin < end:
        piece = stream.read(min(PIECE, end - begin))
        if not piece:
            raise OSError("the file has become shorter")
        out.write(piece)
        begin += len(piece)


def _same_but_padded(before: DataSet, parts: list[Part], after: DataSet) -> bool:
    """Whether the second data set has the same parts in the same order, each value as it was and, where odd, padded."""
    if (after.syntax, after.coding, after.meta) != (before.syntax, before.coding, before.meta):
        return False
    for was, now in zip_longest(parts, _all_parts(after)):
        if was is None or now is None:
            return False
        if (was.place, was.vr, was.leaf, was.undefined) != (now.place, now.vr, now.leaf, now.undefined):
            return False
        if was.leaf and not _same_value(before.stream, was, after.stream, now):
            return False
    return True


def _same_value(one: BinaryIO, was: Part, other: BinaryIO, now: Part) -> bool:
    if now.length != was.length + len(was.pad):
        return False
    one.seek(was.offset)
    other.seek(now.offset)
    left = was.length
    while left:
        piece = one.read(min(PIECE, left))
        if not piece or piece != other.read(len(piece)):
            return False
        left -= len(piece)
    return other.read(len(was.pad)) == was.pad
