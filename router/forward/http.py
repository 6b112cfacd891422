"""One connection to an HTTP server, for one request after the other: each wait has an end, and each answer a bound.

It is `http.client` on a socket of our own, whose limits are those of `association`: a server that sends a byte a minute
must not hold a worker. No redirect is followed, and no proxy but that of the settings is used.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from router.association.lacks import OwnLimitError, own_limit
from router.association.pdu import Pace
from router.config.settings import ClientTls, HttpProxy
from router.dicom.uids import IMPLEMENTATION_VERSION
from router.errors import RouterError
from router.forward.outcomes import Sign
from router.forward.proxy import connected_by

MOST_ANSWER = 1024**2
"""Bytes of an answer that are read."""
PEEK = 16 * 1024
AFTER_A_CUT = 1.0
"""Seconds to wait for the answer of a server that closed before it had read everything."""


class NoAnswerError(RouterError):
    """There is no answer, or none that is HTTP. `sign` says what that shows about the server."""

    def __init__(self, sign: Sign, reason: str) -> None:
        super().__init__(reason)
        self.sign = sign


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. Its texts come from outside: they are looked at, and never shown."""

    status: int
    media_type: str = ""
    body: bytes = b""
    is_too_long: bool = False
    is_early: bool = False
    """It came before the server could have the whole request."""
    retry_after: str = ""


class Connection:
    """For one thread."""

    def __init__(
        self, host: str, port: int, tls: ClientTls | None, connect_limit: float, limit: float, least_rate: int,
        proxy: HttpProxy | None = None,
    ) -> None:  # fmt: skip
        """Raises ConnectError."""
        self._wire = _Wire(connected_by(proxy, host, port, tls, connect_limit))
        self._limit, self._least_rate = limit, least_rate
        self._host = f"[{host}]" if ":" in host else host
        if port != (443 if tls else 80):
            self._host += f":{port}"
        self._before = f"http://{self._host}" if proxy and not tls else ""
        self.closed = False

    def lost(self) -> bool:
        """Whether the server has closed or spoken unasked. Such a connection cannot be used."""
        return self.closed or self._wire.speaks()

    def close(self) -> None:
        self.closed = True
        self._wire.end()

    def request(
        self, method: str, target: str, headers: dict[str, str], body: Iterable[bytes] = (), length: int = 0
    ) -> Answer:
        """Send a request and read its answer. `body` yields as many bytes as `length` says, or raises.

        Raises NoAnswerError, OwnLimitError, and what `body` raises. After these the connection is closed.
        """
        try:
            early = self._send(method, target, headers, body, length)
            return self._read(method, early)
        except BaseException:
            self.close()
            raise

    def _send(self, method: str, target: str, headers: dict[str, str], body: Iterable[bytes], length: int) -> bool:
        """Returns whether the server spoke, or closed, before it could have everything."""
        client = http.client.HTTPConnection("")
        client.auto_open = 0
        client.sock = self._wire
        client.putrequest(method, self._before + target, skip_host=True)
        about = {"Host": self._host, "User-Agent": IMPLEMENTATION_VERSION, "Content-Length": str(length)}
        for name, value in (about | headers).items():
            client.putheader(name, value)
        pace = Pace(self._limit, self._least_rate)
        self._wire.pace = pace
        try:
            client.endheaders()
        except OSError as error:
            return _cut(error)
        for piece in body:
            if self._wire.speaks():
                return True
            try:
                self._wire.sendall(piece)
            except OSError as error:
                return _cut(error)
        return False

    def _read(self, method: str, early: bool) -> Answer:
        self._wire.deadline = time.monotonic() + (AFTER_A_CUT if early else self._limit)
        answer = http.client.HTTPResponse(cast("socket.socket", self._wire), method=method)
        try:
            answer.begin()
            text = answer.read(MOST_ANSWER + 1)
        except TimeoutError as error:
            if early:
                raise NoAnswerError(Sign.ENDED, "the connection ended before everything was sent") from error
            raise NoAnswerError(Sign.SILENT, "no answer in time") from error
        except (http.client.RemoteDisconnected, http.client.IncompleteRead) as error:
            raise NoAnswerError(Sign.ENDED, "the connection ended without a whole answer") from error
        except OSError as error:
            _raise_own_limit(error)
            raise NoAnswerError(Sign.ENDED, "the connection ended without an answer") from error
        except (http.client.HTTPException, ValueError) as error:
            raise NoAnswerError(Sign.ENDED, "it answers, but not in HTTP: check the address") from error
        too_long = len(text) > MOST_ANSWER
        # `http.client` does not tell when it read less than was announced. A body that only the end of the connection
        # ends may be cut too: if nothing came of it, it counts as cut.
        if not too_long and (answer.length or (not text and answer.length is None and not answer.chunked)):
            raise NoAnswerError(Sign.ENDED, "the connection ended without a whole answer")
        if answer.will_close or too_long or early or self._wire.has_more():
            self.close()
        return Answer(
            answer.status, _media_type(answer.headers.get("Content-Type", "")), text[:MOST_ANSWER], too_long, early,
            answer.headers.get("Retry-After", ""),
        )  # fmt: skip


def _media_type(written: str) -> str:
    return written.partition(";")[0].strip().lower()


def _cut(error: OSError) -> bool:
    """What sending met: True if the server closed, which may have answered before. Raises NoAnswerError."""
    _raise_own_limit(error)
    if isinstance(error, TimeoutError):
        raise NoAnswerError(Sign.SILENT, "it took the data too slowly") from error
    return True


def _raise_own_limit(error: OSError) -> None:
    if lacking := own_limit(error):
        raise OwnLimitError(lacking) from error


class _Wire:
    """A socket as `http.client` uses it, with an end for each wait. It can look whether the other side has spoken."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._ahead = b""
        self._is_at_end = False
        self._reader: io.BufferedReader
        self.pace = Pace(0.0, 1)
        self.deadline = 0.0

    def sendall(self, data: bytes) -> None:
        seconds = self.pace.left()
        if seconds <= 0:
            raise TimeoutError
        started = time.monotonic()
        self._sock.settimeout(seconds)
        self._sock.sendall(data)
        self.pace.waited += time.monotonic() - started
        self.pace.received += len(data)

    def speaks(self) -> bool:
        """Whether something, or the end, can be read. A new ticket for a TLS session is neither."""
        if self._ahead or self._is_at_end:
            return True
        pending = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not pending and not poll.poll(0):
            return False
        self._sock.setblocking(False)
        try:
            self._ahead = self._sock.recv(PEEK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            self._ahead = b""
        self._is_at_end = not self._ahead
        return True

    def read_into(self, buffer: memoryview) -> int:
        if self._ahead:
            count = min(len(buffer), len(self._ahead))
            buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
            return count
        if self._is_at_end:
            return 0
        seconds = self.deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._sock.settimeout(seconds)
        return self._sock.recv_into(buffer)

    def makefile(self, _: str) -> io.BufferedReader:
        self._reader = _Kept(_Reader(self))
        return self._reader

    def has_more(self) -> bool:
        """Whether something came behind the end of an answer."""
        self.deadline = 0.0
        try:
            return bool(self._reader.peek(1))
        except TimeoutError:
            return False

    def close(self) -> None:
        """`http.client` closes too early, before the answer is read: `end` closes."""

    def end(self) -> None:
        self._sock.close()


class _Kept(io.BufferedReader):
    """`http.client` closes it at the end of an answer. It is still looked at then."""

    def close(self) -> None:
        pass


class _Reader(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._wire.read_into(buffer)
