"""The requesting side of Storage Commitment: ask an archive by N-ACTION, or report to a caller by N-EVENT-REPORT.

A peer may send its own report on the association on which it was asked, before or after it answers the request; both
are taken as they come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from router.association import dimse, pdu
from router.association.dimse import Command
from router.association.messages import response
from router.association.negotiation import COMMITMENT, EXPLICIT_LE, IMPLICIT_LE, ProposedContext, role
from router.association.pdu import Kind, ProtocolError
from router.association.reports import MOST_BYTES, action_command, report_command
from router.association.requestor import AssociationLostError, ConnectError, Requestor, associate
from router.config.settings import DestinationSettings

TakeReport = Callable[[int | None, bytes, str], int]
"""Event type, data set and transfer syntax of an N-EVENT-REPORT to the status of its answer."""


class CommitmentAssociation(Requestor):
    """An association for Storage Commitment alone; `take_report` is given what the peer reports on it."""

    def __init__(
        self,
        destination: DestinationSettings,
        calling_ae: str,
        *,
        take_report: TakeReport | None = None,
    ) -> None:
        """Raises ConnectError. Without `take_report` we are the SCP, that reports (PS3.7 §D.3.3.4)."""
        # A context for each, since some peers take the first syntax and can only read the other.
        contexts = [ProposedContext(1, COMMITMENT, (EXPLICIT_LE,)), ProposedContext(3, COMMITMENT, (IMPLICIT_LE,))]
        roles = role(scu=False, scp=True) if take_report is None else b""
        super().__init__(destination, *associate(destination, calling_ae, contexts, roles))
        self._take_report = take_report
        self._fragments: deque[tuple[bool, bool, bytes]] = deque()
        agreed = next(((n, uid) for (_, uid), n in sorted(self._contexts.items())), None)
        if agreed is None:
            self.release()
            raise ConnectError("refused", "the peer refused the presentation context for Storage Commitment")
        self._context_id, self.transfer_syntax = agreed

    def ask(self, data_set: bytes) -> int:
        """N-ACTION; the status of the answer. Raises AssociationLostError."""
        return self._request(action_command(self._next_message_id()), data_set, dimse.N_ACTION_RSP)

    def report(self, event_type: int, data_set: bytes) -> int:
        """N-EVENT-REPORT; the status of the answer. Raises AssociationLostError."""
        return self._request(report_command(self._next_message_id(), event_type), data_set, dimse.N_EVENT_REPORT_RSP)

    def await_report(self, seconds: float) -> bool:
        """Whether the peer reports within so many seconds. Raises AssociationLostError where it ends it instead."""
        try:
            with self._losing():
                command, data_set = self._message(time.monotonic() + seconds)
                self._take(command, data_set)
        except AssociationLostError as error:
            if error.kind == "silent":
                return False
            raise
        return True

    def _request(self, command: bytes, data_set: bytes, expected: int) -> int:
        max_pdu = self._peer_max_pdu
        with self._losing():
            self._send(pdu.command_pdus(self._context_id, command, max_pdu), self._limit)
            self._send(pdu.data_set_pdus(self._context_id, data_set, max_pdu), self._limit)
            deadline = time.monotonic() + self._limit
            while True:
                answer, reported = self._message(deadline)
                if answer.field == expected:
                    return self._status(answer, expected)
                self._take(answer, reported)

    def _message(self, deadline: float) -> tuple[Command, bytes]:
        """The next whole message: command set, and data set where it has one."""
        command = dimse.decode_command(self._part(deadline, dimse.MAX_COMMAND, command=True))
        return command, self._part(deadline, MOST_BYTES, command=False) if command.has_data_set else b""

    def _part(self, deadline: float, most: int, *, command: bool) -> bytes:
        part = bytearray()
        while True:
            is_command, is_last, fragment = self._fragment_of(deadline)
            part += fragment
            if is_command is not command or len(part) > most:
                raise ProtocolError("a message out of order or too long")
            if is_last:
                return bytes(part)

    def _fragment_of(self, deadline: float) -> tuple[bool, bool, bytes]:
        while not self._fragments:
            kind, body = self._read(deadline)
            if kind is not Kind.P_DATA:
                raise AssociationLostError(f"the peer sent {kind.name} instead of an answer")
            for value in pdu.pdvs(body):
                if value.context_id != self._context_id:
                    raise ProtocolError("a message in another presentation context")
                self._fragments.append((value.is_command, value.is_last, bytes(value.fragment)))
        return self._fragments.popleft()

    def _take(self, command: Command, data_set: bytes) -> None:
        if command.field != dimse.N_EVENT_REPORT_RQ or self._take_report is None:
            raise ProtocolError("a message that nobody asked for")
        status = self._take_report(command.number(dimse.EVENT_TYPE), data_set, self.transfer_syntax)
        answer = pdu.command_pdus(self._context_id, response(command, status), self._peer_max_pdu)
        self._send(answer, self._limit)
