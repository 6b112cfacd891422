"""The web server: its places are free for whoever asks, and a disk that does not answer is no fault of the program."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from router.config.settings import WebSettings
from router.spool import Counts
from router.web import WebServer, gauges, health, server
from tests.unit.peer import wait_for

HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


class Sound:
    """A node that is well, as far as it is asked here."""

    def alive(self) -> dict[str, bool]:
        return {"spool": True}

    def ready(self) -> dict[str, bool]:
        raise FileNotFoundError(2, "No such file or directory")


@contextmanager
def serving() -> Iterator[int]:
    view: Any = Sound()
    web = WebServer(WebSettings(address="127.0.0.1", port=0), view)
    yield web.start()
    web.stop()


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def half_a_request(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(HALF)
    return client


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes, in time."""
    got, begin = b"", time.monotonic()
    with suppress(ConnectionResetError):
        while piece := client.recv(1000):
            got += piece
    assert time.monotonic() < begin + 5
    return got


def test_half_sent_requests_keep_nobody_from_being_answered() -> None:
    with serving() as port, ExitStack() as stack:
        for _ in range(80):
            stack.enter_context(half_a_request(port))
        assert status(port, "/healthz") == 200


def test_a_connection_has_a_deadline_and_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 1.0)
    with serving() as port:
        with half_a_request(port) as client:
            assert everything(client) == b""
        with half_a_request(port) as client:
            client.sendall(b"\r\n")
            answer = everything(client)
            assert b"200 OK" in answer
            assert b"connection: close" in answer


def test_a_disk_that_does_not_answer_has_no_room() -> None:
    with serving() as port:
        assert status(port, "/readyz") == 503


def test_what_has_just_started_is_looked_at_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.web.health.LOOK_EVERY", 2.0)
    started = False
    view: Any = Sound()
    view.alive = lambda: {"classify": started}
    web = WebServer(WebSettings(address="127.0.0.1", port=0), view)
    port = web.start()
    try:
        assert status(port, "/healthz") == 503
        started = True
        web.look()
        assert status(port, "/healthz") == 200
    finally:
        web.stop()


def test_it_waits_without_looking_and_knows_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[int] = []

    async def tick(_: Any, counter: int) -> bool:
        ticks.append(counter)
        return False

    monkeypatch.setattr("uvicorn.Server.on_tick", tick)
    with serving() as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        said = parsedate_to_datetime(answer.headers["date"]).timestamp()
    assert abs(said - time.time()) < 10
    assert not ticks


# -- a node that hangs


class Hanging(Sound):
    """Its database does not answer: whatever asks it waits."""

    def __init__(self) -> None:
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        self.asked = 0

    def alive(self) -> dict[str, bool]:
        self._wait()
        return {"spool": True}

    def ready(self) -> dict[str, bool]:
        return {"room": True}

    def counts(self) -> Counts:
        self.asked += 1
        self._wait()
        return Counts(undecided=7)

    def associations(self) -> int:
        return 0

    def circuits(self) -> dict[str, bool]:
        return {}

    def destinations(self) -> dict[str, bool]:
        return {}

    def certificates(self) -> dict[str, float]:
        return {}

    def models(self) -> dict[str, str]:
        return {}

    def _wait(self) -> None:
        if self.hangs.is_set():
            assert self.goes_on.wait(30)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hanging, int]]:
    for module, name, seconds in (
        (health, "STALE", 0.2), (health, "LOOK_EVERY", 0.05), (gauges, "METRICS_WITHIN", 0.5),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, seconds)
    view = Hanging()
    web = WebServer(WebSettings(address="127.0.0.1", port=0), view)
    yield view, web.start()
    view.goes_on.set()
    web.stop()


def test_what_hangs_is_told_and_nobody_waits_for_it(hanging: tuple[Hanging, int]) -> None:
    view, port = hanging
    assert (status(port, "/healthz"), status(port, "/readyz"), status(port, "/metrics")) == (200, 200, 200)
    view.hangs.set()
    wait_for(lambda: (status(port, "/healthz"), status(port, "/readyz")) == (503, 503), 5)
    view.goes_on.set()
    wait_for(lambda: (status(port, "/healthz"), status(port, "/readyz")) == (200, 200), 5)


def test_metrics_that_do_not_come_keep_nobody_else_from_an_answer(hanging: tuple[Hanging, int]) -> None:
    """As many as ask, one question is under way; each is told in time that there is no answer."""
    view, port = hanging
    view.hangs.set()
    with ExitStack() as stack:
        clients = [stack.enter_context(half_a_request(port)) for _ in range(12)]
        for client in clients:
            client.sendall(b"\r\n")
        asking = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3)]
        for one in asking:
            stack.enter_context(one)
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        begin = time.monotonic()
        assert status(port, "/healthz") in (200, 503)
        assert time.monotonic() - begin < 3
        assert [b"503" in everything(one) for one in asking] == [True] * 3
    assert view.asked == 1
    view.goes_on.set()
    wait_for(lambda: status(port, "/metrics") == 200, 5)
