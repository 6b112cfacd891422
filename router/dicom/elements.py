"""The one walk over the elements of a data set. It finds tag, VR, place and length of each, and reads no value.

It is one loop without recursion, with a limit of steps. So a data set that nests a thousand levels deep, or claims
gigabytes, costs only the few bytes of its headers. Bytes in memory are walked as an `io.BytesIO`. A file is read and
not mapped, because the node's own process walks files too: there a bad sector must be an error and no SIGBUS. The
caller reads the values. Source: PS3.5 §7.1, §7.5, Annex A.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct
from typing import BinaryIO

from router.dicom.uids import LONG_VRS

UNDEFINED = 0xFFFFFFFF
"""The undefined length: the value ends with a delimiter."""
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DELIMITERS = 0xFFFE
"""The group of items and delimiters, which have no VR in any transfer syntax."""
PIXEL_DATA = 0x7FE00010
PIXELS = (0x7FE00008, 0x7FE00009, PIXEL_DATA)
"""Float, double float and plain pixel data (PS3.3 C.7.6.24, C.7.6.25, C.7.6.3)."""

SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Value representations with a length of two bytes (table 7.1-2)."""
VRS = SHORT_VRS | LONG_VRS
MOST_NESTED = 256
"""The most levels of sequences within sequences. Real data sets have six. Recursive readers fail at a thousand."""
MOST_STEPS = 1_000_000
"""The most headers of elements and items in one data set."""

_TAG = {order: Struct(order + "HH") for order in "<>"}
_SHORT = {order: Struct(order + "H") for order in "<>"}
_LONG = {order: Struct(order + "L") for order in "<>"}
_HEADER = {order: Struct(order + "HHL") for order in "<>"}
"""Tag and length: an element in implicit VR, an item or a delimiter in any."""


class UnparseableError(ValueError):
    """The data set itself cannot be read. The message is a fixed text, never received words."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element or item: its tag, VR (empty in implicit VR), and the place and length of its value in bytes."""

    tag: int
    vr: str
    offset: int
    length: int
    undefined: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Coding:
    """How elements are written: explicit or implicit VR, and the byte order for struct and numpy."""

    explicit: bool
    order: str = "<"


def walk(
    stream: BinaryIO, start: int, end: int, coding: Coding, group: int | None = None, *, item: bool = False
) -> Iterator[Element]:
    """The elements between two places, in order. With `item`, the walk ends at an item delimiter. With `group`, it ends
    before the first element of another group. Raises UnparseableError.
    """
    position = start
    for _ in range(MOST_STEPS):
        if end - position < 8:
            if position != end and group is None and any(_read(stream, position, end - position)):
                raise UnparseableError("the data set ends within an element")
            return
        element = _element(stream, position, end, coding)
        if group is not None and element.tag >> 16 != group:
            return
        if element.tag == ITEM_END and item:
            return
        if element.undefined:
            stop = _skip(stream, element, end, coding)
            element = Element(element.tag, element.vr, element.offset, stop - element.offset, True)
        elif element.vr == "SQ" and element.offset + element.length <= end:
            stop = _skip(stream, element, end, coding)
        elif element.offset + element.length > end:
            if element.tag not in PIXELS:
                raise UnparseableError("an element is longer than the data set")
            stop = end
        else:
            stop = element.offset + element.length
        if element.tag >> 16 != DELIMITERS:
            yield element
        position = stop
    raise UnparseableError("the data set has too many elements")


def items(stream: BinaryIO, start: int, end: int, coding: Coding) -> Iterator[Element]:
    """The items of a sequence between two places, in order. `coding` is that of their elements.

    `walk(..., item=True)` gives the elements of one. An item of undefined length is given out with everything that may
    belong to it: its delimiter is searched only for the next item. Raises UnparseableError.
    """
    position = start
    while end - position >= 8:
        head = _read(stream, position, 8)
        if len(head) < 8:  # the sequence may really be pixels that are cut
            raise UnparseableError("the data set ends within an element")
        group, number, length = _HEADER[coding.order].unpack(head)
        tag, position = group << 16 | number, position + 8
        if tag == SEQUENCE_END:
            return
        if tag == ITEM_END:  # it ends the item before, which had no length
            continue
        undefined = length == UNDEFINED
        if tag != ITEM or (not undefined and position + length > end):
            raise UnparseableError("a sequence holds something that is not an item")
        yield Element(ITEM, "", position, end - position if undefined else length, undefined)
        if undefined:
            for element in walk(stream, position, end, coding, item=True):
                position = element.end
        else:
            position += length


def flat(
    stream: BinaryIO, start: int, end: int, coding: Coding, is_sequence: Callable[[int], bool]
) -> Iterator[Element]:
    """The headers of all levels between two places, one after the other: elements, sequences, items and delimiters.

    It ends at the first that makes no sense. `is_sequence` says which tags are sequences where no VR does. Raises
    UnparseableError.
    """
    position = start
    while end - position >= 8:
        element = _element(stream, position, end, coding)
        if element.tag in PIXELS or (element.undefined and element.vr == "UN"):
            return
        position = element.offset
        goes_in = element.tag >> 16 == DELIMITERS or element.undefined or element.vr == "SQ"
        if not goes_in and not (not element.vr and is_sequence(element.tag)):
            position = element.end
        if position > end:
            return
        yield element


def _read(stream: BinaryIO, position: int, count: int) -> bytes:
    stream.seek(position)
    return stream.read(count)


def _element(stream: BinaryIO, position: int, end: int, coding: Coding) -> Element:
    """The header of the element at a place."""
    head = _read(stream, position, 12)
    if len(head) < 8:
        raise UnparseableError("the data set ends within an element")
    order = coding.order
    group, number = _TAG[order].unpack_from(head)
    tag, vr = group << 16 | number, head[4:6]
    if coding.explicit and group != DELIMITERS and vr.isalpha():
        if vr.upper() in LONG_VRS or _is_long(vr, head, position, end, coding):
            if len(head) < 12 or position + 12 > end:
                raise UnparseableError("the data set ends within an element")
            length, offset = _LONG[order].unpack_from(head, 8)[0], position + 12
        else:
            length, offset = _SHORT[order].unpack_from(head, 6)[0], position + 8
        return Element(tag, vr.decode("ascii").upper(), offset, length, length == UNDEFINED)
    length = _LONG[order].unpack_from(head, 4)[0]
    if coding.explicit and group != DELIMITERS and length != UNDEFINED:
        length = _length_without_vr(stream, tag, head, position + 8, end, coding)
    undefined = length == UNDEFINED and group != DELIMITERS
    return Element(tag, "", position + 8, 0 if tag == SEQUENCE_END else length, undefined)


def vr_of_second(stream: BinaryIO, position: int, end: int, order: str) -> bytes:
    """The two bytes in the place of the VR in the next element, if this one is read as explicit VR."""
    return _read(stream, _element(stream, position, end, Coding(True, order)).end + 4, 2)


def _is_long(vr: bytes, head: bytes, position: int, end: int, coding: Coding) -> bool:
    """Whether an unknown VR has a length of four bytes. PS3.5 §7.1.2 wants that of all future VRs."""
    if vr in SHORT_VRS or head[6:8] != b"\0\0" or len(head) < 12:
        return False
    return int(_LONG[coding.order].unpack_from(head, 8)[0]) <= end - position - 12


def _length_without_vr(stream: BinaryIO, tag: int, head: bytes, offset: int, end: int, coding: Coding) -> int:
    """The length of an element in explicit VR whose VR is invalid. Its bytes are a placeholder (`??`, spaces, NULs), or
    part of a length as in implicit VR.

    DCMTK reads two bytes of length behind a placeholder, and so do we. The next element shows which of the two it is.
    If it does not, the bytes in the place of the VR decide.
    """
    short, long = _SHORT[coding.order].unpack_from(head, 6)[0], _LONG[coding.order].unpack_from(head, 4)[0]
    for length in (short, long):
        if _follows(stream, tag, offset + length, end, coding):
            return int(length)
    return int(short if is_placeholder(head[4:6]) or long > end - offset else long)


def is_placeholder(vr: bytes) -> bool:
    """Whether bytes in the place of a VR are a placeholder: NULs or printable. Else they belong to a length."""
    return vr == b"\0\0" or all(0x20 <= byte < 0x7F for byte in vr)


def _follows(stream: BinaryIO, tag: int, position: int, end: int, coding: Coding) -> bool:
    """Whether an element in explicit VR, a delimiter, or the end is at this place."""
    if position == end:
        return True
    head = _read(stream, position, 6) if position + 8 <= end else b""
    if len(head) < 6:
        return False
    group, number = _TAG[coding.order].unpack_from(head)
    following = group << 16 | number
    return following in (ITEM_END, SEQUENCE_END) or (following > tag and head[4:6] in VRS)


def inner_coding(stream: BinaryIO, sequence: Element, coding: Coding) -> Coding:
    """The coding of the elements in a sequence. In UN it is implicit VR (PS3.5 §6.2.2), but some writers differ."""
    if sequence.vr != "UN":
        return coding
    head = _read(stream, sequence.offset, 16)
    item = len(head) == 16 and _TAG[coding.order].unpack_from(head) == (ITEM >> 16, ITEM & 0xFFFF)
    return Coding(item and head[12:14] in VRS, coding.order)


@dataclass(frozen=True, slots=True)
class _Level:
    """An open item (elements follow) or sequence (items follow). It ends at `stop` in any case."""

    item: bool
    undefined: bool
    stop: int


def _skip(stream: BinaryIO, element: Element, end: int, coding: Coding) -> int:
    """The place behind a sequence, or behind any value of undefined length. Nothing of it is kept.

    Raises UnparseableError if items and their elements do not fit into each other, or if they are nested too deeply for
    recursive readers. UN may have any coding, so this does not look into its items of known length.
    """
    if element.tag in PIXELS or element.vr in ("OB", "OW"):
        return _skip_fragments(stream, element, end, coding)
    inner = inner_coding(stream, element, coding)
    position, stop = element.offset, end if element.undefined else element.offset + element.length
    levels = [_Level(False, element.undefined, stop)]
    for _ in range(MOST_STEPS):
        level = levels[-1]
        if level.stop - position < 8:
            if level.undefined:
                raise UnparseableError("a sequence is not closed")
            position = level.stop
            levels.pop()
        else:
            found = _element(stream, position, level.stop, inner)
            position = found.offset
            if found.tag in (ITEM_END, SEQUENCE_END):
                _leave(levels, found.tag)
            elif found.undefined and found.tag in PIXELS:
                position = _skip_fragments(stream, found, level.stop, inner)
            elif entered := _entered(found, level, closed=element.vr == "UN"):
                levels.append(entered)
            else:
                position += found.length
        if not levels:
            return position
        if len(levels) > 2 * MOST_NESTED:
            raise UnparseableError("sequences are nested too deeply")
    raise UnparseableError("a sequence has too many items")


def _leave(levels: list[_Level], delimiter: int) -> None:
    """Close what a delimiter ends. If there is a length too, the length decides."""
    level = levels[-1]
    if not level.item and delimiter == ITEM_END:
        return  # its item has ended already, by its length
    if level.item and delimiter == SEQUENCE_END and level.undefined and len(levels) > 1:
        levels.pop()  # the item's own delimiter was left out
        level = levels[-1]
    if level.item != (delimiter == ITEM_END):
        raise UnparseableError("a sequence holds something that is not an item")
    if level.undefined:
        levels.pop()


def _entered(found: Element, level: _Level, *, closed: bool) -> _Level | None:
    """The level that an element or item opens. None if its value is skipped."""
    undefined = found.length == UNDEFINED
    if (found.tag == ITEM) == level.item or (found.tag >> 16 == DELIMITERS) != (found.tag == ITEM):
        raise UnparseableError("a sequence holds something that is not an item")
    if not undefined and found.offset + found.length > level.stop:
        raise UnparseableError("an element or item is longer than what holds it")
    if not undefined and (closed or not (found.tag == ITEM or found.vr == "SQ")):
        return None
    return _Level(not level.item, undefined, level.stop if undefined else found.offset + found.length)


def _skip_fragments(stream: BinaryIO, element: Element, end: int, coding: Coding) -> int:
    """The place behind encapsulated pixel data. The decoder judges a missing or broken end."""
    position = element.offset
    for _ in range(MOST_STEPS):
        if end - position < 8:
            return end
        group, number, length = _HEADER[coding.order].unpack(_read(stream, position, 8))
        position += 8
        if (group << 16 | number) == SEQUENCE_END:
            return position
        if (group << 16 | number) != ITEM or position + length > end:
            return end
        position += length
    raise UnparseableError("the pixel data has too many fragments")
