"""Where the elements of a data set lie: tag, VR, place and length, found without reading a value.

One loop without recursion, bounded in steps: what nests a thousand levels deep or claims gigabytes costs only
the few bytes of its headers. Values are read by who needs them. Source: PS3.5 §7.1, §7.5, Annex A; PS3.10 §7.1.
"""

from __future__ import annotations

import io
import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from router.dicom.uids import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, LONG_VRS

JPIP_DEFLATED = ("1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")
INFLATED = (DEFLATED, *JPIP_DEFLATED)

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
GROUP_LENGTH, TRANSFER_SYNTAX = 0x00020000, 0x00020010
ROWS, PIXEL_DATA = 0x00280010, 0x7FE00010
PIXELS = (0x7FE00008, 0x7FE00009, PIXEL_DATA)
"""Float, double float and plain pixel data (PS3.3 C.7.6.24, C.7.6.25, C.7.6.3)."""

SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
VRS = SHORT_VRS | LONG_VRS
MOST_NESTED = 256
"""Sequences within sequences: real ones have six, and readers that recurse fail at a thousand."""
MOST_STEPS = 1_000_000
"""Element and item headers that one data set may have."""
MOST_INFLATED = 512 * 1024**2
SURELY_INFLATED, MOST_RATIO = 64 * 1024**2, 100
"""What a deflated data set may become: the first, or so many times its size; pictures do not deflate better."""


class UnparseableError(ValueError):
    """The data set itself cannot be read. The message is a few words of our own, never received text."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag, VR (empty in implicit VR), and the place and length of its value in bytes."""

    tag: int
    vr: str
    offset: int
    length: int
    undefined: bool = False


@dataclass(frozen=True, slots=True)
class Coding:
    """How elements are written: explicit or implicit VR, and the byte order for struct and numpy."""

    explicit: bool
    order: str = "<"


@dataclass(slots=True)
class DataSet:
    """An opened data set: its elements up to and including the pixels, and the stream that holds the values.

    `broken` says why the elements end early; those before it can be used. `size` is the stream's length. Of an element
    that is `repeated` (PS3.5 §7.1 forbids it) the last is kept, and others may take the first.
    """

    stream: BinaryIO
    size: int
    syntax: str
    coding: Coding
    elements: dict[int, Element] = field(default_factory=dict)
    meta: dict[int, Element] = field(default_factory=dict)
    meta_stream: BinaryIO | None = None
    broken: str = ""
    repeated: set[int] = field(default_factory=set)

    def value(self, element: Element, most: int) -> bytes:
        """At most `most` bytes of an element's value."""
        of_file = self.meta_stream is not None and self.meta.get(element.tag) is element
        stream = self.meta_stream if of_file and self.meta_stream is not None else self.stream
        stream.seek(element.offset)
        return stream.read(min(element.length, most))

    def view(self, offset: int, length: int) -> memoryview:
        """Bytes of the stream without a copy where it is a file: mapped, so that only what is looked at is read."""
        if isinstance(self.stream, io.BytesIO):
            return self.stream.getbuffer()[offset : offset + length]
        # The map lives as long as the view; a file that is cut meanwhile costs this process, which is a worker's lot.
        return memoryview(mmap.mmap(self.stream.fileno(), 0, prot=mmap.PROT_READ))[offset : offset + length]

    def first_item(self, tag: int) -> dict[int, Element]:
        """The elements of the first item of a sequence; none where there is no such item or it is broken."""
        sequence = self.elements.get(tag)
        if sequence is None or sequence.length < 8:
            return {}
        self.stream.seek(sequence.offset)
        head = self.stream.read(8)
        if len(head) < 8:
            return {}
        group, element, length = struct.unpack(self.coding.order + "HHL", head)
        end = sequence.offset + sequence.length
        if (group << 16 | element) != ITEM:
            return {}
        if length != UNDEFINED:
            end = min(end, sequence.offset + 8 + length)
        coding = inner_coding(self.stream, sequence, self.coding)
        found: dict[int, Element] = {}
        try:
            found.update((e.tag, e) for e in walk(self.stream, sequence.offset + 8, end, coding, item=True))
        except UnparseableError:
            pass
        return found

    def close(self) -> None:
        # An exception on its way out may still hold a view of what was inflated; it goes with the last of them.
        with suppress(BufferError):
            self.stream.close()
        if self.meta_stream is not None:
            self.meta_stream.close()


def open_data_set(path: Path, last: int = PIXEL_DATA) -> DataSet:
    """The data set of a Part 10 file (or a bare one), walked up to the pixels, or to `last` if that is higher.

    Raises UnparseableError when there is nothing that could be a data set, OSError when the file cannot be read.
    The caller closes it.
    """
    stream: BinaryIO = path.open("rb")
    try:
        return _open(stream, last)
    except BaseException:
        stream.close()
        raise


def _open(stream: BinaryIO, last: int) -> DataSet:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    start = 132 if stream.read(132)[128:] == b"DICM" else 0
    meta = _file_meta(stream, start, size)
    begin = max((e.offset + e.length for e in meta.values()), default=start)
    syntax = _syntax(stream, meta)
    meta_stream = None
    if syntax in INFLATED:
        stream.seek(begin)
        meta_stream, stream = stream, inflate(stream)
        begin, size = 0, len(stream.getbuffer())
    coding = _coding(stream, begin, size, syntax, bare=start == 0 and not meta)
    opened = DataSet(stream, size, syntax or (EXPLICIT if coding.explicit else IMPLICIT), coding, {}, meta, meta_stream)
    try:
        for element in walk(stream, begin, size, coding):
            if element.tag in opened.elements:
                opened.repeated.add(element.tag)
            opened.elements[element.tag] = element
            if element.tag in PIXELS and last <= PIXEL_DATA and ROWS in opened.elements:
                break
    except UnparseableError as problem:
        opened.broken = str(problem)
    if not opened.elements:
        raise UnparseableError(opened.broken or "the data set is empty")
    return opened


def _file_meta(stream: BinaryIO, start: int, size: int) -> dict[int, Element]:
    """The elements of group 0002, whatever the group length says: real files have it wrong.

    Some data sets begin with elements of that group as well. They begin where the group length says so, if the transfer
    syntax lies before, and where an element comes again.
    """
    meta: dict[int, Element] = {}
    stream.seek(start)
    if stream.read(2) != b"\x02\x00":
        return meta
    position, said = start, -1
    for element in walk(stream, start, size, Coding(True), group=2):
        if element.tag in meta or (position == said and TRANSFER_SYNTAX in meta):
            break
        meta[element.tag] = element
        position = element.offset + element.length
        if element.tag == GROUP_LENGTH and element.length == 4:
            said = position + int.from_bytes(_read(stream, element.offset, 4), "little")
    return meta


def _syntax(stream: BinaryIO, meta: dict[int, Element]) -> str:
    element = meta.get(TRANSFER_SYNTAX)
    if element is None:
        return ""
    stream.seek(element.offset)
    return stream.read(min(element.length, 64)).decode("latin-1").strip(" \0")


def _coding(stream: BinaryIO, begin: int, size: int, syntax: str, *, bare: bool) -> Coding:
    """What the transfer syntax says, held against the first element: files with the wrong one exist."""
    stream.seek(begin)
    head = stream.read(6)
    if len(head) < 6:
        raise UnparseableError("there is no data set")
    if bare and struct.unpack("<H", head[:2])[0] not in (0x0002, 0x0008):
        raise UnparseableError("this is not DICOM")
    order = ">" if syntax == BIG_ENDIAN else "<"
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if not explicit and syntax not in ("", IMPLICIT):
        first = _element(stream, begin, size, Coding(True, order))
        vr = _read(stream, first.offset + first.length + 4, 2)
        explicit = vr in VRS
    return Coding(explicit, order)


def inflater_for(head: bytes) -> zlib._Decompress:
    """For what begins with these bytes: deflated as PS3.5 A.5 wants it, or, as some write it, with a zlib header."""
    zlib_header = len(head) >= 2 and head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS)


def inflate(stream: BinaryIO) -> io.BytesIO:
    """A deflated data set (PS3.5 A.5) from here on; with a zlib header, too. Raises UnparseableError for a bomb."""
    start = stream.tell()
    most = min(MOST_INFLATED, max(SURELY_INFLATED, MOST_RATIO * (stream.seek(0, io.SEEK_END) - start)))
    stream.seek(start)
    inflater = inflater_for(stream.read(2))
    stream.seek(start)
    out = io.BytesIO()
    try:
        while not inflater.eof:
            piece = inflater.unconsumed_tail or stream.read(1 << 16)
            if not piece:
                raise UnparseableError("the deflated data set is cut short")
            out.write(inflater.decompress(piece, 1 << 20))
            if out.tell() > most:
                raise UnparseableError("the deflated data set inflates beyond the limit")
    except zlib.error:
        raise UnparseableError("the data set does not inflate") from None
    return out


def walk(
    stream: BinaryIO, start: int, end: int, coding: Coding, group: int | None = None, *, item: bool = False
) -> Iterator[Element]:
    """The elements between two places, in order; with `item`, up to an item delimiter. Raises UnparseableError.

    With `group`, only elements of that group, and the end is where another one begins.
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
        if element.tag >> 16 != 0xFFFE:
            yield element
        position = stop
    raise UnparseableError("the data set has too many elements")


def _read(stream: BinaryIO, position: int, count: int) -> bytes:
    stream.seek(position)
    return stream.read(count)


def _element(stream: BinaryIO, position: int, end: int, coding: Coding) -> Element:
    """The header of the element at a place."""
    head = _read(stream, position, 12)
    if len(head) < 8:
        raise UnparseableError("the data set ends within an element")
    group, number = struct.unpack(coding.order + "HH", head[:4])
    tag, vr = group << 16 | number, head[4:6]
    if coding.explicit and group != 0xFFFE and vr.isalpha():
        if vr.upper() in LONG_VRS or _is_long(vr, head, position, end, coding):
            if len(head) < 12 or position + 12 > end:
                raise UnparseableError("the data set ends within an element")
            length, offset = struct.unpack(coding.order + "L", head[8:12])[0], position + 12
        else:
            length, offset = struct.unpack(coding.order + "H", head[6:8])[0], position + 8
        return Element(tag, vr.decode("ascii").upper(), offset, length, length == UNDEFINED)
    length = struct.unpack(coding.order + "L", head[4:8])[0]
    if coding.explicit and group != 0xFFFE and length != UNDEFINED:
        length = _length_without_vr(stream, tag, head, position + 8, end, coding)
    undefined = length == UNDEFINED and group != 0xFFFE
    return Element(tag, "", position + 8, 0 if tag == SEQUENCE_END else length, undefined)


def _is_long(vr: bytes, head: bytes, position: int, end: int, coding: Coding) -> bool:
    """Whether a VR that we do not know has four bytes of length, as PS3.5 §7.1.2 wants of all that are to come."""
    if vr in SHORT_VRS or head[6:8] != b"\0\0" or len(head) < 12:
        return False
    return bool(struct.unpack(coding.order + "L", head[8:12])[0] <= end - position - 12)


def _length_without_vr(stream: BinaryIO, tag: int, head: bytes, offset: int, end: int, coding: Coding) -> int:
    """The length of an element in explicit VR with an invalid VR: `??`, spaces or NULs, or a length as in implicit VR.

    Two bytes of length follow a placeholder, as DCMTK reads it. The element that follows shows which of the two it is;
    if it does not, the bytes in the place of the VR do.
    """
    short, long = (struct.unpack(coding.order + code, head[at:8])[0] for code, at in (("H", 6), ("L", 4)))
    for length in (short, long):
        if _follows(stream, tag, offset + length, end, coding):
            return int(length)
    return int(short if is_placeholder(head[4:6]) or long > end - offset else long)


def is_placeholder(vr: bytes) -> bool:
    """Whether bytes in the place of a VR stand for one: NULs or printable, and not the length of implicit VR."""
    return vr == b"\0\0" or all(0x20 <= byte < 0x7F for byte in vr)


def _follows(stream: BinaryIO, tag: int, position: int, end: int, coding: Coding) -> bool:
    """Whether an element in explicit VR, a delimiter or the end comes at this place."""
    if position == end:
        return True
    head = _read(stream, position, 6) if position + 8 <= end else b""
    if len(head) < 6:
        return False
    group, number = struct.unpack(coding.order + "HH", head[:4])
    following = group << 16 | number
    return following in (ITEM_END, SEQUENCE_END) or (following > tag and head[4:6] in VRS)


def inner_coding(stream: BinaryIO, sequence: Element, coding: Coding) -> Coding:
    """How the elements in a sequence are written. In UN that is implicit VR (PS3.5 §6.2.2), but not by all writers."""
    if sequence.vr != "UN":
        return coding
    head = _read(stream, sequence.offset, 16)
    item = len(head) == 16 and struct.unpack(coding.order + "HH", head[:4]) == (ITEM >> 16, ITEM & 0xFFFF)
    return Coding(item and head[12:14] in VRS, coding.order)


@dataclass(frozen=True, slots=True)
class _Level:
    """What is open: an item (elements follow) or a sequence (items follow). `stop` bounds it in any case."""

    item: bool
    undefined: bool
    stop: int


def _skip(stream: BinaryIO, element: Element, end: int, coding: Coding) -> int:
    """The place behind a sequence, or behind anything of undefined length; nothing of it is kept.

    Raises UnparseableError where items and their elements do not fit into each other, or are nested too deeply for
    readers that recurse. What is UN may be in any coding, so its items of known length are not looked into.
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
    """Close what a delimiter ends; where a length says the end as well, the length does."""
    level = levels[-1]
    if not level.item and delimiter == ITEM_END:
        return  # of an item whose length has ended it already
    if level.item and delimiter == SEQUENCE_END and level.undefined and len(levels) > 1:
        levels.pop()  # the item's own delimiter was left out
        level = levels[-1]
    if level.item != (delimiter == ITEM_END):
        raise UnparseableError("a sequence holds something that is not an item")
    if level.undefined:
        levels.pop()


def _entered(found: Element, level: _Level, *, closed: bool) -> _Level | None:
    """The level that an element or item opens, or None where its value is passed over."""
    undefined = found.length == UNDEFINED
    if (found.tag == ITEM) == level.item or (found.tag >> 16 == 0xFFFE) != (found.tag == ITEM):
        raise UnparseableError("a sequence holds something that is not an item")
    if not undefined and found.offset + found.length > level.stop:
        raise UnparseableError("an element or item is longer than what holds it")
    if not undefined and (closed or not (found.tag == ITEM or found.vr == "SQ")):
        return None
    return _Level(not level.item, undefined, level.stop if undefined else found.offset + found.length)


def _skip_fragments(stream: BinaryIO, element: Element, end: int, coding: Coding) -> int:
    """The place behind encapsulated pixel data; a missing or broken end is the decoder's to judge."""
    position = element.offset
    for _ in range(MOST_STEPS):
        if end - position < 8:
            return end
        group, number, length = struct.unpack(coding.order + "HHL", _read(stream, position, 8))
        position += 8
        if (group << 16 | number) == SEQUENCE_END:
            return position
        if (group << 16 | number) != ITEM or position + length > end:
            return end
        position += length
    raise UnparseableError("the pixel data has too many fragments")
