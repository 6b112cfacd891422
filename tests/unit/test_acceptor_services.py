"""A SOP class beside storing plugs into the acceptor: nothing of the association knows it by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from router.association.dimse import N_EVENT_REPORT_RSP, decode_command, response
from router.association.negotiation import role
from router.association.pdu import command_pdus, data_set_pdus, pdvs
from router.association.server import AssociationServer
from router.association.services import NormalizedRequest, action_command
from router.flow import Caller
from tests.unit.receiving import (
    CONTEXTS,
    EXPLICIT,
    RELEASE_RQ,
    MemoryHandler,
    RawPeer,
    context,
    item,
    request,
    settings,
)

SOP_CLASS, SOP_INSTANCE = "1.2.3.4", "1.2.3.4.1"
ROLES = item(0x54, role(SOP_CLASS, scu=True, scp=True))
USER = item(0x50, item(0x51, b"\0\0\1\0") + ROLES)


@dataclass
class Printing:
    """A service that takes any action, and reports on it at once from another thread."""

    sop_class: str = SOP_CLASS
    asked: list[tuple[NormalizedRequest, bytes]] = field(default_factory=list)
    heard: list[int | None] = field(default_factory=list)

    def allows(self, caller: Caller) -> bool:
        return caller.calling_ae == "RAW"

    def take(self, request: NormalizedRequest, data_set: bytes) -> int:
        self.asked.append((request, data_set))
        self.thread = threading.Thread(target=lambda: self.heard.append(request.report(2, b"printed!", 5)))
        self.thread.start()
        return 0


@contextmanager
def serving() -> Iterator[tuple[int, Printing]]:
    service = Printing()
    server = AssociationServer(settings, MemoryHandler(), (service,))
    try:
        yield server.start(), service
    finally:
        server.stop(time.monotonic() + 5)


def test_a_service_is_agreed_to_asked_and_reports_on_the_association() -> None:
    with serving() as (port, service), RawPeer(port) as peer:
        peer.send(request(CONTEXTS + context(5, SOP_CLASS, EXPLICIT), user=USER))
        assert ROLES in peer.read()
        command = action_command(9, SOP_CLASS, SOP_INSTANCE, 3)
        peer.send(command_pdus(5, command, 4096), data_set_pdus(5, b"print it", 4096))
        assert peer.answer() == "STATUS 0000"
        (report,), (said,) = (list(pdvs(memoryview(peer.read()[6:]))) for _ in range(2))
        asked = decode_command(report.fragment)
        assert (asked.text(0x0002), asked.text(0x1000), asked.number(0x1002)) == (SOP_CLASS, SOP_INSTANCE, 2)
        assert (report.context_id, said.context_id, bytes(said.fragment)) == (5, 5, b"printed!")
        peer.send(command_pdus(5, response(asked, 0x0001), 4096))
        service.thread.join(5)
        assert peer.send(RELEASE_RQ).answer() == "RP"
    ((took, data),) = service.asked
    assert (took.is_action, took.type_id, took.sop_instance, data) == (True, 3, SOP_INSTANCE, b"print it")
    assert service.heard == [1]
    assert asked.field | 0x8000 == N_EVENT_REPORT_RSP


def test_a_caller_that_may_not_use_it_has_no_context_for_it() -> None:
    with serving() as (port, _), RawPeer(port) as peer:
        peer.send(request(CONTEXTS + context(5, SOP_CLASS, EXPLICIT), user=USER, calling=b"OTHER".ljust(16)))
        accepted = peer.read()
        assert accepted[0] == 2
        assert ROLES not in accepted
        assert bytes((0x21, 0)) + (4 + 4 + 17).to_bytes(2, "big") + bytes((5, 0, 3, 0)) in accepted
        command = action_command(9, SOP_CLASS, SOP_INSTANCE, 3)
        assert peer.send(command_pdus(5, command, 4096)).answer() == "ABORT 2/6"
