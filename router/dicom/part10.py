"""The head of a Part 10 file (PS3.10 §7.1): preamble and file meta information. It is read from any file. For a blob it
is written from what was negotiated."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import BinaryIO

from router.dicom.elements import Coding, Element, UnparseableError, walk
from router.dicom.uids import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION
from router.flow import Caller

PREAMBLE = 132
"""Bytes before the file meta information: 128 of any kind, and DICM."""
FILE_META = 0x0002
"""The group of the file meta information."""
GROUP_LENGTH, TRANSFER_SYNTAX = 0x00020000, 0x00020010
MEDIA_SOP_CLASS, MEDIA_SOP_INSTANCE = 0x00020002, 0x00020003
MOST_TEXT = 64
"""The most bytes that are read of a value of the file meta information."""
CREATOR_UID = "2.25.214750816791657535726158664562455049671"
"""(0002,0100) of files whose Private Information (0002,0102) is the spool's note."""
NOTE_ROOM = 512
"""Bytes of a note. An even number, as PS3.5 §7.1.1 wants."""
TITLE = re.compile(r"[ -\[\]-~]{1,16}")
"""An AE title that a file may have (PS3.5 §6.2): printable ASCII without the backslash."""


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: str, caller: Caller | None) -> bytes:
    """Everything before the data set of a Part 10 file, with room for the spool's note at its end.

    The three UIDs must be ASCII and checked already. An AE title that is not allowed in a file is only in the note.
    Without a caller the file is for others: it says neither who sent the instance nor what the spool knows of it.
    """
    kept = caller and (
        _title(0x17, caller.calling_ae),
        _title(0x18, caller.called_ae),
        _short(0x100, b"UI", CREATOR_UID, b"\0"),
        b"\x02\0\x02\x01OB\0\0" + NOTE_ROOM.to_bytes(4, "little") + b" " * NOTE_ROOM,
    )
    group = b"".join(
        (
            b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01",
            _short(0x02, b"UI", sop_class, b"\0"),
            _short(0x03, b"UI", sop_instance, b"\0"),
            _short(0x10, b"UI", transfer_syntax, b"\0"),
            _short(0x12, b"UI", IMPLEMENTATION_UID, b"\0"),
            _short(0x13, b"SH", IMPLEMENTATION_VERSION, b" "),
            *(kept or ()),
        )
    )
    return bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + len(group).to_bytes(4, "little") + group


def _short(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    value += padding * (len(value) % 2)
    return b"\x02\0" + element.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value


def _title(element: int, text: str) -> bytes:
    return _short(element, b"AE", text, b" ") if TITLE.fullmatch(text) else b""


def has_preamble(head: bytes) -> bool:
    """Whether a file that begins with these `PREAMBLE` bytes is a Part 10 file."""
    return head[128:PREAMBLE] == b"DICM"


def file_meta_elements(stream: BinaryIO, start: int, size: int) -> dict[int, Element]:
    """The elements of group 0002. Some real files have a wrong group length, so it alone does not end them.

    Some data sets begin with elements of that group too. Such a data set begins at the end by the group length if the
    transfer syntax is before it, and at an element that comes again.
    """
    meta: dict[int, Element] = {}
    stream.seek(start)
    if stream.read(2) != b"\x02\x00":
        return meta
    position, said = start, -1
    for element in walk(stream, start, size, Coding(True), group=FILE_META):
        if element.tag in meta or (position == said and TRANSFER_SYNTAX in meta):
            break
        meta[element.tag] = element
        position = element.end
        if element.tag == GROUP_LENGTH and element.length == 4:
            stream.seek(element.offset)
            said = position + int.from_bytes(stream.read(4), "little")
    return meta


def meta_text(stream: BinaryIO, meta: dict[int, Element], tag: int) -> str:
    """A UID or AE title of the file meta information without its padding. Empty if it is absent."""
    element = meta.get(tag)
    if element is None:
        return ""
    stream.seek(element.offset)
    return stream.read(min(element.length, MOST_TEXT)).decode("latin-1").strip(" \0")


def data_set_offset(path: Path, start: int = PREAMBLE) -> int:
    """Where the data set begins, if the file meta information begins at `start`. The end of the file if that is cut."""
    with path.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        try:
            meta = file_meta_elements(stream, start, size)
        except UnparseableError:
            return size
        return min(size, max((element.end for element in meta.values()), default=start))
