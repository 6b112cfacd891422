"""The head of a blob: preamble and file meta information (PS3.10 §7.1), written from what was negotiated."""

from __future__ import annotations

import re

from router.dicom.uids import IMPLEMENTATION_UID, IMPLEMENTATION_VERSION
from router.flow import Caller

CREATOR_UID = "2.25.214750816791657535726158664562455049671"
"""(0002,0100) of files whose Private Information (0002,0102) is the spool's note."""
NOTE_ROOM = 512
"""Bytes of a note. An even number, as PS3.5 §7.1.1 wants."""
TITLE = re.compile(r"[ -\[\]-~]{1,16}")
"""What may stand as an AE title in a file (PS3.5 §6.2): printable ASCII without the backslash."""


def file_meta(sop_class: str, sop_instance: str, transfer_syntax: str, caller: Caller) -> bytes:
    """Everything before the data set of a Part 10 file, with room for the spool's note at its end.

    The three UIDs must be ASCII and were checked before. A title that no file may hold is left out; the note has it.
    """
    group = b"".join(
        (
            b"\x02\0\x01\0OB\0\0\x02\0\0\0\0\x01",
            _short(0x02, b"UI", sop_class, b"\0"),
            _short(0x03, b"UI", sop_instance, b"\0"),
            _short(0x10, b"UI", transfer_syntax, b"\0"),
            _short(0x12, b"UI", IMPLEMENTATION_UID, b"\0"),
            _short(0x13, b"SH", IMPLEMENTATION_VERSION, b" "),
            _title(0x17, caller.calling_ae),
            _title(0x18, caller.called_ae),
            _short(0x100, b"UI", CREATOR_UID, b"\0"),
            b"\x02\0\x02\x01OB\0\0" + NOTE_ROOM.to_bytes(4, "little") + b" " * NOTE_ROOM,
        )
    )
    return bytes(128) + b"DICM" + b"\x02\0\0\0UL\x04\0" + len(group).to_bytes(4, "little") + group


def _short(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    value = text.encode("ascii")
    value += padding * (len(value) % 2)
    return b"\x02\0" + element.to_bytes(2, "little") + vr + len(value).to_bytes(2, "little") + value


def _title(element: int, text: str) -> bytes:
    return _short(element, b"AE", text, b" ") if TITLE.fullmatch(text) else b""
