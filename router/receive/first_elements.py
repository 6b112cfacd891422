"""The first elements of a data set: SOP Class UID and SOP Instance UID, and nothing beyond them.

This is all that is read of an instance while its sender waits; it is enough to see that the data set is one, is in
the transfer syntax that was negotiated, and is the instance that the command announced.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from router.encoding import BIG_ENDIAN, DEFLATED, IMPLICIT, LONG_VRS

MOST = 64 * 1024
"""Bytes of the data set, deflated or not, within which both UIDs must stand."""

SOP_CLASS, SOP_INSTANCE = (0x0008, 0x0016), (0x0008, 0x0018)
COMMAND_AND_META = (0x0000, 0x0002)
"""Groups of PS3.7 and PS3.10: a reader that meets one takes the data set for a command, or for a file's head."""
ITEM_GROUP = 0xFFFE
DELIMITERS = (0xE00D, 0xE0DD)
UNDEFINED = 0xFFFFFFFF


class UnreadableError(ValueError):
    """The bytes do not begin like a data set of their transfer syntax, or a UID is absent."""


@dataclass(frozen=True, slots=True)
class SopUids:
    """As they stand in the data set, without padding."""

    sop_class: str
    sop_instance: str


def sop_uids(head: bytes | bytearray, transfer_syntax: str) -> SopUids:
    """Both UIDs from the first bytes of a data set (PS3.5 §7). Raises UnreadableError."""
    if transfer_syntax == DEFLATED:
        head = _inflate(head)
    data = bytes(head[:MOST])
    order = ">" if transfer_syntax == BIG_ENDIAN else "<"
    try:
        return _walk(data, _Reader(order, transfer_syntax != IMPLICIT))
    except struct.error:
        raise UnreadableError("the data set ends before its SOP Instance UID") from None


class _Reader:
    """Element headers in one byte order, with or without VR."""

    def __init__(self, order: str, explicit: bool) -> None:
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "I")
        self._explicit = explicit

    def header(self, data: bytes, at: int) -> tuple[int, int, int, int]:
        """Group, element, value length, and where the value begins."""
        group, element = self._tag.unpack_from(data, at)
        if not self._explicit or group == ITEM_GROUP:
            return group, element, self._long.unpack_from(data, at + 4)[0], at + 8
        vr = data[at + 4 : at + 6]
        if not (vr.isalpha() and vr.isupper()):
            raise UnreadableError("an element has no VR")
        if vr in LONG_VRS:
            return group, element, self._long.unpack_from(data, at + 8)[0], at + 12
        return group, element, self._short.unpack_from(data, at + 6)[0], at + 8


def _walk(data: bytes, reader: _Reader) -> SopUids:
    found: dict[tuple[int, int], str] = {}
    at = depth = 0
    while True:
        group, element, length, at = reader.header(data, at)
        if length == UNDEFINED:
            depth += 1
        elif group == ITEM_GROUP and element in DELIMITERS:
            depth -= 1
            if depth < 0:
                raise UnreadableError("a delimiter outside of a sequence")
        elif depth == 0 and group in COMMAND_AND_META:
            raise UnreadableError(f"group {group:04X} in a data set")
        elif depth == 0 and (group, element) in (SOP_CLASS, SOP_INSTANCE):
            if at + length > len(data):
                raise UnreadableError("a UID is cut")
            found[group, element] = data[at : at + length].decode("ascii", "replace").strip("\0 ")
            if len(found) == 2:
                return SopUids(found[SOP_CLASS], found[SOP_INSTANCE])
        elif depth == 0 and (group, element) > SOP_INSTANCE:
            raise UnreadableError("a SOP UID is absent")
        at += length if length != UNDEFINED else 0


def _inflate(head: bytes | bytearray) -> bytes:
    """At most `MOST` bytes, whatever the deflated ones promise (PS3.5 annex A.5)."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, MOST)
    except zlib.error:
        raise UnreadableError("the data set is not deflated") from None
