"""An opened data set, and the place of each of its elements. It may be a Part 10 file or bare, and deflated."""

from __future__ import annotations

import io
import mmap
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from router.dicom.deflated import inflate
from router.dicom.elements import (
    PIXEL_DATA,
    PIXELS,
    VRS,
    Coding,
    Element,
    UnparseableError,
    inner_coding,
    items,
    vr_of_second,
    walk,
)
from router.dicom.part10 import PREAMBLE, TRANSFER_SYNTAX, file_meta_elements, has_preamble, meta_text
from router.dicom.uids import BIG_ENDIAN, EXPLICIT, IMPLICIT, INFLATED

ROWS = 0x00280010


@dataclass(slots=True)
class DataSet:
    """An opened data set: its elements up to and including the pixels, and the stream that holds the values.

    `broken` says why the elements end early. Those before can be used. `size` is the stream's length. `repeated` are
    elements that occur twice (PS3.5 §7.1 forbids it). Here the last one is kept. Other readers may take the first.
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
        """Bytes of the stream. A file is mapped and not copied, so only the parts that are looked at are read."""
        if isinstance(self.stream, io.BytesIO):
            return self.stream.getbuffer()[offset : offset + length]
        # The map lives as long as the view. If the file is cut meanwhile, the process dies: only workers may do this.
        return memoryview(mmap.mmap(self.stream.fileno(), 0, prot=mmap.PROT_READ))[offset : offset + length]

    def first_item(self, tag: int) -> dict[int, Element]:
        """The elements of the first item of a sequence. None if there is no such item, or if it is broken."""
        sequence, found = self.elements.get(tag), dict[int, Element]()
        with suppress(UnparseableError):
            if sequence is not None:
                coding = inner_coding(self.stream, sequence, self.coding)
                for item in items(self.stream, sequence.offset, sequence.end, coding):
                    for element in walk(self.stream, item.offset, item.end, coding, item=True):
                        found[element.tag] = element
                    break
        return found

    def close(self) -> None:
        # An exception may still hold a view of the inflated bytes. They are freed with the last view.
        with suppress(BufferError):
            self.stream.close()
        if self.meta_stream is not None:
            self.meta_stream.close()


def open_data_set(path: Path, last: int = PIXEL_DATA) -> DataSet:
    """The data set of a Part 10 file (or a bare one), walked up to the pixels, or to `last` if that is higher.

    Raises UnparseableError if nothing there can be a data set, and OSError if the file cannot be read. The caller must
    close it.
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
    start = PREAMBLE if has_preamble(stream.read(PREAMBLE)) else 0
    meta = file_meta_elements(stream, start, size)
    begin = max((element.end for element in meta.values()), default=start)
    syntax = meta_text(stream, meta, TRANSFER_SYNTAX)
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


def _coding(stream: BinaryIO, begin: int, size: int, syntax: str, *, bare: bool) -> Coding:
    """The coding by the transfer syntax, compared with the first element: some files name a wrong syntax."""
    stream.seek(begin)
    head = stream.read(6)
    if len(head) < 6:
        raise UnparseableError("there is no data set")
    if bare and struct.unpack("<H", head[:2])[0] not in (0x0002, 0x0008):
        raise UnparseableError("this is not DICOM")
    order = ">" if syntax == BIG_ENDIAN else "<"
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if not explicit and syntax not in ("", IMPLICIT):
        explicit = vr_of_second(stream, begin, size, order) in VRS
    return Coding(explicit, order)
