"""pynetdicom's reactor never takes the answer of a request that is under way."""

from __future__ import annotations

import threading
import time

import pytest
from pynetdicom import AE

from router.demo.reactor import Checkpoint
from router.dicom.uids import VERIFICATION


def test_a_sender_goes_on_only_when_the_reactor_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    server = AE("THERE")
    server.add_supported_context(VERIFICATION)
    there = server.start_server(("127.0.0.1", 0), block=False)
    assert there is not None
    late = threading.Event()
    plain = Checkpoint.wait

    def slow(self: Checkpoint, timeout: float | None = None) -> bool:
        """The reactor has said that it pauses, and looks at its checkpoint a moment later."""
        answer = plain(self, timeout)
        if late.is_set():
            time.sleep(0.02)
        return answer

    monkeypatch.setattr(Checkpoint, "wait", slow)
    try:
        here = AE("HERE")
        here.dimse_timeout = 2
        here.add_requested_context(VERIFICATION)
        association = here.associate("127.0.0.1", there.server_address[1], ae_title="THERE")
        late.set()
        assert [association.send_c_echo().get("Status") for _ in range(20)] == [0] * 20
        late.clear()
        association.release()
    finally:
        there.shutdown()


def test_who_waits_for_a_reactor_that_has_ended_goes_on() -> None:
    server = AE("THERE")
    server.add_supported_context(VERIFICATION)
    there = server.start_server(("127.0.0.1", 0), block=False)
    assert there is not None
    try:
        here = AE("HERE")
        here.add_requested_context(VERIFICATION)
        association = here.associate("127.0.0.1", there.server_address[1], ae_title="THERE")
        association.abort()
        association.join(10)
        association._is_paused = False
        association._reactor_checkpoint.clear()
        assert association._is_paused
    finally:
        there.shutdown()
