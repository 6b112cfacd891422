"""This machine has no descriptor, thread or memory left: callers hear so, and no destination is blamed."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from router.association import connecting, lacks
from router.association.connecting import ConnectKind
from router.association.lacks import own_limit
from router.association.server import AssociationServer
from router.forward import delivery, worker
from tests.unit.forwarding import forwarding
from tests.unit.peer import Peer
from tests.unit.receiving import MemoryHandler, RawPeer, echoes, node, request, settings
from tests.unit.requesting import refused

LIMIT = "RJ 2/3/2"
NONE_LEFT = OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, ""), "LimitNOFILE"),
        (OSError(errno.ENFILE, ""), "fs.file-max"),
        (OSError(errno.ENOMEM, ""), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "TasksMax"),
        (RuntimeError("anything else"), ""),
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), ""),
        (TimeoutError(), ""),
    ],
)
def test_what_is_lacking_is_named_with_the_fix(error: Exception, words: str) -> None:
    assert bool(own_limit(error)) == bool(words)
    assert words in own_limit(error)


# -- receiving -------------------------------------------------------------------------------------------------------


class Scarce(socket.socket):
    """A listener for whose callers there is a descriptor only once the one in reserve is given up."""

    server: AssociationServer
    scarce = True

    def accept(self) -> tuple[socket.socket, Any]:
        if self.scarce and self.server._reserve._fd >= 0:
            self.settimeout(5)
            self._accept_later()
            if self.scarce:  # it may have become plenty while nobody called
                raise NONE_LEFT
        return super().accept()

    def _accept_later(self) -> None:
        """Fail as the system does: only where somebody calls."""
        import select

        poll = select.poll()
        poll.register(self, select.POLLIN)
        poll.poll(5000)


@contextmanager
def scarce() -> Iterator[tuple[int, MemoryHandler, Scarce]]:
    handler = MemoryHandler()
    server = AssociationServer(lambda: settings(node()), handler)
    server.bind()
    listener = Scarce(fileno=server._listeners[0][0].detach())
    listener.server = server
    server._listeners[0] = (listener, None)
    port = server.start()
    try:
        yield port, handler, listener
    finally:
        server.stop(time.monotonic() + 5)


def test_without_a_descriptor_a_caller_is_told_to_come_back_and_is_served_when_there_is_one() -> None:
    with scarce() as (port, handler, listener):
        for _ in range(2):
            with RawPeer(port) as peer:
                assert peer.send(request()).answers() == [LIMIT, "CLOSED"]
        assert all("LimitNOFILE" in why for why in handler.refusals)
        listener.scarce = False
        assert echoes(port)
        assert os.fstat(listener.server._reserve._fd)


def test_without_a_thread_a_caller_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, start = MemoryHandler(), threading.Thread.start
    server = AssociationServer(lambda: settings(node()), handler)
    port = server.start()

    def no_thread(thread: threading.Thread) -> None:
        if thread.name == "association":
            raise RuntimeError("can't start new thread")
        start(thread)

    try:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with RawPeer(port) as peer:
            assert peer.send(request()).answer() == LIMIT
        assert "TasksMax" in handler.refusals[0]
        monkeypatch.undo()
        assert echoes(port)
    finally:
        server.stop(time.monotonic() + 5)


# -- forwarding ------------------------------------------------------------------------------------------------------


def failing(times: int, error: Exception, then: Callable[..., Any]) -> Callable[..., Any]:
    left = [error] * times

    def one(*arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return then(*arguments, **options)

    return one


@pytest.mark.parametrize(
    ("module", "name"),
    [(socket, "create_connection"), (socket, "getaddrinfo"), (delivery, "fault")],
)
def test_it_is_no_try_and_opens_no_circuit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    monkeypatch.setattr(worker, "OWN_LIMIT", 0.02)
    error: Exception = NONE_LEFT
    if name == "getaddrinfo":
        error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        monkeypatch.setattr(connecting, "lacks_descriptors", lambda: lacks.DESCRIPTORS)
    with Peer() as peer, forwarding(tmp_path, peer, start=False, host="localhost") as stage, capture_logs() as logs:
        stage.owe("dest", count=2)
        monkeypatch.setattr(module, name, failing(6, error, getattr(module, name)))
        stage.start()
        rows = stage.until("done", 2)
        assert [row.tries for row in rows] == [1, 1]
        assert not stage.events("circuit opened")
    said = [line for line in logs if line["event"] == "out of resources"]
    assert "LimitNOFILE" in said[0]["reason"]


def test_a_connection_says_so_and_not_that_the_peer_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer() as peer:
        monkeypatch.setattr(socket, "create_connection", failing(1, NONE_LEFT, socket.create_connection))
        error = refused(peer)
    assert error.kind is ConnectKind.OURS
    assert "LimitNOFILE" in error.reason
