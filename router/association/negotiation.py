"""What an association may carry: A-ASSOCIATE-RQ to `Proposal`, `Proposal` to `AgreedContext`s and A-ASSOCIATE-AC.

The request is the first thing that a stranger sends. So this module reads it itself, without a library. It compares
each length with the item that contains it, and skips unknown items (PS3.8 §9.3.1). It returns the titles as they came.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct

from router.association.pdu import DEFAULT_MAX_PDU, HEADER, MAX_PDU, Kind, ProtocolError
from router.dicom.uids import (
    APPLICATION_CONTEXT,
    EXPLICIT,
    IMPLEMENTATION_UID,
    IMPLEMENTATION_VERSION,
    IMPLICIT,
    KNOWN_SYNTAXES,
    LOSSY,
    STORAGE,
    VERIFICATION,
    is_standard,
    is_uid,
)


class Result(IntEnum):
    """Result of a presentation context (PS3.8 table 9-18)."""

    ACCEPTED = 0
    UNKNOWN_CLASS = 3
    UNKNOWN_SYNTAXES = 4


class Item(IntEnum):
    """Items of an A-ASSOCIATE PDU (PS3.8 §9.3.2, §9.3.3) and of its user information (PS3.7 annex D.3.3)."""

    APPLICATION_CONTEXT = 0x10
    PROPOSED_CONTEXT = 0x20
    ANSWERED_CONTEXT = 0x21
    ABSTRACT_SYNTAX = 0x30
    TRANSFER_SYNTAX = 0x40
    USER_INFORMATION = 0x50
    MAX_PDU = 0x51
    IMPLEMENTATION_UID = 0x52
    ASYNCHRONOUS_WINDOW = 0x53
    ROLES = 0x54
    IMPLEMENTATION_VERSION = 0x55


FIXED = 68
"""Bytes of an A-ASSOCIATE body before its items: version, titles, reserved (PS3.8 table 9-11)."""
MOST_CONTEXTS = 128
"""The most presentation contexts of an association: their IDs are the odd numbers of a byte (PS3.8 §9.3.2.2)."""
MOST_ITEMS = 1024
"""The most items of one kind in one container: contexts of a request, transfer syntaxes of a context, sub-items of user
information."""
MOST_SYNTAXES = 16384
"""The most transfer syntaxes of all contexts together; PS3.5 has about sixty for each."""
MAX_PDU_LENGTH = 4
"""Bytes of the value in the items for the maximum PDU length and for the asynchronous window."""
LEAST_MAX_PDU = 7
"""Bytes. A shorter P-DATA-TF body has no room for a byte of a message."""

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
    """Bytes that the peer takes in one P-DATA-TF; 0: no limit."""
    roles: Mapping[str, bytes] = field(default_factory=dict)
    """Maps a SOP class to the value of its role selection item (PS3.7 §D.3.3.4)."""

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
    result: Result
    transfer_syntax: str = IMPLICIT


def parse_request(body: memoryview) -> Proposal:
    """Read the body of an A-ASSOCIATE-RQ (PS3.8 §9.3.2). Raises ProtocolError if its structure is broken."""
    if len(body) < FIXED:
        raise ProtocolError("an A-ASSOCIATE-RQ is cut")
    application_context = ""
    contexts: list[ProposedContext] = []
    syntaxes = 0
    user: dict[int, bytes] = {}
    roles: dict[str, bytes] = {}
    for kind, value in items(body[FIXED:]):
        if kind == Item.APPLICATION_CONTEXT:
            application_context = application_context or text(value)
        elif kind == Item.PROPOSED_CONTEXT:
            contexts.append(_proposed_context(value))
            if len(contexts) > MOST_CONTEXTS:
                raise ProtocolError("more than 128 presentation contexts")
            syntaxes += len(contexts[-1].transfer_syntaxes)
            if syntaxes > MOST_SYNTAXES:
                raise ProtocolError("countless transfer syntaxes")
        elif kind == Item.USER_INFORMATION:
            _read_user_information(value, user, roles)
    ids = [context.id for context in contexts]
    if len(set(ids)) < len(ids) or not all(number % 2 for number in ids):
        raise ProtocolError("presentation context IDs are not odd and different")
    if any(len(value) != MAX_PDU_LENGTH for value in user.values()):
        raise ProtocolError("a user information item has the wrong length")
    return Proposal(
        version=int.from_bytes(body[:2], "big"),
        titles=bytes(body[4:FIXED]),
        application_context=application_context,
        contexts=tuple(contexts),
        max_pdu=int.from_bytes(user[Item.MAX_PDU], "big") if Item.MAX_PDU in user else DEFAULT_MAX_PDU,
        roles=roles,
    )


def _read_user_information(value: memoryview, user: dict[int, bytes], roles: dict[str, bytes]) -> None:
    """Read the first sub-item of each kind."""
    for kind, content in items(value):
        if kind in (Item.MAX_PDU, Item.ASYNCHRONOUS_WINDOW):
            user.setdefault(kind, bytes(content))
        elif kind == Item.ROLES and len(content) == 4 + int.from_bytes(content[:2], "big"):
            roles.setdefault(bytes(content[2:-2]).decode("latin-1"), bytes(content))


def answer(
    proposal: Proposal, unknown_sop_classes: bool = False, services: Collection[str] = ()
) -> tuple[AgreedContext, ...]:
    """Decide each proposed presentation context, in the proposed order. `services` are SOP classes of services."""
    return tuple(_agree(context, unknown_sop_classes, services) for context in proposal.contexts)


def choose_syntax(proposed: tuple[str, ...]) -> str | None:
    """The first syntax that we know. A lossy one only if the peer offers no native or lossless syntax beside it."""
    known = [uid for uid in proposed if uid in KNOWN_SYNTAXES]
    return next((uid for uid in known if uid not in LOSSY), known[0] if known else None)


def is_storage(sop_class: str, unknown_too: bool = False) -> bool:
    """Whether a SOP class is stored here: storage classes of the standard, and with `unknown_too` classes outside it.

    A class that the standard defines for another service is never stored.
    """
    return sop_class in STORAGE or (unknown_too and is_uid(sop_class) and not is_standard(sop_class))


def associate_ac(proposal: Proposal, agreed: tuple[AgreedContext, ...], services: Collection[str] = ()) -> bytes:
    """A-ASSOCIATE-AC (PS3.8 §9.3.3). It has no asynchronous window, that is (1,1). Services get the proposed roles."""
    contexts = b"".join(
        item(
            Item.ANSWERED_CONTEXT,
            bytes((context.id, 0, context.result, 0)) + item(Item.TRANSFER_SYNTAX, context.transfer_syntax.encode()),
        )
        for context in agreed
    )
    served = dict.fromkeys(context.abstract_syntax for context in accepted(agreed).values())
    roles = b"".join(
        item(Item.ROLES, proposal.roles[sop_class])
        for sop_class in served
        if sop_class in services and sop_class in proposal.roles
    )
    user = item(Item.USER_INFORMATION, USER_ITEMS + roles)
    body = b"\0\1\0\0" + proposal.titles + APPLICATION_CONTEXT_ITEM + contexts + user
    return HEADER.pack(Kind.ASSOCIATE_AC, len(body)) + body


def accepted(agreed: tuple[AgreedContext, ...]) -> Mapping[int, AgreedContext]:
    """The contexts that messages may use, by their ID."""
    return {context.id: context for context in agreed if context.result is Result.ACCEPTED}


def role(sop_class: str, *, scu: bool, scp: bool) -> bytes:
    """The value of a role selection item (PS3.7 table D.3-9)."""
    return len(sop_class).to_bytes(2, "big") + sop_class.encode() + bytes((scu, scp))


def _agree(context: ProposedContext, unknown_sop_classes: bool, services: Collection[str]) -> AgreedContext:
    sop_class = context.abstract_syntax
    if sop_class in services:
        syntax = next((uid for uid in context.transfer_syntaxes if uid in (IMPLICIT, EXPLICIT)), None)
    elif sop_class == VERIFICATION or is_storage(sop_class, unknown_sop_classes):
        syntax = choose_syntax(context.transfer_syntaxes)
    else:
        return AgreedContext(context.id, sop_class, Result.UNKNOWN_CLASS)
    if syntax is None:
        return AgreedContext(context.id, sop_class, Result.UNKNOWN_SYNTAXES)
    return AgreedContext(context.id, sop_class, Result.ACCEPTED, syntax)


def _proposed_context(value: memoryview) -> ProposedContext:
    if len(value) < 4:
        raise ProtocolError("a presentation context is cut")
    abstract: list[str] = []
    transfer: list[str] = []
    for kind, uid in items(value[4:]):
        if kind == Item.ABSTRACT_SYNTAX:
            abstract.append(text(uid[:65]))
        elif kind == Item.TRANSFER_SYNTAX:
            transfer.append(text(uid[:65]))
    if len(abstract) != 1 or not transfer:
        raise ProtocolError("a presentation context without one abstract syntax and a transfer syntax")
    return ProposedContext(value[0], abstract[0], tuple(transfer))


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


def text(value: bytes | memoryview) -> str:
    return bytes(value).decode("ascii", "replace").strip("\0 ")


def title(value: bytes) -> str:
    """An AE title without its padding. It ends at a NUL: some peers send old bytes of a buffer behind one."""
    return text(value.lstrip(b"\0 ").partition(b"\0")[0])


APPLICATION_CONTEXT_ITEM = item(Item.APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode())
USER_ITEMS = (
    item(Item.MAX_PDU, MAX_PDU.to_bytes(4, "big"))
    + item(Item.IMPLEMENTATION_UID, IMPLEMENTATION_UID.encode())
    + item(Item.IMPLEMENTATION_VERSION, IMPLEMENTATION_VERSION.encode())
)
"""The items of user information that both sides always send."""
