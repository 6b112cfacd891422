"""The control socket of a running node, one JSON object in, one out; and what a person may order of a spool.

It lies in the spool's folder (0700), so whoever may use it may read the spool as well. The path of a Unix socket must
be short; it is reached through the folder's descriptor, which makes any spool path good.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.observe import log, where

if TYPE_CHECKING:
    from router.spool import Spool

SOCKET = "control"
LONGEST = 1 << 20
SECONDS = 60.0
REQUEST_SECONDS = 5.0
"""For the whole of a request, so that whoever stays silent, or trickles, gives its place back soon."""
PLACES = 16
"""Connections that are looked after at once; the others wait."""

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class NoNodeError(Exception):
    """No node is running on this spool."""


class NoAnswerError(Exception):
    """A node is running, and has not said whether it did what it was asked: nobody else may do it in its place."""


class ControlServer:
    """Carries out requests one after another; `handler` gets the request and returns the answer."""

    def __init__(self, folder: Path, handler: Handler) -> None:
        self._folder = folder
        self._handler = handler
        self._one_at_a_time = threading.Lock()
        self._places = threading.Semaphore(PLACES)
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
            self._places.acquire()
            connection: socket.socket | None = None
            try:
                connection, _ = server.accept()
                threading.Thread(target=self._serve, args=(connection,), name="control", daemon=True).start()
            except (OSError, RuntimeError) as error:
                # Out of descriptors, memory or threads: those who are served will give some back.
                self._places.release()
                if connection is not None:
                    connection.close()
                if not self._stopping.wait(0.2):
                    log.error("accept failed", errno=getattr(error, "errno", None))

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                request = _read(connection, REQUEST_SECONDS)
                with self._one_at_a_time:
                    answer = self._answer(request)
                connection.settimeout(SECONDS)
                _send(connection, answer)
        except Exception as error:  # whatever came, it ends its own connection only
            log.warning("control request failed", error=where(error))
        finally:
            self._places.release()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._handler(request)
        except Exception as error:  # the asker shall see it, and the next asker be answered
            return {"error": str(error) or type(error).__name__, "exit_code": getattr(error, "exit_code", 1)}


def ask(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the node that works on a spool; an answer with `error` is the caller's to show.

    Raises NoNodeError, NoAnswerError, and OSError where the socket may not be used.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        try:
            with _short(folder) as path:
                client.connect(path)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise NoNodeError(f"no node is running on {folder}") from error
        except BlockingIOError as error:
            raise NoAnswerError("the node is busy with others' requests; try again") from error
        try:
            _send(client, request)
            return _read(client, SECONDS)
        except TimeoutError as error:
            raise NoAnswerError(f"the node did not answer within {SECONDS:.0f} s; see dicom-router events") from error
        except (OSError, ValueError) as error:
            raise NoAnswerError("the node ended before it answered; see dicom-router events") from error


def known(spool: Spool, destinations: Iterable[str]) -> list[str]:
    """The destinations that there are: those of the settings, and those that are gone and still owed something."""
    counts = spool.counts()
    return sorted({*destinations, *counts.open, *counts.buried})


def carry_out(spool: Spool, request: dict[str, Any], destinations: Iterable[str]) -> dict[str, Any]:
    """One change of the queue. Whoever works on the spool makes it: the node, or without one the command line."""
    who = str(request.get("who", ""))[:64]
    match request.get("do"):
        case "retry":
            return {"changed": spool.retry_now([int(n) for n in request["deliveries"]], who)}
        case "discard":
            return {"changed": spool.discard([int(n) for n in request["deliveries"]], who)}
        case "decide again":
            if spool.redecide(str(request["instance"]), who):
                return {"done": True}
            return {"error": "no such instance, or its blob is gone"}
        case "pause" | "resume" as do:
            destination = str(request["destination"])
            if destination not in (names := known(spool, destinations)):
                return {"error": f"no destination {destination[:64]}: one of {', '.join(names)}", "exit_code": 2}
            (spool.pause if do == "pause" else spool.resume)(destination, who)
            return {"done": True}
        case "wipe":
            return {"changed": spool.wipe()}
    return {"error": "no such request"}


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
