"""One association that a peer opens: PS3.8 §9.2 as one blocking loop, in the order of its state table.

Sta2 waits for the request, Sta3 answers it, Sta6 takes messages, Sta13 waits for the peer to close. `messages` knows
what a message says (PS3.7). The `StoreHandler` decides what becomes of an instance. Nothing here knows where data go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import cycle

from router.association import pdu
from router.association.messages import Messages, StoreHandler
from router.association.negotiation import AgreedContext, Proposal, accepted, answer, associate_ac, parse_request
from router.association.pdu import AbortReason, Kind, Pace, PeerClosedError, ProtocolError, Stream
from router.association.refusing import NO_ROOM, TOO_MANY, Refusal, refusal, refused_contexts
from router.association.services import Outbox, Service, report_command
from router.config.settings import NodeSettings
from router.flow import Caller
from router.observe import log, safe, where

LINGER = 2.0
"""Seconds that a peer may take to close after our last PDU."""


class End(StrEnum):
    """How an association ended, for the log and the metrics."""

    RELEASED = "released"
    ABORTED = "aborted by peer"
    CLOSED = "peer closed"
    TIMED_OUT = "timed out"
    PROTOCOL_ERROR = "protocol error"
    STOPPED = "stopped"
    """This node is stopping."""
    REFUSED = "refused"
    """The request was refused."""


class Acceptor:
    """One association on one connection; `run` returns when the connection may be closed.

    `admit` says whether the limits allow one more association. It is called once, when the request has been checked.
    """

    def __init__(
        self,
        stream: Stream,
        peer: str,
        node: NodeSettings,
        handler: StoreHandler,
        admit: Callable[[], bool],
        services: Sequence[Service] = (),
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._node = node
        self._handler = handler
        self._admit = admit
        self._services = services
        self._outbox: Outbox | None = None
        self._report_numbers = cycle(range(1, 0x10000))
        self._stopping = False
        self._resting = False
        self._messages: Messages | None = None
        self._max_pdu = pdu.MAX_PDU

    def run(self, deadline: float) -> End:
        """Serve the association to its end; `deadline` (monotonic) is ARTIM's. Returns how it ended."""
        try:
            last, how = self._serve(deadline)
        except ProtocolError as error:
            last, how = pdu.abort(error.reason), End.PROTOCOL_ERROR
            log.warning("protocol error", peer=self._peer, error=str(error))
        except PeerClosedError:
            # `stop` wakes a waiting read by the same error. If the peer has gone too, an abort does no harm.
            stopped = self._stopping and self._messages is not None
            last, how = (pdu.abort(None), End.STOPPED) if stopped else (b"", End.CLOSED)
        except TimeoutError:
            # Before the association is accepted, the end of ARTIM only closes the connection (AA-2).
            last, how = pdu.abort(AbortReason.NOT_SPECIFIED) if self._messages else b"", End.TIMED_OUT
        finally:
            if self._messages is not None:
                self._messages.abandon()
            if self._outbox is not None:
                self._outbox.close()
        self._say_goodbye(last)
        return how

    def stop(self) -> None:
        """Called from another thread. Ends at once if no message is under way, else after that message."""
        self._stopping = True
        if self._resting or self._messages is None:
            self._stream.wake()

    def _serve(self, deadline: float) -> tuple[bytes, End]:
        """Sta2 to Sta6. Returns the last PDU to send (none if the peer aborted) and how the association ended."""
        proposal = self._await_request(deadline)
        if proposal is None:
            return b"", End.ABORTED
        refused = refusal(proposal, self._node, self._peer) or self._transient_refusal()
        if refused:
            titles = {"calling_ae": safe(proposal.calling_ae), "called_ae": safe(proposal.called_ae)}
            log.warning("association refused", peer=self._peer, why=refused.why, **titles)
            self._handler.refused(self._peer, refused.why, **titles)
            return refused.pdu, End.REFUSED
        caller = Caller(proposal.calling_ae, proposal.called_ae, self._peer)
        services = {service.sop_class: service for service in self._services if service.allows(caller)}
        agreed = answer(proposal, self._node.unknown_sop_classes, services)
        self._stream.send(associate_ac(proposal, agreed, services), self._node.artim)
        return self._established(proposal, caller, accepted(agreed), services)

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
        except Exception as error:  # a disk that does not answer counts as full: the peer must try again later
            log.error("storing failed", peer=self._peer, error=where(error), errno=getattr(error, "errno", None))
            full = True
        if full:
            return NO_ROOM
        return None if self._admit() else TOO_MANY

    def _established(
        self,
        proposal: Proposal,
        caller: Caller,
        contexts: Mapping[int, AgreedContext],
        services: Mapping[str, Service],
    ) -> tuple[bytes, End]:
        """Sta6: take messages until the peer releases, aborts or closes, or until we stop."""
        self._max_pdu = proposal.max_pdu or pdu.MAX_PDU
        if any(context.abstract_syntax in services for context in contexts.values()):
            self._outbox = Outbox()
        self._messages = messages = Messages(
            caller, contexts, self._node.instance_limit, self._handler, self._send, services, self._outbox
        )
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
                    return pdu.abort(None), End.STOPPED
                case Kind.P_DATA:
                    for pdv in pdu.pdvs(body):
                        messages.take(pdv)
                    pace = pace if messages.under_way else None
                case Kind.RELEASE_RQ:
                    return pdu.release_rp(), End.RELEASED
                case Kind.ABORT:
                    return b"", End.ABORTED
                case _:
                    raise ProtocolError(f"{kind.name} in an association", AbortReason.UNEXPECTED_PDU)

    def _next_pdu(self, pace: Pace | None) -> tuple[Kind | None, memoryview, Pace]:
        """The next PDU; None when stopping. Its limit: the pace of the message under way, or `idle` between two."""
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

    def _rest(self) -> float:
        """Between messages: send the reports that are due until the peer speaks. Returns the seconds it has left."""
        deadline = time.monotonic() + self._node.idle
        while self._outbox is not None:
            report = self._outbox.next(self._stream, max(0.0, deadline - time.monotonic()))
            if report is None:
                break
            context = report.context
            command = report_command(
                next(self._report_numbers), context.abstract_syntax, report.sop_instance, report.event_type
            )
            self._send(context.id, command, report.data_set)
        return deadline - time.monotonic()

    def _send(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        """Send a message within the time of ARTIM."""
        message = pdu.command_pdus(context_id, command, self._max_pdu)
        if data_set:
            message += pdu.data_set_pdus(context_id, data_set, self._max_pdu)
        self._stream.send(message, self._node.artim)

    def _say_goodbye(self, last: bytes) -> None:
        """Sta13: send the last PDU, if any, and wait for the peer to close. Do not wait for a peer that has gone."""
        if not last:
            return
        try:
            self._stream.send(last, min(LINGER, self._node.artim))
        except (TimeoutError, PeerClosedError):
            return
        self._stream.drain(min(LINGER, self._node.artim))
