"""The control socket of a running node, one JSON object in, one out; and what a person may order of a spool.

It lies in the spool's folder (0700), so whoever may use it may read the spool as well. The path of a Unix socket must
be short; it is reached through the folder's descriptor, which makes any spool path good.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from router.spool import Spool

SOCKET = "control"
LONGEST = 1 << 20
SECONDS = 60.0

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class NoNodeError(Exception):
    """No node is running on this spool."""


class NoAnswerError(Exception):
    """A node is running, and has not said whether it did what it was asked: nobody else may do it in its place."""


class ControlServer:
    """Answers requests one after another; `handler` gets the request and returns the answer."""

    def __init__(self, folder: Path, handler: Handler) -> None:
        self._folder = folder
        self._handler = handler
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Raises OSError. A socket that a killed node left is replaced (the spool's lock says that it is dead)."""
        (self._folder / SOCKET).unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        with _short(self._folder) as path:
            server.bind(path)
            os.chmod(path, 0o600)
        server.listen(8)
        self._socket = server
        threading.Thread(target=self._run, args=(server,), name="control", daemon=True).start()

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            (self._folder / SOCKET).unlink(missing_ok=True)

    def _run(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(SECONDS)
                try:
                    _send(connection, self._answer(_read(connection)))
                except (OSError, ValueError):
                    continue

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
            return _read(client)
        except TimeoutError as error:
            raise NoAnswerError(f"the node did not answer within {SECONDS:.0f} s; see dicom-router events") from error
        except (OSError, ValueError) as error:
            raise NoAnswerError("the node ended before it answered; see dicom-router events") from error


def carry_out(spool: Spool, request: dict[str, Any], destinations: Container[str]) -> dict[str, Any]:
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
            if destination not in destinations:
                return {"error": "no such destination"}
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


def _read(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as stream:
        line = stream.readline(LONGEST)
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")
