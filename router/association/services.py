"""Services that an association offers beside storing and C-ECHO: a SOP class with N-ACTION and N-EVENT-REPORT.

The acceptor knows a service only through `Service`. It accepts the context, reads a whole request, and passes it on
(PS3.7 §10.1). The service alone reads the data set. A report that goes back on the association of its request waits in
the `Outbox` of that association. The association's own thread sends it.
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
from router.association.negotiation import AgreedContext
from router.association.pdu import Stream
from router.flow import Caller

MOST_BYTES = 4 * 1024 * 1024
"""The most bytes in the data set of an N-ACTION or N-EVENT-REPORT."""


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT to be sent. `status` becomes the status of its answer, or None if no answer came."""

    context: AgreedContext
    sop_instance: str
    event_type: int
    data_set: bytes
    status: Future[int | None] = field(default_factory=Future)


class Outbox:
    """Reports that other threads want to send on an association. Only `send` is for those other threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waiting: deque[Report] = deque()
        self._sent: Report | None = None
        self._closed = False

    def send(self, report: Report, seconds: float) -> int | None:
        """Called from another thread. The status of the answer; None if the association or the time ends first."""
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
        """Wait for the peer or for a report. A report is given out only when the one before has its answer.
        None: read from the stream, whose limits then hold."""
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
        """The association is over: waiting reports get no answer."""
        with self._lock:
            self._closed = True
            os.close(self._ready)
            left = [*self._waiting, *([self._sent] if self._sent else [])]
        for report in left:
            report.status.set_result(None)


@dataclass(frozen=True, slots=True)
class NormalizedRequest:
    """An N-ACTION-RQ or N-EVENT-REPORT-RQ. The UIDs are unchecked. `type_id` is the action type or event type."""

    caller: Caller
    context: AgreedContext
    is_action: bool
    sop_instance: str
    type_id: int | None
    outbox: Outbox

    @property
    def transfer_syntax(self) -> str:
        """Of its data set, and of a report about it."""
        return self.context.transfer_syntax

    def report(self, event_type: int, data_set: bytes, seconds: float) -> int | None:
        """Called from another thread: sends an N-EVENT-REPORT on the association of the request, as `Outbox.send`."""
        return self.outbox.send(Report(self.context, self.sop_instance, event_type, data_set), seconds)


class Service(Protocol):
    """One more SOP class on the associations that peers open. Called from many threads at once."""

    @property
    def sop_class(self) -> str:
        """Its UID. A context for it is accepted in Implicit or Explicit VR Little Endian, with the proposed roles."""

    def allows(self, caller: Caller) -> bool:
        """Whether this caller may have a presentation context for it."""

    def take(self, request: NormalizedRequest, data_set: bytes) -> int:
        """Carry out the request durably, and return the status of the answer (PS3.7 §10.1)."""


class Collected:
    """A sink for the data set of an N-ACTION or N-EVENT-REPORT: limited in size, in memory, for the service."""

    def __init__(self, service: Service, request: NormalizedRequest) -> None:
        self._service = service
        self._request = request
        self._data = bytearray()
        self._too_long = False

    def write(self, fragment: memoryview) -> None:
        self._too_long = self._too_long or len(self._data) + len(fragment) > MOST_BYTES
        if not self._too_long:
            self._data += fragment

    def finish(self) -> int:
        return (
            dimse.Status.RESOURCE_LIMITATION if self._too_long else self._service.take(self._request, bytes(self._data))
        )

    def abandon(self) -> None:
        self._data.clear()


def report_command(message_id: int, sop_class: str, sop_instance: str, event_type: int) -> bytes:
    """The command set of an N-EVENT-REPORT-RQ (PS3.7 §10.3.1)."""
    return dimse.encode_command({
        dimse.AFFECTED_SOP_CLASS: sop_class, dimse.COMMAND_FIELD: dimse.N_EVENT_REPORT_RQ,
        dimse.MESSAGE_ID: message_id, dimse.DATA_SET_TYPE: dimse.A_DATA_SET,
        dimse.AFFECTED_SOP_INSTANCE: sop_instance, dimse.EVENT_TYPE: event_type,
    })  # fmt: skip


def action_command(message_id: int, sop_class: str, sop_instance: str, action_type: int) -> bytes:
    """The command set of an N-ACTION-RQ (PS3.7 §10.3.4)."""
    return dimse.encode_command({
        dimse.REQUESTED_SOP_CLASS: sop_class, dimse.COMMAND_FIELD: dimse.N_ACTION_RQ, dimse.MESSAGE_ID: message_id,
        dimse.DATA_SET_TYPE: dimse.A_DATA_SET, dimse.REQUESTED_SOP_INSTANCE: sop_instance,
        dimse.ACTION_TYPE: action_type,
    })  # fmt: skip
