"""The command set of DIMSE messages (PS3.7 §6.3, §9.3, annex E): always Implicit VR Little Endian, and small.

Both sides of an association use it. It knows US, UI and AE values: C-ECHO, C-STORE, N-ACTION and N-EVENT-REPORT need
no others. It trusts no length: a command set of more than 64 KiB, or one whose elements do not fit, is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from types import MappingProxyType

from router.association.pdu import ProtocolError
from router.dicom.uids import is_uid

AFFECTED_SOP_CLASS = 0x00000002
REQUESTED_SOP_CLASS = 0x00000003
COMMAND_FIELD = 0x00000100
MESSAGE_ID = 0x00000110
MESSAGE_ID_RESPONDED_TO = 0x00000120
PRIORITY = 0x00000700
DATA_SET_TYPE = 0x00000800
STATUS = 0x00000900
AFFECTED_SOP_INSTANCE = 0x00001000
REQUESTED_SOP_INSTANCE = 0x00001001
EVENT_TYPE = 0x00001002
ACTION_TYPE = 0x00001008

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
C_CANCEL_RQ = 0x0FFF
N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP = 0x0100, 0x8100
N_ACTION_RQ, N_ACTION_RSP = 0x0130, 0x8130
RESPONSE = 0x8000
"""The bit of a Command Field that makes it a response."""

NO_DATA_SET = 0x0101
A_DATA_SET = 0x0001
"""Any Data Set Type but `NO_DATA_SET` announces a data set; this is the one that everybody sends."""


class Status(IntEnum):
    """Statuses that this node gives or asks for by name (PS3.7 annex C, PS3.4 §B.2.3)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    NO_SUCH_EVENT = 0x0113
    INVALID_ARGUMENT = 0x0115
    CLASS_NOT_SUPPORTED = 0x0122
    NO_SUCH_ACTION = 0x0123
    NOT_AUTHORIZED = 0x0124
    UNRECOGNIZED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213
    OUT_OF_RESOURCES = 0xA700
    NO_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


STORED = {
    0x0000: "",
    0xB000: "stored, with coercion of data elements",
    0xB006: "stored, with elements discarded",
    0xB007: "stored, though the data set does not match its SOP class",
    0x0107: "stored, with a warning about attributes",
    0x0116: "stored, with a value out of range",
}
"""Success and the known warnings of C-STORE (PS3.7 annex C, PS3.4 table B.2-1): the peer has the instance."""
OPTIONAL_ATTRIBUTES = 0x0001
"""Warning: requested optional attributes are not supported. It means nothing for C-STORE."""

MAX_COMMAND = 64 * 1024
"""Bytes of a command set."""
MOST_ELEMENTS = 256
"""PS3.7 annex E defines fewer than a hundred."""

_ELEMENT = Struct("<HHI")
_US = Struct("<H")


class CommandError(ProtocolError):
    """The bytes are not a command set, or a required element is missing."""

    def __init__(self, message: str) -> None:
        super().__init__(message, None)


@dataclass(frozen=True, slots=True)
class Command:
    """A decoded command set: tag (0x0000eeee) to the value as it came."""

    elements: Mapping[int, bytes]

    @property
    def field(self) -> int:
        return self._required(COMMAND_FIELD)

    @property
    def message_id(self) -> int:
        return self._required(MESSAGE_ID)

    @property
    def has_data_set(self) -> bool:
        return self._required(DATA_SET_TYPE) != NO_DATA_SET

    def number(self, tag: int) -> int | None:
        """The first value of a US element, or None where it is absent or too short."""
        value = self.elements.get(tag, b"")
        return _US.unpack_from(value)[0] if len(value) >= 2 else None

    def text(self, tag: int) -> str:
        """A UI or AE element without its padding; empty where absent. Bytes beyond ASCII become U+FFFD."""
        return self.elements.get(tag, b"").decode("ascii", "replace").strip("\0 ")

    def _required(self, tag: int) -> int:
        number = self.number(tag)
        if number is None:
            raise CommandError(f"the command set has no ({tag >> 16:04x},{tag & 0xFFFF:04x})")
        return number


def encode_command(elements: Mapping[int, int | str]) -> bytes:
    """A command set with its group length: numbers as US, text as UI padded with NUL (AE titles: pad before)."""
    parts = bytearray()
    for tag in sorted(elements):
        value = elements[tag]
        raw = _US.pack(value) if isinstance(value, int) else value.encode("ascii")
        raw += b"\0" * (len(raw) % 2)
        parts += _ELEMENT.pack(tag >> 16, tag & 0xFFFF, len(raw)) + raw
    return _ELEMENT.pack(0, 0, 4) + len(parts).to_bytes(4, "little") + bytes(parts)


def decode_command(data: bytes | bytearray | memoryview) -> Command:
    """Read a command set. Any order, a wrong group length and odd lengths are allowed. The first of equal tags counts.

    Raises CommandError if it is longer than 64 KiB, an element ends beyond it, or an element is not of group 0000.
    """
    if len(data) > MAX_COMMAND:
        raise CommandError("the command set is longer than 64 KiB")
    elements: dict[int, bytes] = {}
    at, end, count = 0, len(data), 0
    while end - at >= _ELEMENT.size:
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        if group or length > end - at:
            raise CommandError("an element is not of group 0000 or longer than the command set")
        elements.setdefault(element, bytes(data[at : at + length]))
        at, count = at + length, count + 1
        if count > MOST_ELEMENTS:
            raise CommandError("the command set has countless elements")
    if any(data[at:]):
        raise CommandError("bytes are left over after the last element")
    return Command(MappingProxyType(elements))


def response(request: Command, status: int) -> bytes:
    """The response to a request (PS3.7 §9.3). It repeats the request's UIDs if they are valid, else leaves them out."""
    elements: dict[int, int | str] = {
        COMMAND_FIELD: request.field | RESPONSE,
        MESSAGE_ID_RESPONDED_TO: request.message_id,
        DATA_SET_TYPE: NO_DATA_SET,
        STATUS: status,
    }
    for tag, also in (
        (AFFECTED_SOP_CLASS, REQUESTED_SOP_CLASS),
        (AFFECTED_SOP_INSTANCE, REQUESTED_SOP_INSTANCE),
    ):
        uid = request.text(tag) or request.text(also)
        if is_uid(uid):
            elements[tag] = uid
    for tag in (ACTION_TYPE, EVENT_TYPE):
        number = request.number(tag)
        if number is not None:
            elements[tag] = number
    return encode_command(elements)
