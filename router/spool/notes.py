"""The note in a blob's header: it says what the blob's row knows, so that a blob without a row can get one.

A note has a fixed length: its room is reserved before the data set comes, and it is written once the digest is known:
a checksum of the whole header, then JSON, then spaces. It is the Private Information (0002,0102) of a Part 10 file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from xxhash import xxh3_64_hexdigest

from router.dicom.part10 import NOTE_ROOM
from router.flow import Caller, Instance

MOST_TITLE, MOST_PEER = 16, 45
"""The most characters of an AE title (PS3.5 §6.2), and of an address as text."""
CHECKSUM = 16
"""Hex digits."""


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


def _checksum(header: bytes, text: bytes) -> bytes:
    return xxh3_64_hexdigest(header[:-NOTE_ROOM] + text).encode("ascii")
