"""The control socket of a running node, one JSON object in, one out; and what a person may order of a spool.

It lies in the spool's folder (0700), so whoever may use it may read the spool as well. The path of a Unix socket must
be short; it is reached through the folder's descriptor, which makes any spool path good.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.config import ConfigError
from router.observe import log, where
from router.spool.account import as_owner

if TYPE_CHECKING:
    from router.spool import Spool

SOCKET = "control"
LONGEST = 1 << 20
SECONDS = 60.0
REQUEST_SECONDS = 5.0
"""Seconds for a whole request. A client that is silent or trickles then loses its connection."""
PLACES = 64
"""The most connections without a request. One more closes the oldest silent one, so that no client waits for them."""
ORDERS = 64
"""The most requests that wait for their turn. One more is refused for now."""
BUSY = "the node is busy with other requests; try again"

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class NoNodeError(Exception):
    """No node is running on this spool."""


class NoAnswerError(Exception):
    """A node is running, but did not say whether it did the work. No other process may do it instead."""


class ControlServer:
    """Carries out requests one after another; `handler` gets the request and returns the answer."""

    def __init__(self, folder: Path, handler: Handler) -> None:
        self._folder = folder
        self._handler = handler
        self._one_at_a_time = threading.Lock()
        self._orders = threading.BoundedSemaphore(ORDERS)
        self._silent: dict[socket.socket, None] = {}
        """Connections without a request yet, the oldest first."""
        self._silent_lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Raises OSError. A socket that a killed node left is replaced (the spool's lock says that it is dead)."""
        (self._folder / SOCKET).unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        with _short(self._folder) as path:
            server.bind(path)
            os.chmod(path, 0o600)
        server.listen(4 * PLACES)
        self._socket = server
        self._thread = threading.Thread(target=self._run, args=(server,), name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            (self._folder / SOCKET).unlink(missing_ok=True)

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self, server: socket.socket) -> None:
        while not self._stopping.is_set():
            connection: socket.socket | None = None
            try:
                connection, _ = server.accept()
                self._make_place_for(connection)
                threading.Thread(target=self._serve, args=(connection,), name="control", daemon=True).start()
            except (OSError, RuntimeError) as error:
                # Out of descriptors, memory or threads: clients that end will free some.
                if connection is not None:
                    self._has_spoken(connection)
                    connection.close()
                if not self._stopping.wait(0.2):
                    log.error("accept failed", errno=getattr(error, "errno", None))

    def _make_place_for(self, connection: socket.socket) -> None:
        with self._silent_lock:
            oldest = next((one for one in self._silent if not _has_bytes(one)), None)
            if oldest is not None and len(self._silent) >= PLACES:
                del self._silent[oldest]
                with suppress(OSError):  # it has closed already
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it
            self._silent[connection] = None

    def _has_spoken(self, connection: socket.socket) -> None:
        with self._silent_lock:
            self._silent.pop(connection, None)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                try:
                    request = _read(connection, REQUEST_SECONDS)
                finally:
                    self._has_spoken(connection)
                answer = self._in_turn(request)
                connection.settimeout(SECONDS)
                _send(connection, answer)
        except Exception as error:  # it ends its own connection only
            log.warning("control request failed", error=where(error))

    def _in_turn(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self._orders.acquire(blocking=False):
            return {"error": BUSY}
        try:
            with self._one_at_a_time:
                return self._answer(request)
        finally:
            self._orders.release()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._handler(request)
        except ConfigError as error:
            problems = [asdict(problem) for problem in error.problems]
            return {"error": str(error), "exit_code": error.exit_code, "problems": problems}
        except Exception as error:  # the client must see it, and the next client must be answered
            return {"error": str(error) or type(error).__name__, "exit_code": getattr(error, "exit_code", 1)}


def ask(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the node that works on a spool; an answer with `error` is the caller's to show.

    Raises NoNodeError, and NoAnswerError also where this account may not use the socket.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        try:
            with _short(folder) as path:
                client.connect(path)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise NoNodeError(f"no node is running on {folder}") from error
        except PermissionError as error:
            raise NoAnswerError(f"{folder}: {error.strerror}{as_owner(folder)}") from error
        except BlockingIOError as error:
            raise NoAnswerError(BUSY) from error
        try:
            _send(client, request)
            return _read(client, SECONDS)
        except TimeoutError as error:
            raise NoAnswerError(f"the node did not answer within {SECONDS:.0f} s; see dicom-router events") from error
        except (OSError, ValueError) as error:
            raise NoAnswerError("the node ended before it answered; see dicom-router events") from error


def known(spool: Spool, destinations: Iterable[str]) -> list[str]:
    """The destinations that there are: those of the settings, and those that are gone and still owed something."""
    counts = spool.views.counts()
    return sorted({*destinations, *counts.open, *counts.buried})


def carry_out(spool: Spool, request: dict[str, Any], destinations: Iterable[str]) -> dict[str, Any]:
    """One change of the queue. The process that works on the spool makes it: the node, or else the command line."""
    who = str(request.get("who", ""))[:64]
    match request.get("do"):
        case "retry":
            return {"changed": spool.orders.retry_now([int(n) for n in request["deliveries"]], who)}
        case "discard":
            return {"changed": spool.orders.discard([int(n) for n in request["deliveries"]], who)}
        case "decide again":
            if spool.orders.redecide(str(request["instance"]), who):
                return {"done": True}
            return {"error": "no such instance, or its blob is gone"}
        case "pause" | "resume" as do:
            destination = str(request["destination"])
            if destination not in (names := known(spool, destinations)):
                return {"error": f"no destination {destination[:64]}: one of {', '.join(names)}", "exit_code": 2}
            (spool.orders.pause if do == "pause" else spool.orders.resume)(destination, who)
            return {"done": True}
        case "wipe":
            return {"changed": spool.orders.wipe(who)}
    return {"error": "no such request"}


def _has_bytes(connection: socket.socket) -> bool:
    """Whether something has arrived that the thread has not read yet."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def _read(connection: socket.socket, seconds: float) -> dict[str, Any]:
    deadline, line = time.monotonic() + seconds, bytearray()
    while not line.endswith(b"\n") and len(line) < LONGEST:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(1 << 16)
        if not piece:
            break
        line += piece
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")
