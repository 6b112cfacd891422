"""The first elements of a data set: SOP Class UID and SOP Instance UID, and a few by which people look for it.

Nothing else of an instance is read while its sender waits. The UIDs show that it is a data set, that it has the
negotiated transfer syntax, and that it is the announced instance. The walk is the same as for the pixels. So nothing is
refused here that could be read there.
"""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from dataclasses import dataclass

from router.dicom.deflated import inflater_for
from router.dicom.elements import Coding, UnparseableError, is_placeholder, walk
from router.dicom.uids import BIG_ENDIAN, DEFLATED, IMPLICIT

MOST = 64 * 1024
"""Both UIDs must be within so many first bytes of the data set, deflated or not."""

SOP_CLASS, SOP_INSTANCE = 0x00080016, 0x00080018
COMMAND = 0x0000
"""The group of commands (PS3.7). A data set with it would look like a command. A file's preamble may begin so too."""


class UnreadableError(ValueError):
    """The bytes do not begin like a data set in their transfer syntax, or a UID is absent."""


@dataclass(frozen=True, slots=True)
class SopUids:
    """The UIDs in the data set, without padding."""

    sop_class: str
    sop_instance: str


def sop_uids(head: bytes | bytearray, transfer_syntax: str) -> SopUids:
    """Both UIDs from the first bytes of a data set (PS3.5 §7). Raises UnreadableError."""
    if transfer_syntax == DEFLATED:
        head = _inflate(head)
    data = bytes(head[:MOST])
    coding = Coding(transfer_syntax != IMPLICIT, ">" if transfer_syntax == BIG_ENDIAN else "<")
    found: dict[int, str] = {}
    try:
        for element in walk(io.BytesIO(data), 0, len(data), coding):
            if element.tag >> 16 == COMMAND:
                raise UnreadableError("group 0000 in a data set")
            if element.tag in (SOP_CLASS, SOP_INSTANCE):
                if coding.explicit and not is_placeholder(data[element.offset - 4 : element.offset - 2]):
                    raise UnreadableError("an element is in implicit VR")
                value = data[element.offset : element.offset + element.length]
                found.setdefault(element.tag, value.decode("ascii", "replace").strip("\0 "))
            if len(found) == 2:
                return SopUids(found[SOP_CLASS], found[SOP_INSTANCE])
    except UnparseableError:
        raise UnreadableError("the data set breaks off before its SOP Instance UID") from None
    raise UnreadableError("a SOP UID is absent")


def plain_texts(head: bytes | bytearray, transfer_syntax: str, tags: frozenset[int]) -> dict[int, tuple[str, ...]]:
    """The values of some elements, as far as they stand in the first bytes of a data set and are ASCII.

    Raises nothing: what cannot be read is left out, and so is an element that stands there twice.
    """
    try:
        data = bytes((_inflate(head) if transfer_syntax == DEFLATED else head)[:MOST])
    except UnreadableError:
        return {}
    coding = Coding(transfer_syntax != IMPLICIT, ">" if transfer_syntax == BIG_ENDIAN else "<")
    found: dict[int, tuple[str, ...]] = {}
    twice: set[int] = set()
    last = max(tags)
    with suppress(UnparseableError):
        for element in walk(io.BytesIO(data), 0, len(data), coding):
            if element.tag > last:
                break
            value = data[element.offset : element.offset + element.length] if element.tag in tags else b""
            if value.isascii() and (text := value.decode("ascii").strip("\0 ")):
                twice |= {element.tag} & found.keys()
                found[element.tag] = tuple(part.strip(" ") for part in text.split("\\"))
    return {tag: values for tag, values in found.items() if tag not in twice}


def _inflate(head: bytes | bytearray) -> bytes:
    """Inflate at most `MOST` bytes, however many there are (PS3.5 annex A.5)."""
    try:
        return inflater_for(bytes(head[:2])).decompress(head, MOST)
    except zlib.error:
        raise UnreadableError("the data set is not deflated") from None
