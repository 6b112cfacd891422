"""The requestor's half of negotiation: proposals, A-ASSOCIATE-RQ out, A-ASSOCIATE-AC in (PS3.8 §9.3.2, §9.3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from router.association.negotiation import (
    APPLICATION_CONTEXT_ITEM,
    FIXED,
    LEAST_MAX_PDU,
    MAX_PDU_LENGTH,
    MOST_CONTEXTS,
    USER_ITEMS,
    Item,
    ProposedContext,
    Result,
    item,
    items,
    text,
)
from router.association.pdu import DEFAULT_MAX_PDU, HEADER, Kind, ProtocolError
from router.dicom.uids import EXPLICIT, IMPLICIT, VERIFICATION

NATIVE = (EXPLICIT, IMPLICIT)
"""Explicit and Implicit VR Little Endian: every node must know Implicit (PS3.5 §10.1). We fall back to these two."""


def proposals(
    wanted: Sequence[tuple[str, str]], syntaxes: tuple[str, ...] | None, *, echo: bool
) -> list[ProposedContext]:
    """One context for each pair, and for each SOP class the native syntaxes as fallback: 1 to 128 contexts."""
    allowed = None if syntaxes is None else frozenset(syntaxes)
    asked: list[tuple[str, tuple[str, ...]]] = []
    if echo:
        asked.append((VERIFICATION, NATIVE))
    for sop_class, syntax in dict.fromkeys(wanted):
        if allowed is None or syntax in allowed:
            asked.append((sop_class, (syntax,)))
    for sop_class in dict.fromkeys(sop_class for sop_class, _ in wanted):
        native = tuple(s for s in NATIVE if allowed is None or s in allowed)
        if native:
            asked.append((sop_class, native))
    asked = asked or [(VERIFICATION, NATIVE)]
    return [ProposedContext(2 * n + 1, sop_class, s) for n, (sop_class, s) in enumerate(asked[:MOST_CONTEXTS])]


def associate_rq(
    calling_ae: str, called_ae: str, contexts: Sequence[ProposedContext], roles: Sequence[bytes] = ()
) -> bytes:
    """The whole PDU. It announces MAX_PDU, no asynchronous window, and `roles`: values of role selection items."""
    titles = called_ae.encode("ascii").ljust(16) + calling_ae.encode("ascii").ljust(16) + bytes(32)
    items = b"".join(
        item(
            Item.PROPOSED_CONTEXT,
            bytes((context.id, 0, 0, 0))
            + item(Item.ABSTRACT_SYNTAX, context.abstract_syntax.encode("ascii"))
            + b"".join(item(Item.TRANSFER_SYNTAX, syntax.encode("ascii")) for syntax in context.transfer_syntaxes),
        )
        for context in contexts
    )
    user = item(Item.USER_INFORMATION, USER_ITEMS + b"".join(item(Item.ROLES, one) for one in roles))
    body = b"\0\1\0\0" + titles + APPLICATION_CONTEXT_ITEM + items + user
    return HEADER.pack(Kind.ASSOCIATE_RQ, len(body)) + body


def parse_accept(body: memoryview) -> tuple[dict[int, str], int]:
    """Accepted context IDs with their transfer syntax, and the peer's maximum PDU length (0: any).

    Raises ProtocolError where the structure is broken.
    """
    if len(body) < FIXED:
        raise ProtocolError("an A-ASSOCIATE-AC is cut")
    accepted: dict[int, str] = {}
    max_pdu = DEFAULT_MAX_PDU
    for kind, value in items(body[FIXED:]):
        if kind == Item.ANSWERED_CONTEXT:
            if len(value) < 4:
                raise ProtocolError("a presentation context is cut")
            if value[2] == Result.ACCEPTED:
                syntaxes = [text(uid[:65]) for sub, uid in items(value[4:]) if sub == Item.TRANSFER_SYNTAX]
                if len(syntaxes) == 1:  # else we do not know what was accepted; the other contexts can still be used
                    accepted[value[0]] = syntaxes[0]
        elif kind == Item.USER_INFORMATION:
            for sub, length in items(value):
                if sub == Item.MAX_PDU and len(length) == MAX_PDU_LENGTH:
                    max_pdu = int.from_bytes(length, "big")
    if 0 < max_pdu < LEAST_MAX_PDU:
        raise ProtocolError("a maximum PDU length in which nothing fits")
    return accepted, max_pdu
