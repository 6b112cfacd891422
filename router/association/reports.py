"""What Storage Commitment (PS3.4 annex J) asks of an association: requests to whoever commits, and reports back.

The requests are N-ACTION and N-EVENT-REPORT (PS3.7 §10.1); what stands in their data sets is not known here. A report
that goes back on the association that a peer opened waits in its `Outbox` until the association's own thread sends it.
"""

from __future__ import annotations

import os
import select
import ssl
import threading
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Protocol

from router.association import dimse
from router.association.pdu import Stream
from router.dicom.uids import COMMITMENT
from router.flow import Caller

COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known SOP instance of the Push Model."""
MOST_BYTES = 4 * 1024 * 1024
"""The longest data set of an N-ACTION or N-EVENT-REPORT that is taken."""


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT to be sent; `status` will be that of its answer, or None where none came."""

    event_type: int
    data_set: bytes
    status: Future[int | None] = field(default_factory=Future)


class Outbox:
    """Reports that other threads want sent on an association; all but `send` is for the association's thread."""

    def __init__(self, transfer_syntax: str) -> None:
        self.transfer_syntax = transfer_syntax
        self._lock = threading.Lock()
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waiting: deque[Report] = deque()
        self._sent: Report | None = None
        self._closed = False

    def send(self, event_type: int, data_set: bytes, seconds: float) -> int | None:
        """From another thread: the status of the answer; None where the association ends or time is up before."""
        report = Report(event_type, data_set)
        with self._lock:
            if self._closed:
                return None
            self._waiting.append(report)
            os.eventfd_write(self._ready, 1)
        try:
            return report.status.result(seconds)
        except FutureTimeoutError:
            return None

    def next(self, stream: Stream, seconds: float) -> Report | None:
        """Wait for the peer or for a report, whichever comes first; a report is only given out after the last one's
        answer. None: read from the stream, whose limits then hold."""
        if self._sent is not None or (isinstance(stream.sock, ssl.SSLSocket) and stream.sock.pending()):
            return None
        poll = select.poll()
        poll.register(stream.sock, select.POLLIN)
        poll.register(self._ready, select.POLLIN)
        if [fd for fd, _ in poll.poll(seconds * 1000)] != [self._ready]:
            return None
        os.eventfd_read(self._ready)
        with self._lock:
            self._sent = self._waiting.popleft()
            if self._waiting:
                os.eventfd_write(self._ready, 1)
        return self._sent

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def expects_answer(self) -> bool:
        return self._sent is not None

    def answered(self, status: int) -> None:
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.status.set_result(status)

    def close(self) -> None:
        """The association is over: nothing that waits will be answered."""
        with self._lock:
            self._closed = True
            os.close(self._ready)
            left = [*self._waiting, *([self._sent] if self._sent else [])]
        for report in left:
            report.status.set_result(None)


@dataclass(frozen=True, slots=True)
class NormalizedRequest:
    """An N-ACTION-RQ or N-EVENT-REPORT-RQ with its data set; UIDs unchecked. `type_id`: action or event type."""

    caller: Caller
    is_action: bool
    sop_instance: str
    type_id: int | None
    transfer_syntax: str
    outbox: Outbox


class CommitmentHandler(Protocol):
    """What the SCP asks of whoever commits. Called from many threads at once."""

    def allows(self, caller: Caller) -> bool:
        """Whether this caller may have a presentation context for Storage Commitment."""

    def take(self, request: NormalizedRequest, data_set: bytes) -> int:
        """Do it, durably; the status of the answer (PS3.7 §10.1)."""


def report_command(message_id: int, event_type: int) -> bytes:
    """The command set of an N-EVENT-REPORT-RQ (PS3.7 §10.3.1)."""
    return dimse.encode_command({
        dimse.AFFECTED_SOP_CLASS: COMMITMENT, dimse.COMMAND_FIELD: dimse.N_EVENT_REPORT_RQ,
        dimse.MESSAGE_ID: message_id, dimse.DATA_SET_TYPE: dimse.A_DATA_SET,
        dimse.AFFECTED_SOP_INSTANCE: COMMITMENT_INSTANCE, dimse.EVENT_TYPE: event_type,
    })  # fmt: skip


def action_command(message_id: int) -> bytes:
    """The command set of an N-ACTION-RQ that asks for storage commitment (PS3.7 §10.3.4)."""
    return dimse.encode_command({
        dimse.REQUESTED_SOP_CLASS: COMMITMENT, dimse.COMMAND_FIELD: dimse.N_ACTION_RQ, dimse.MESSAGE_ID: message_id,
        dimse.DATA_SET_TYPE: dimse.A_DATA_SET, dimse.REQUESTED_SOP_INSTANCE: COMMITMENT_INSTANCE, dimse.ACTION_TYPE: 1,
    })  # fmt: skip
