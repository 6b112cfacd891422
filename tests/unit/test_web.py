"""The web server: its places are free for whoever asks, and a disk that does not answer is no fault of the program."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from router.config.settings import WebSettings
from router.web import WebServer, server

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
