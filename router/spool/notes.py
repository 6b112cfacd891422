"""The note in a blob's header: it says what the blob's row knows, so that a blob without a row can get one.

A note has a fixed length. Its room is reserved before the data set comes. It is written when the digest is known: a
checksum of the whole header, then JSON, then spaces. It is the Private Information (0002,0102) of a Part 10 file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from xxhash import xxh3_64_hexdigest

from router.dicom.part10 import CREATOR_UID, NOTE_ROOM, PREAMBLE
from router.dicom.uids import LONG_VRS
from router.flow import Caller, Instance

MOST_TITLE, MOST_PEER = 16, 45
"""The most characters of an AE title (PS3.5 §6.2), and of an address as text."""
CHECKSUM = 16
"""Hex digits."""
GROUP_LENGTH, SOP_CLASS, SOP_INSTANCE, SYNTAX, CREATOR = 0x0000, 0x0002, 0x0003, 0x0010, 0x0100
"""Elements of group 0002."""


class UnverifiedError(ValueError):
    """A blob cannot become an instance again. The text is fixed, and has no received words."""


@dataclass(frozen=True, slots=True)
class Note:
    """What cannot be read from the data set itself."""

    instance_id: str
    received_at: float
    caller: Caller
    size: int
    digest: str


def note_for(header: bytes, instance: Instance) -> bytes:
    """The note of an instance, to be written into the last NOTE_ROOM bytes of this header."""
    caller = instance.caller
    about = {
        "id": instance.id, "received_at": instance.received_at, "size": instance.size, "digest": instance.digest,
        "calling_ae": caller.calling_ae[:MOST_TITLE], "called_ae": caller.called_ae[:MOST_TITLE],
        "peer": caller.peer[:MOST_PEER],
    }  # fmt: skip
    text = json.dumps(about, separators=(",", ":")).encode("ascii").ljust(NOTE_ROOM - CHECKSUM)
    return _checksum(header, text) + text


def read_note(header: bytes) -> Note | None:
    """The note at the end of a header; None if there is none, or if a bit of the header has changed."""
    note = header[-NOTE_ROOM:]
    text = note[CHECKSUM:]
    if len(note) < NOTE_ROOM or note[:CHECKSUM] != _checksum(header, text):
        return None
    try:
        about: dict[str, Any] = json.loads(text)
        caller = Caller(*(str(about[name]) for name in ("calling_ae", "called_ae", "peer")))
        received_at = float(about["received_at"])
        found = Note(str(about["id"]), received_at, caller, int(about["size"]), str(about["digest"]))
    except (ValueError, KeyError, TypeError, OverflowError):  # not a note, though its checksum fits
        return None
    return found if math.isfinite(received_at) else None


def agrees(header: bytes, instance: Instance) -> bool:
    """Whether a row agrees with the note of its blob. A bit of a row can change as well. True if there is no note."""
    try:
        meta, offset = read_header(header)
    except UnverifiedError:
        return True
    note = read_note(header) if meta.get(CREATOR) == CREATOR_UID else None
    if note is None:
        return True
    said = (note.instance_id, note.size, note.digest, meta[SOP_CLASS], meta[SOP_INSTANCE], meta[SYNTAX], offset)
    return said == (
        instance.id, instance.size, instance.digest, instance.sop_class, instance.sop_instance,
        instance.transfer_syntax, instance.offset,
    )  # fmt: skip


def read_header(head: bytes) -> tuple[dict[int, str], int]:
    """The text of the elements of group 0002, and where the data set begins (PS3.10 §7.1). Raises UnverifiedError.

    It begins where the group length says: a data set may begin with elements of that group, too.
    """
    if head[128:PREAMBLE] != b"DICM":
        raise UnverifiedError("it is not a file of this spool")
    found: dict[int, str] = {}
    at, end = PREAMBLE, len(head)
    while at < end and head[at : at + 2] == b"\x02\0":
        if head[at + 4 : at + 6] in LONG_VRS:
            begin, length = at + 12, int.from_bytes(head[at + 8 : at + 12], "little")
        else:
            begin, length = at + 8, int.from_bytes(head[at + 6 : at + 8], "little")
        if begin + length > len(head):
            raise UnverifiedError("its header is cut, or too long")
        element = int.from_bytes(head[at + 2 : at + 4], "little")
        found[element] = head[begin : begin + min(length, NOTE_ROOM)].decode("latin-1").strip("\0 ")
        at = begin + length
        if element == GROUP_LENGTH and length == 4:
            end = at + int.from_bytes(head[begin:at], "little")
    return found, at


def _checksum(header: bytes, text: bytes) -> bytes:
    return xxh3_64_hexdigest(header[:-NOTE_ROOM] + text).encode("ascii")
