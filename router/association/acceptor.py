"""One association that a peer opens: PS3.8 §9.2 as one blocking loop, in the order of its state table.

Sta2 waits for the request, Sta3 answers it, Sta6 takes messages, Sta13 waits for the peer to close. What a message
says (PS3.7) is in `messages`; what becomes of an instance is the `StoreHandler`'s. Nothing here knows where data go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import cycle

from router.association import pdu
from router.association.messages import Messages, StoreHandler
from router.association.negotiation import (
    APPLICATION_CONTEXT,
    LEAST_MAX_PDU,
    AgreedContext,
    Proposal,
    accepted,
    answer,
    associate_ac,
    choose_syntax,
    parse_request,
)
from router.association.pdu import AbortReason, Kind, Pace, PeerClosedError, ProtocolError, Stream
from router.association.reports import CommitmentHandler, Outbox, Report, report_command
from router.config.settings import Accept, NodeSettings
from router.dicom.uids import COMMITMENT, name_of
from router.flow import Caller
from router.observe import log, safe, where


@dataclass(frozen=True, slots=True)
class Refusal:
    """An A-ASSOCIATE-RJ: result, source and reason (PS3.8 table 9-21), and why, for the people who run this node."""

    result: int
    source: int
    reason: int
    why: str

    @property
    def pdu(self) -> bytes:
        return pdu.associate_rj(self.result, self.source, self.reason)


APPLICATION_CONTEXT_UNKNOWN = Refusal(1, 1, 2, "application context not supported: it is not DICOM's")
VERSION_UNKNOWN = Refusal(1, 2, 2, "protocol version not supported: it is not 1")
NO_CONTEXTS = Refusal(1, 1, 1, "no presentation context was proposed")
TINY_PDU = Refusal(1, 1, 1, "its maximum PDU length has no room for a byte of a message")
CALLING_UNKNOWN = Refusal(1, 1, 3, "calling AE title not recognised: no line of node.accept has it")
ADDRESS_UNKNOWN = Refusal(1, 1, 3, "address not recognised: node.accept has this calling AE title from elsewhere only")
CALLED_UNKNOWN = Refusal(1, 1, 7, "called AE title not recognised: node.require_called_ae is set, and it is not ours")
CALLED_EMPTY = Refusal(1, 1, 7, "called AE title not recognised: it is empty")
NO_ROOM = Refusal(2, 3, 2, "local limit exceeded for now: the spool has no room, or its disk does not answer")
TOO_MANY = Refusal(
    2, 3, 2, "local limit exceeded for now: node.associations or node.associations_per_peer are open already"
)

MOST_NAMED = 8
"""The most refused contexts, and the most syntaxes of one, that a log line names."""
LINGER = 2.0
"""Seconds that a peer may take to close after our last PDU."""


class Acceptor:
    """One association on one connection; `run` returns when the connection may be closed.

    `admit` says whether limits allow one more association; it is asked once, after the request was found good.
    """

    def __init__(
        self,
        stream: Stream,
        peer: str,
        node: NodeSettings,
        handler: StoreHandler,
        admit: Callable[[], bool],
        commitment: CommitmentHandler | None = None,
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._node = node
        self._handler = handler
        self._admit = admit
        self._commitment = commitment
        self._outbox: Outbox | None = None
        self._send_report: Callable[[Report], None]
        self._stopping = False
        self._resting = False
        self._messages: Messages | None = None

    def run(self, deadline: float) -> str:
        """Serve the association to its end; `deadline` (monotonic) is ARTIM's. Returns how it ended, for the log."""
        try:
            last, how = self._serve(deadline)
        except ProtocolError as error:
            last, how = pdu.abort(error.reason), "protocol error"
            log.warning("protocol error", peer=self._peer, error=str(error))
        except PeerClosedError:
            # `stop` wakes a rest by the same error; where the peer has gone, too, the abort reaches nobody.
            stopped = self._stopping and self._messages is not None
            last, how = (pdu.abort(None), "stopped") if stopped else (b"", "peer closed")
        except TimeoutError:
            # Before the association stands, ARTIM only closes (AA-2).
            last, how = pdu.abort(AbortReason.NOT_SPECIFIED) if self._messages else b"", "timed out"
        finally:
            if self._messages is not None:
                self._messages.abandon()
            if self._outbox is not None:
                self._outbox.close()
        self._say_goodbye(last)
        return how

    def stop(self) -> None:
        """From another thread: end at once where no message is under way, else after it."""
        self._stopping = True
        if self._resting or self._messages is None:
            self._stream.wake()

    def _serve(self, deadline: float) -> tuple[bytes, str]:
        """Sta2 to Sta6. Returns the last PDU to send (none where the peer aborted) and how the association ended."""
        proposal = self._await_request(deadline)
        if proposal is None:
            return b"", "aborted by peer"
        refused = refusal(proposal, self._node, self._peer) or self._transient_refusal()
        if refused:
            titles = {"calling_ae": safe(proposal.calling_ae), "called_ae": safe(proposal.called_ae)}
            log.warning("association refused", peer=self._peer, why=refused.why, **titles)
            self._handler.refused(self._peer, refused.why, **titles)
            return refused.pdu, "refused"
        caller = Caller(proposal.calling_ae, proposal.called_ae, self._peer)
        commits = self._commitment is not None and self._commitment.allows(caller)
        agreed = answer(proposal, self._node.unknown_sop_classes, commitment=commits)
        self._stream.send(associate_ac(proposal, agreed), self._node.artim)
        return self._established(proposal, caller, accepted(agreed))

    def _await_request(self, deadline: float) -> Proposal | None:
        """Sta2: the request, or None after an A-ABORT."""
        kind, length = self._stream.read_header(deadline - time.monotonic())
        body = self._stream.read_body(length, deadline - time.monotonic())
        if kind is Kind.ABORT:
            return None
        if kind is not Kind.ASSOCIATE_RQ:
            raise ProtocolError(f"{kind.name} before A-ASSOCIATE-RQ", AbortReason.UNEXPECTED_PDU)
        return parse_request(body)

    def _transient_refusal(self) -> Refusal | None:
        try:
            full = self._handler.refuse_association()
        except Exception as error:  # a disk that does not answer has no room, and the peer shall come back
            log.error("storing failed", peer=self._peer, error=where(error), errno=getattr(error, "errno", None))
            full = True
        if full:
            return NO_ROOM
        return None if self._admit() else TOO_MANY

    def _established(
        self, proposal: Proposal, caller: Caller, contexts: Mapping[int, AgreedContext]
    ) -> tuple[bytes, str]:
        """Sta6: messages until the peer releases, aborts, goes, or we stop."""
        max_pdu = proposal.max_pdu or pdu.MAX_PDU
        self._messages = messages = Messages(
            caller, contexts, self._node.instance_limit, self._handler, self._sender(max_pdu),
            self._prepare_commitment(contexts, max_pdu),
        )  # fmt: skip
        log.info("association", peer=self._peer, calling_ae=safe(caller.calling_ae), contexts=len(contexts))
        if refused := refused_contexts(proposal, contexts):
            about = {"peer": self._peer, "calling_ae": safe(caller.calling_ae), "contexts": refused}
            if contexts:
                log.info("contexts refused", **about)
            else:
                log.warning("contexts refused", **about)
        pace: Pace | None = None
        while True:
            kind, body, pace = self._next_pdu(pace)
            match kind:
                case None:
                    return pdu.abort(None), "stopped"
                case Kind.P_DATA:
                    for pdv in pdu.pdvs(body):
                        messages.take(pdv)
                    pace = pace if messages.under_way else None
                case Kind.RELEASE_RQ:
                    return pdu.release_rp(), "released"
                case Kind.ABORT:
                    return b"", "aborted by peer"
                case _:
                    raise ProtocolError(f"{kind.name} in an association", AbortReason.UNEXPECTED_PDU)

    def _next_pdu(self, pace: Pace | None) -> tuple[Kind | None, memoryview, Pace]:
        """The next PDU within the pace of the message under way, or `idle` between messages; None when stopping."""
        resting = pace is None
        pace = pace or Pace(self._node.artim, self._node.least_rate)
        begin = time.monotonic()
        try:
            self._resting = resting
            if resting and self._stopping:
                return None, memoryview(b""), pace
            kind, length = self._stream.read_header(self._rest() if resting else pace.left())
        finally:
            self._resting = False
        pace.received += length
        if not resting:
            pace.waited += time.monotonic() - begin
        begin = time.monotonic()
        body = self._stream.read_body(length, pace.left())
        pace.waited += time.monotonic() - begin
        return kind, body, pace

    def _prepare_commitment(
        self, contexts: Mapping[int, AgreedContext], max_pdu: int
    ) -> tuple[CommitmentHandler, Outbox] | None:
        """What Storage Commitment needs where a context for it was agreed."""
        context = next((c for c in contexts.values() if c.abstract_syntax == COMMITMENT), None)
        if context is None or self._commitment is None:
            return None
        numbers = cycle(range(1, 0x10000))

        def send(report: Report) -> None:
            command = pdu.command_pdus(context.id, report_command(next(numbers), report.event_type), max_pdu)
            data_set = pdu.data_set_pdus(context.id, report.data_set, max_pdu)
            self._stream.send(command + data_set, self._node.artim)

        self._outbox, self._send_report = Outbox(context.transfer_syntax), send
        return self._commitment, self._outbox

    def _rest(self) -> float:
        """Between messages: send the reports that are due until the peer speaks; the seconds that it has left."""
        deadline = time.monotonic() + self._node.idle
        while self._outbox is not None:
            report = self._outbox.next(self._stream, max(0.0, deadline - time.monotonic()))
            if report is None:
                break
            self._send_report(report)
        return deadline - time.monotonic()

    def _sender(self, max_pdu: int) -> Callable[[int, bytes], None]:
        def send(context_id: int, command: bytes) -> None:
            self._stream.send(pdu.command_pdus(context_id, command, max_pdu), self._node.artim)

        return send

    def _say_goodbye(self, last: bytes) -> None:
        """Sta13: the last PDU, if any, then wait for the peer to close; a peer that aborted or went is not awaited."""
        if not last:
            return
        try:
            self._stream.send(last, min(LINGER, self._node.artim))
        except (TimeoutError, PeerClosedError):
            return
        self._stream.drain(min(LINGER, self._node.artim))


def refused_contexts(proposal: Proposal, accepted: Mapping[int, AgreedContext]) -> list[str]:
    """What was refused, by class and syntax; a long list is cut."""
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
