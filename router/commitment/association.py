"""An association that this node opens for Storage Commitment: it asks an archive by N-ACTION, or reports to a caller by
N-EVENT-REPORT.

A peer may send its own report on the association of the request, before or after its answer. Both orders are accepted.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Self

from router.association import dimse
from router.association.connecting import ConnectError, ConnectKind, associate
from router.association.dimse import Command
from router.association.exchange import Exchange, losing
from router.association.negotiation import ProposedContext, role
from router.association.pdu import ProtocolError
from router.association.services import action_command, report_command
from router.config.settings import DestinationSettings
from router.dicom.uids import COMMITMENT, COMMITMENT_INSTANCE, EXPLICIT, IMPLICIT

LOOK_EVERY = 0.25
"""Seconds between two looks whether a report is still awaited."""
REQUEST = 1
"""The action type: Request Storage Commitment (PS3.4 table J.3-1)."""

TakeReport = Callable[[int | None, bytes, str], int]
"""Takes event type, data set and transfer syntax of an N-EVENT-REPORT. Returns the status of the answer."""


class CommitmentAssociation:
    """An association only for Storage Commitment. `take_report` is called with what the peer reports on it."""

    def __init__(
        self,
        destination: DestinationSettings,
        calling_ae: str,
        *,
        take_report: TakeReport | None = None,
    ) -> None:
        """Raises ConnectError. Without `take_report` we are the SCP, which reports (PS3.7 §D.3.3.4)."""
        # A context for each syntax: some peers accept the first one and can read only the other.
        contexts = [ProposedContext(1, COMMITMENT, (EXPLICIT,)), ProposedContext(3, COMMITMENT, (IMPLICIT,))]
        roles = [role(COMMITMENT, scu=False, scp=True)] if take_report is None else []
        established = associate(destination, calling_ae, contexts, roles)
        self._exchange = Exchange(established, destination.response_timeout)
        self._take_report = take_report
        self._syntaxes = {number: syntax for (_, syntax), number in sorted(established.contexts.items())}
        if not self._syntaxes:
            self._exchange.release()
            raise ConnectError(ConnectKind.REFUSED, "the peer refused the presentation context for Storage Commitment")
        self._context_id, self.transfer_syntax = next(iter(self._syntaxes.items()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Release, or abort after an error."""
        self._exchange.release() if kind is None else self._exchange.abort()

    def ask(self, data_set: bytes) -> int:
        """Send an N-ACTION. Returns the status of the answer. Raises AssociationLostError."""
        command = action_command(self._exchange.next_message_id(), COMMITMENT, COMMITMENT_INSTANCE, REQUEST)
        return self._request(command, data_set, dimse.N_ACTION_RSP)

    def report(self, event_type: int, data_set: bytes) -> int:
        """Send an N-EVENT-REPORT. Returns the status of the answer. Raises AssociationLostError."""
        command = report_command(self._exchange.next_message_id(), COMMITMENT, COMMITMENT_INSTANCE, event_type)
        return self._request(command, data_set, dimse.N_EVENT_REPORT_RSP)

    def await_report(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """Take the peer's report if it comes within so many seconds, before `is_over`. Raises AssociationLostError."""
        deadline = time.monotonic() + seconds
        while not self._exchange.lost():
            if is_over() or time.monotonic() >= deadline:
                return
            select.select([self._exchange.stream.sock], [], [], LOOK_EVERY)
        with losing():
            self._take(*self._exchange.message(time.monotonic() + self._exchange.limit))

    def _request(self, command: bytes, data_set: bytes, expected: int) -> int:
        with losing():
            self._exchange.send_message(self._context_id, command, data_set)
            deadline = time.monotonic() + self._exchange.limit
            while True:
                answer, reported, context_id = self._exchange.message(deadline)
                if answer.field == expected:
                    return self._exchange.status(answer, expected)
                self._take(answer, reported, context_id)

    def _take(self, command: Command, data_set: bytes, context_id: int) -> None:
        if command.field != dimse.N_EVENT_REPORT_RQ or self._take_report is None or context_id not in self._syntaxes:
            raise ProtocolError("a message that was not asked for")
        status = self._take_report(command.number(dimse.EVENT_TYPE), data_set, self._syntaxes[context_id])
        self._exchange.send_message(context_id, dimse.response(command, status))
