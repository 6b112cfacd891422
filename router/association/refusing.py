"""Why an association or a context is refused. Pure: from the proposal, the settings and the peer's address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address

from router.association import pdu
from router.association.negotiation import LEAST_MAX_PDU, AgreedContext, Proposal, choose_syntax
from router.config.settings import Accept, NodeSettings
from router.dicom.uids import APPLICATION_CONTEXT, name_of


class Reject(Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21). Result 1 is permanent, 2 transient."""

    NO_REASON = (1, 1, 1)
    APPLICATION_CONTEXT = (1, 1, 2)
    CALLING_AE = (1, 1, 3)
    CALLED_AE = (1, 1, 7)
    PROTOCOL_VERSION = (1, 2, 2)
    LOCAL_LIMIT = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An A-ASSOCIATE-RJ, and why, for the people who run this node."""

    code: Reject
    why: str

    @property
    def pdu(self) -> bytes:
        return pdu.associate_rj(*self.code.value)


APPLICATION_CONTEXT_UNKNOWN = Refusal(
    Reject.APPLICATION_CONTEXT, "application context not supported: it is not the DICOM application context"
)
VERSION_UNKNOWN = Refusal(Reject.PROTOCOL_VERSION, "protocol version not supported: it is not 1")
NO_CONTEXTS = Refusal(Reject.NO_REASON, "no presentation context was proposed")
TINY_PDU = Refusal(Reject.NO_REASON, "its maximum PDU length is too small for a message")
CALLING_UNKNOWN = Refusal(Reject.CALLING_AE, "calling AE title not recognised: it is not in node.accept")
ADDRESS_UNKNOWN = Refusal(
    Reject.CALLING_AE, "address not recognised: node.accept has this calling AE title only with another peer"
)
CALLED_UNKNOWN = Refusal(
    Reject.CALLED_AE, "called AE title not recognised: it is not node.ae_title, and node.require_called_ae is true"
)
CALLED_EMPTY = Refusal(Reject.CALLED_AE, "called AE title not recognised: it is empty")


def beyond_a_limit(which: str) -> Refusal:
    """A refusal for now: the peer may come back."""
    return Refusal(Reject.LOCAL_LIMIT, f"local limit exceeded for now: {which}")


NO_ROOM = beyond_a_limit("the spool has no room, or its disk does not answer")
TOO_MANY = beyond_a_limit("node.associations or node.associations_per_peer is reached")

MOST_NAMED = 8
"""The most refused contexts, and the most syntaxes of one, that a log line names."""


def refused_contexts(proposal: Proposal, accepted: Mapping[int, AgreedContext]) -> list[str]:
    """The refused contexts for a log line, by class and syntax. A long list is cut."""
    words: list[str] = []
    for context in proposal.contexts:
        if context.id in accepted:
            continue
        if choose_syntax(context.transfer_syntaxes) is None:
            syntaxes = ", ".join(name_of(uid) for uid in context.transfer_syntaxes[:MOST_NAMED])
            words.append(f"{name_of(context.abstract_syntax)}: transfer syntax not supported: {syntaxes}")
        else:
            words.append(f"{name_of(context.abstract_syntax)}: SOP class not stored here")
    words = list(dict.fromkeys(words))
    more = len(words) - MOST_NAMED
    return [*words[:MOST_NAMED], f"and {more} more"] if more > 0 else words


def refusal(proposal: Proposal, node: NodeSettings, peer: str) -> Refusal | None:
    """Why an association is refused for good, or None. Pure: `peer` is an address."""
    if not proposal.version & 1:
        return VERSION_UNKNOWN
    if proposal.application_context != APPLICATION_CONTEXT:
        return APPLICATION_CONTEXT_UNKNOWN
    if node.accept is not None and not any(matches(line, proposal.calling_ae, peer) for line in node.accept):
        from_elsewhere = any(line.ae_title in (None, proposal.calling_ae) for line in node.accept)
        return ADDRESS_UNKNOWN if from_elsewhere else CALLING_UNKNOWN
    if not proposal.called_ae:
        return CALLED_EMPTY
    if node.require_called_ae and proposal.called_ae != node.ae_title:
        return CALLED_UNKNOWN
    if not proposal.contexts:
        return NO_CONTEXTS
    return TINY_PDU if 0 < proposal.max_pdu < LEAST_MAX_PDU else None


def matches(line: Accept, calling_ae: str, peer: str) -> bool:
    """Whether a line of `node.accept` names this calling AE title and this peer's network."""
    return (line.ae_title is None or line.ae_title == calling_ae) and (
        line.peer is None or ip_address(peer) in line.peer
    )
