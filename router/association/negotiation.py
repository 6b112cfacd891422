"""What an association may carry: A-ASSOCIATE-RQ to `Proposal`, `Proposal` to `AgreedContext`s and A-ASSOCIATE-AC.

Stands before any codec of a library, because the request is the first thing that a stranger sends: every length is
held against the item that contains it, unknown items are skipped (PS3.8 §9.3.1), and titles are echoed as they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct

from pydicom._uid_dict import UID_dictionary

from router.association.pdu import DEFAULT_MAX_PDU, HEADER, MAX_PDU, Kind, ProtocolError
from router.dicom.uids import (
    COMMITMENT,
    EXPLICIT,
    IMPLEMENTATION_UID,
    IMPLEMENTATION_VERSION,
    IMPLICIT,
    KNOWN_SYNTAXES,
    LOSSY,
    STORAGE,
    VERIFICATION,
    is_uid,
)

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
ACCEPTED, UNKNOWN_CLASS, UNKNOWN_SYNTAXES = 0, 3, 4
"""Result of a presentation context (PS3.8 table 9-18)."""

FIXED = 68
"""Bytes of an A-ASSOCIATE body before its items: version, titles, reserved (PS3.8 table 9-11)."""
MOST_CONTEXTS = 128
MOST_ITEMS = 1024
"""In what contains them: contexts of a request, transfer syntaxes of a context, sub-items of user information."""
MOST_SYNTAXES = 16384
"""The most transfer syntaxes of all contexts together; PS3.5 has about sixty for each."""
LEAST_MAX_PDU = 7
"""A P-DATA-TF body below this holds no byte of a message."""

_ITEM = Struct(">BxH")


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """A presentation context as proposed: syntaxes in the peer's order of preference."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proposal:
    """An A-ASSOCIATE-RQ. `titles` are its bytes 11-74 as they came: called, calling, and 32 reserved."""

    version: int
    titles: bytes
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu: int = DEFAULT_MAX_PDU
    """What the peer can take in one P-DATA-TF; 0: anything."""
    implementation_uid: str = ""
    implementation_version: str = ""
    async_window: tuple[int, int] = (1, 1)
    commitment_role: bytes = b""
    """The value of the role selection item for Storage Commitment (PS3.7 §D.3.3.4), if there is one."""

    @property
    def called_ae(self) -> str:
        return title(self.titles[:16])

    @property
    def calling_ae(self) -> str:
        return title(self.titles[16:32])


@dataclass(frozen=True, slots=True)
class AgreedContext:
    """What a presentation context became; `transfer_syntax` counts only where `result` is ACCEPTED."""

    id: int
    abstract_syntax: str
    result: int
    transfer_syntax: str = IMPLICIT


def parse_request(body: memoryview) -> Proposal:
    """Read the body of an A-ASSOCIATE-RQ (PS3.8 §9.3.2). Raises ProtocolError where its structure is broken."""
    if len(body) < FIXED:
        raise ProtocolError("an A-ASSOCIATE-RQ is cut")
    application_context = ""
    contexts: list[ProposedContext] = []
    syntaxes = 0
    user: dict[int, bytes] = {}
    for kind, value in items(body[FIXED:]):
        if kind == 0x10:
            application_context = application_context or text(value)
        elif kind == 0x20:
            contexts.append(_proposed_context(value))
            if len(contexts) > MOST_CONTEXTS:
                raise ProtocolError("more than 128 presentation contexts")
            syntaxes += len(contexts[-1].transfer_syntaxes)
            if syntaxes > MOST_SYNTAXES:
                raise ProtocolError("countless transfer syntaxes")
        elif kind == 0x50:
            for sub_kind, sub_value in items(value):
                if sub_kind in (0x51, 0x52, 0x53, 0x55) or (sub_kind == 0x54 and sub_value[:-2] == _COMMITMENT_ROLE):
                    user.setdefault(sub_kind, bytes(sub_value))
    _check_ids(contexts)
    return Proposal(
        version=int.from_bytes(body[:2], "big"),
        titles=bytes(body[4:FIXED]),
        application_context=application_context,
        contexts=tuple(contexts),
        max_pdu=_number(user, 0x51, 4, DEFAULT_MAX_PDU),
        implementation_uid=text(user.get(0x52, b"")[:64]),
        implementation_version=text(user.get(0x55, b"")[:16]),
        async_window=divmod(_number(user, 0x53, 4, 0x10001), 0x10000),
        commitment_role=user.get(0x54, b""),
    )


def answer(
    proposal: Proposal, unknown_sop_classes: bool = False, *, commitment: bool = False
) -> tuple[AgreedContext, ...]:
    """Decide each proposed presentation context, in the order proposed."""
    return tuple(_agree(context, unknown_sop_classes, commitment) for context in proposal.contexts)


def choose_syntax(proposed: tuple[str, ...]) -> str | None:
    """The first that we know, but a lossy one only where nothing native or lossless is offered beside it."""
    known = [uid for uid in proposed if uid in KNOWN_SYNTAXES]
    return next((uid for uid in known if uid not in LOSSY), known[0] if known else None)


def is_storage(sop_class: str, unknown_too: bool = False) -> bool:
    """Whether a SOP class is stored here: those of the standard, and with `unknown_too` those that nobody knows.

    What the standard knows as something other than storage is never accepted.
    """
    return sop_class in STORAGE or (unknown_too and is_uid(sop_class) and sop_class not in UID_dictionary)


def associate_ac(proposal: Proposal, agreed: tuple[AgreedContext, ...]) -> bytes:
    """A-ASSOCIATE-AC (PS3.8 §9.3.3): no asynchronous window, so (1,1); roles for Storage Commitment as proposed."""
    contexts = b"".join(
        item(0x21, bytes((context.id, 0, context.result, 0)) + item(0x40, context.transfer_syntax.encode()))
        for context in agreed
    )
    commitment = any(context.abstract_syntax == COMMITMENT and context.result == ACCEPTED for context in agreed)
    roles = item(0x54, proposal.commitment_role) if commitment and proposal.commitment_role else b""
    user = item(0x50, USER_ITEMS + roles)
    body = b"\0\1\0\0" + proposal.titles + APPLICATION_CONTEXT_ITEM + contexts + user
    return HEADER.pack(Kind.ASSOCIATE_AC, len(body)) + body


def accepted(agreed: tuple[AgreedContext, ...]) -> Mapping[int, AgreedContext]:
    """The contexts that messages may use, by their ID."""
    return {context.id: context for context in agreed if context.result == ACCEPTED}


def role(scu: bool, scp: bool) -> bytes:
    """The value of a role selection item for Storage Commitment (PS3.7 table D.3-9)."""
    return _COMMITMENT_ROLE + bytes((scu, scp))


def _agree(context: ProposedContext, unknown_sop_classes: bool, commitment: bool) -> AgreedContext:
    sop_class = context.abstract_syntax
    if sop_class == COMMITMENT and commitment:
        syntax = next((uid for uid in context.transfer_syntaxes if uid in (IMPLICIT, EXPLICIT)), None)
    elif sop_class == VERIFICATION or is_storage(sop_class, unknown_sop_classes):
        syntax = choose_syntax(context.transfer_syntaxes)
    else:
        return AgreedContext(context.id, sop_class, UNKNOWN_CLASS)
    if syntax is None:
        return AgreedContext(context.id, sop_class, UNKNOWN_SYNTAXES)
    return AgreedContext(context.id, sop_class, ACCEPTED, syntax)


def _proposed_context(value: memoryview) -> ProposedContext:
    if len(value) < 4:
        raise ProtocolError("a presentation context is cut")
    abstract: list[str] = []
    transfer: list[str] = []
    for kind, uid in items(value[4:]):
        if kind == 0x30:
            abstract.append(_uid(uid))
        elif kind == 0x40:
            transfer.append(_uid(uid))
    if len(abstract) != 1 or not transfer:
        raise ProtocolError("a presentation context without one abstract syntax and a transfer syntax")
    return ProposedContext(value[0], abstract[0], tuple(transfer))


def _check_ids(contexts: list[ProposedContext]) -> None:
    ids = [context.id for context in contexts]
    if len(set(ids)) < len(ids) or not all(number % 2 for number in ids):
        raise ProtocolError("presentation context IDs are not odd and different")


def items(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    at, end, count = 0, len(data), 0
    while at < end:
        count += 1
        if count > MOST_ITEMS:
            raise ProtocolError("countless items")
        if end - at < _ITEM.size:
            raise ProtocolError("an item header is cut")
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if length > end - at:
            raise ProtocolError("an item is longer than what contains it")
        yield kind, data[at : at + length]
        at += length


def item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _number(user: dict[int, bytes], kind: int, size: int, absent: int) -> int:
    value = user.get(kind)
    if value is None:
        return absent
    if len(value) != size:
        raise ProtocolError("a user information item has the wrong length")
    return int.from_bytes(value, "big")


def text(value: bytes | memoryview) -> str:
    return bytes(value).decode("ascii", "replace").strip("\0 ")


def title(value: bytes) -> str:
    """An AE title without its padding. A NUL ends it: some peers send leftovers of a buffer behind one."""
    return text(value.lstrip(b"\0 ").partition(b"\0")[0])


def _uid(value: memoryview) -> str:
    return text(value[:65])


APPLICATION_CONTEXT_ITEM = item(0x10, APPLICATION_CONTEXT.encode())
_COMMITMENT_ROLE = len(COMMITMENT).to_bytes(2, "big") + COMMITMENT.encode()
USER_ITEMS = (
    item(0x51, MAX_PDU.to_bytes(4, "big"))
    + item(0x52, IMPLEMENTATION_UID.encode())
    + item(0x55, IMPLEMENTATION_VERSION.encode())
)
"""What both sides say of themselves."""
