"""A data set in a transfer syntax that its destination accepts: native pixels, nothing lost, and proven so.

Values are copied as bytes, never parsed and written anew: only headers of elements, byte order and pixels change.
What was written is read back and compared, every element and every pixel, before `transcode` returns. Group lengths
(gggg,0000) are left out, as they would be wrong, and so is what of group 0002 lies within a data set. Sources: PS3.5
§7, §8, Annex A; PS3.10 §7.1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash
from pydicom.datadict import dictionary_has_tag, dictionary_VR

from router.dicom.data_set import DataSet, open_data_set
from router.dicom.elements import (
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    Coding,
    Element,
    UnparseableError,
    inner_coding,
    items,
    walk,
)
from router.dicom.uids import EXPLICIT, IMPLICIT, LONG_VRS
from router.pixels.decoders import Frame
from router.pixels.header import Layout, UndecodableError, layout, value_representation
from router.pixels.samples import each_frame

MOST_NESTED = 64
PIECE = 1 << 20
FILE_META = 0x0002
PHOTOMETRIC, PLANAR, BIT = 0x00280004, 0x00280006, 1
EXTENDED_OFFSETS = (0x7FE00001, 0x7FE00002)
"""Offsets and lengths of fragments (PS3.3 C.7.6.3.1.8): gone with the fragments."""
SWAPPED = {"US": 2, "SS": 2, "OW": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4} | dict.fromkeys(
    ("FD", "OD", "UV", "SV", "OV"), 8
)
"""Bytes of one number by VR, where byte order matters (PS3.5 §7.3)."""
BINARY = frozenset((*SWAPPED, "OB"))
WRAPPER, WRAPPED, WRAPPED_VR, WRAPPED_VALUE = b"DICOM_ROUTER VR ", 0x00090010, 0x00091000, 0x00091001
"""The private block for a value whose VR Implicit VR cannot express: its creator, the VR, and the value."""

Place = tuple[int, ...]
Found = tuple[Place, str, str]
"""An element's place (tags, and numbers of items), VR, and digest of its value."""


class NotTranscodedError(ValueError):
    """The data set cannot be had losslessly in that syntax. The message is in words of our own."""


OURS = UnparseableError | UndecodableError | NotTranscodedError | OSError | MemoryError | KeyboardInterrupt
"""What goes through as it is; any other exception may hold received text."""


@dataclass(frozen=True, slots=True)
class Native:
    """Encapsulated pixels on their way to native ones: what to say of them, and the frames."""

    form: Layout
    photometric: str
    first: Frame
    rest: Iterator[Frame]


def transcode(source: Path, target: Path, syntax: str) -> None:
    """Write the Part 10 file `source` to `target` in Explicit or Implicit VR Little Endian, and compare.

    Pixels that were compressed lossily are written as they decode. Raises ValueError in words of our own where
    that cannot be done without loss, or the comparison fails; `target` is gone then. OSError where a file fails.
    """
    if syntax not in (EXPLICIT, IMPLICIT):
        raise NotTranscodedError("only Explicit and Implicit VR Little Endian can be written")
    try:
        _transcode(source, target, syntax)
    except BaseException as problem:
        target.unlink(missing_ok=True)
        if isinstance(problem, OURS):
            raise
        raise NotTranscodedError("the data set cannot be written in another transfer syntax") from None


def _transcode(source: Path, target: Path, syntax: str) -> None:
    data_set = _opened(source)
    try:
        with target.open("wb") as out:
            _write_meta(data_set, out, syntax)
            expected = list(_elements(data_set, out, Coding(syntax == EXPLICIT), ()))
        written = _opened(target)
        try:
            if list(_found(written, ())) != expected or not _same_picture(data_set, written):
                raise NotTranscodedError("what was written does not compare equal")
        finally:
            written.close()
    finally:
        data_set.close()


def _opened(path: Path) -> DataSet:
    data_set = open_data_set(path, last=0xFFFFFFFF)
    if data_set.broken:
        data_set.close()
        raise UnparseableError(data_set.broken)
    return data_set


def _write_meta(data_set: DataSet, out: BinaryIO, syntax: str) -> None:
    """File meta information as it was, with the new transfer syntax and group length."""
    values = {tag: (element.vr, data_set.value(element, PIECE)) for tag, element in data_set.meta.items()}
    values.setdefault(0x00020001, ("OB", b"\0\1"))
    values[0x00020010] = ("UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    values.pop(0x00020000, None)
    coding = Coding(True)
    body = b"".join(_header(tag, vr, len(value), coding) + value for tag, (vr, value) in sorted(values.items()))
    out.write(bytes(128) + b"DICM" + _header(0x00020000, "UL", 4, coding) + struct.pack("<L", len(body)) + body)


def _header(tag: int, vr: str, length: int, coding: Coding) -> bytes:
    group, number, code = tag >> 16, tag & 0xFFFF, vr.encode()
    if not coding.explicit or group == 0xFFFE:
        return struct.pack("<HHL", group, number, length)
    if code in LONG_VRS:
        return struct.pack("<HH2sHL", group, number, code, 0, length)
    return struct.pack("<HH2sH", group, number, code, length)


def _elements(data_set: DataSet, out: BinaryIO, coding: Coding, place: Place) -> Iterator[Found]:
    """Write the elements of a data set or item in order, and say of each what must be found afterwards."""
    if len(place) > 2 * MOST_NESTED:
        raise NotTranscodedError("sequences are nested too deeply")
    _no_gaps(data_set)
    native = _native(data_set)
    for tag, element in data_set.elements.items():
        here = (*place, tag)
        if tag & 0xFFFF == 0 or tag >> 16 == FILE_META or (native is not None and tag in EXTENDED_OFFSETS):
            continue
        if native is not None and tag == PIXEL_DATA:
            yield _write_frames(native, out, coding, here)
        elif native is not None and tag == PHOTOMETRIC:
            name = native.photometric.encode()
            yield _write(out, coding, here, "CS", name + b" " * (len(name) % 2))
            if native.form.samples > 1 and PLANAR not in data_set.elements:
                yield _write(out, coding, (*place, PLANAR), "US", b"\0\0")
        elif native is not None and tag == PLANAR and native.form.samples > 1:
            yield _write(out, coding, here, "US", b"\0\0")
        elif not coding.explicit and _must_be_wrapped(element):
            yield from _wrapped(data_set, element, out, here)
        elif element.undefined or value_representation(element, data_set) == "SQ":
            yield from _sequence(data_set, element, out, coding, here)
        else:
            yield _copy(data_set, element, out, coding, here)


def _no_gaps(data_set: DataSet) -> None:
    """Raise unless the elements follow each other without a gap: then none occurs twice and none is passed over."""
    end = None
    for element in data_set.elements.values():
        begin = element.offset - (12 if element.vr.encode() in LONG_VRS else 8)
        if end is not None and begin != end:
            raise NotTranscodedError("an element occurs twice, or something lies between two")
        end = element.offset + element.length


def _native(data_set: DataSet) -> Native | None:
    """How encapsulated pixels will be native; None where there are none."""
    element = data_set.elements.get(PIXEL_DATA)
    if element is None or not element.undefined:
        return None
    form = layout(data_set)
    frames = each_frame(data_set, form, cut=False)
    first = next(frames)
    if form.low and first.depth <= form.stored:
        raise NotTranscodedError("the header calls samples left-aligned, and in the codestream they are not")
    name = form.photometric if form.samples == 1 else ("YBR_FULL" if first.ybr else "RGB")
    return Native(form, name, first, frames)


def _write_frames(native: Native, out: BinaryIO, coding: Coding, here: Place) -> Found:
    form = native.form
    length = -(-form.frames * form.rows * form.columns * form.samples * form.allocated // 8)
    if length + length % 2 >= UNDEFINED:
        raise NotTranscodedError("the native pixels are longer than an element can be")
    vr = "OW" if form.allocated > 8 or not coding.explicit else "OB"
    out.write(_header(here[-1], vr, length + length % 2, coding))
    digest, written = xxhash.xxh3_128(), 0
    for piece in chain(_pieces(native), [b"\0" * (length % 2)]):
        out.write(piece)
        digest.update(piece)
        written += len(piece)
    if written != length + length % 2:
        raise NotTranscodedError("the frames do not have the size that the header says")
    return here, vr if coding.explicit else "", digest.hexdigest()


def _pieces(native: Native) -> Iterator[bytes]:
    """The bytes of all frames; one-bit samples are packed across frames (PS3.5 §8.1.1)."""
    frames = (frame.samples for frame in chain([native.first], native.rest))
    if native.form.allocated == BIT:
        yield np.packbits(np.concatenate([samples.ravel() for samples in frames]), bitorder="little").tobytes()
        return
    for samples in frames:
        yield np.ascontiguousarray(samples, samples.dtype.newbyteorder("<")).tobytes()


def _write(out: BinaryIO, coding: Coding, here: Place, vr: str, value: bytes) -> Found:
    out.write(_header(here[-1], vr, len(value), coding) + value)
    return here, vr if coding.explicit else "", xxhash.xxh3_128_hexdigest(value)


def _copy(data_set: DataSet, element: Element, out: BinaryIO, coding: Coding, here: Place) -> Found:
    """Copy a value, in little endian; too long for its VR, it becomes UN (PS3.5 §6.2.2)."""
    vr = value_representation(element, data_set)
    swap = SWAPPED.get(vr, 1) if data_set.coding.order == ">" else 1
    if element.length % swap:
        raise NotTranscodedError("a value is not a whole number of numbers")
    if vr.encode() not in LONG_VRS and element.length > 0xFFFF:
        vr = "UN"
    out.write(_header(element.tag, vr, element.length, coding))
    digest = xxhash.xxh3_128()
    for piece in _value(data_set, element):
        swapped = np.frombuffer(piece, f">u{swap}").astype(f"<u{swap}").tobytes() if swap > 1 else piece
        out.write(swapped)
        digest.update(swapped)
    return here, vr if coding.explicit else "", digest.hexdigest()


def _must_be_wrapped(element: Element) -> bool:
    """Whether an element must be wrapped in Implicit VR: its tag is that of a sequence, but its value is none.

    Readers of Implicit VR go by the tag, and stop at a sequence without items. Raises NotTranscodedError if the value
    would be read wrongly: numbers for text or the reverse, or a sequence under the tag of something else.
    """
    if element.vr in ("", "UN") or element.length == 0 or not dictionary_has_tag(element.tag):
        return False
    stated = dictionary_VR(element.tag).split(" or ")
    if stated == ["SQ"]:
        return element.vr != "SQ"
    if element.vr == "SQ" or (element.vr in BINARY) != (stated[0] in BINARY):
        raise NotTranscodedError("an element has a VR that its tag does not, which Implicit VR cannot say")
    return False


def _wrapped(data_set: DataSet, element: Element, out: BinaryIO, here: Place) -> Iterator[Found]:
    """Write a value as a private element of the one item of the sequence that its tag stands for."""
    coding, item = Coding(False), (*here, 0)
    out.write(_header(here[-1], "SQ", UNDEFINED, coding) + struct.pack("<HHL", ITEM >> 16, ITEM & 0xFFFF, UNDEFINED))
    yield here, "", ""
    yield item, "", ""
    yield _write(out, coding, (*item, WRAPPED), "LO", WRAPPER)
    yield _write(out, coding, (*item, WRAPPED_VR), "CS", element.vr.encode())
    yield _copy(data_set, replace(element, tag=WRAPPED_VALUE), out, coding, (*item, WRAPPED_VALUE))
    out.write(struct.pack("<HHL", ITEM_END >> 16, ITEM_END & 0xFFFF, 0))
    out.write(struct.pack("<HHL", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0))


def _value(data_set: DataSet, element: Element) -> Iterator[bytes]:
    data_set.stream.seek(element.offset)
    left = element.length
    while left:
        piece = data_set.stream.read(min(left, PIECE))
        if not piece:
            raise UnparseableError("an element is longer than the data set")
        left -= len(piece)
        yield piece


def _sequence(data_set: DataSet, element: Element, out: BinaryIO, coding: Coding, here: Place) -> Iterator[Found]:
    """Write a sequence with delimiters; what lies in UN is implicit VR and stays so (PS3.5 §6.2.2 note 2)."""
    if element.vr == "UN" and data_set.coding.order == ">":
        raise NotTranscodedError("a big endian data set has a sequence of unknown kind")
    vr = "UN" if element.vr == "UN" else "SQ"
    inner = Coding(coding.explicit and vr == "SQ")
    out.write(_header(element.tag, vr, UNDEFINED, coding))
    yield here, vr if coding.explicit else "", ""
    for number, item in enumerate(_items(data_set, element)):
        out.write(struct.pack("<HHL", ITEM >> 16, ITEM & 0xFFFF, UNDEFINED))
        yield (*here, number), "", ""
        yield from _elements(item, out, inner, (*here, number))
        out.write(struct.pack("<HHL", ITEM_END >> 16, ITEM_END & 0xFFFF, 0))
    out.write(struct.pack("<HHL", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0))


def _items(data_set: DataSet, sequence: Element) -> Iterator[DataSet]:
    """The items of a sequence, each as a data set of its own."""
    stream, coding = data_set.stream, inner_coding(data_set.stream, sequence, data_set.coding)
    for item in items(stream, sequence.offset, sequence.end, coding):
        position, inside = item.offset, DataSet(stream, data_set.size, data_set.syntax, coding)
        for element in walk(stream, item.offset, item.end, coding, item=True):
            inside.elements[element.tag] = element
            position = element.end
        if not item.undefined and item.end - position not in (0, 8):  # an item delimiter may stand at the end
            raise UnparseableError("an item ends before its length does")
        yield inside


def _found(data_set: DataSet, place: Place) -> Iterator[Found]:
    """What a written data set holds, as `_elements` says it: every sequence there has delimiters."""
    for tag, element in data_set.elements.items():
        here, vr = (*place, tag), element.vr
        if not element.undefined:
            digest = xxhash.xxh3_128()
            for piece in _value(data_set, element):
                digest.update(piece)
            yield here, vr, digest.hexdigest()
            continue
        yield here, vr, ""
        for number, item in enumerate(_items(data_set, element)):
            yield (*here, number), "", ""
            yield from _found(item, (*here, number))


def _same_picture(before: DataSet, after: DataSet) -> bool:
    """Whether the first frame means the same to a reader of either: the description of the pixels is right, too."""
    if PIXEL_DATA not in before.elements:
        return True
    one, other = (next(each_frame(d, layout(d), cut=False)) for d in (before, after))
    return one.ybr == other.ybr and np.array_equal(one.samples, other.samples)
