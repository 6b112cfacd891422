"""Asks the node that works on a spool, over the Unix socket in the spool's folder.

This module needs nothing of the web server, so that commands start quickly. The path of a Unix socket must be short. So
the socket is reached through the folder's descriptor, whatever the path of the spool.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from router.errors import RouterError
from router.node.orders import NAMES, Order, OrderError

SOCKET = "control"
SECONDS = 60.0
"""The most seconds that a client waits for the whole answer."""
LONGEST_ANSWER = 1 << 20
"""The most bytes of an answer."""
BUSY = "the node is busy with other requests; try again"


class NoNodeError(RouterError):
    """No node is running on this spool."""


class NoAnswerError(RouterError):
    """A node is running, but did not say whether it has done the work. No other process may do it instead."""


def give(folder: Path, order: Order, who: str) -> dict[str, Any]:
    """Let the node on a spool carry out an order. Raises what `ask` raises."""
    return ask(folder, "POST", f"/orders/{NAMES[type(order)]}", asdict(order) | {"who": who})


def state(folder: Path, what: str) -> dict[str, Any]:
    """What the node on a spool says about itself: `health`, `status` or `models`. Raises what `ask` raises."""
    return ask(folder, "GET", f"/{what}")


def ask(folder: Path, method: str, path: str, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send one request to the node that works on a spool, and return the answer.

    Raises OrderError with the node's words, NoNodeError, and NoAnswerError. The last also if this account may not use
    the socket.
    """
    connection = _Connection(folder)
    try:
        connection.connect()
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise NoNodeError(f"no node is running on {folder}") from error
    except PermissionError as error:
        from router.spool.account import as_owner  # importing the spool takes long

        raise NoAnswerError(f"{folder}: {error.strerror}{as_owner(folder)}") from error
    except BlockingIOError as error:
        raise NoAnswerError(BUSY) from error
    try:
        body = None if about is None else json.dumps(about).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # the node refused at once, and the answer is there
            connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        with connection.getresponse() as response:
            answer = json.loads(_whole(response))
    except TimeoutError as error:
        raise NoAnswerError(f"the node did not answer within {SECONDS:.0f} s; see dicom-router events") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswerError("the node ended before it answered; see dicom-router events") from error
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise NoAnswerError("the node's answer cannot be read; see dicom-router events")
    if response.status >= http.client.BAD_REQUEST:
        message, code = (
            str(answer.pop("error", f"the node answered {response.status}")),
            int(answer.pop("exit_code", 1)),
        )
        raise OrderError(message, code, answer)
    return answer


class _Connection(http.client.HTTPConnection):
    """HTTP over the socket in a spool's folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__("node", timeout=SECONDS)
        self._folder = folder

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        try:
            with short_path(self._folder) as path:
                self.sock.connect(path)
        except BaseException:
            self.close()
            raise


def _whole(response: http.client.HTTPResponse) -> bytes:
    """The body. Its length and its time are limited, even if it comes byte by byte."""
    deadline, body = time.monotonic() + SECONDS, bytearray()
    while piece := response.read1(1 << 16):
        body += piece
        if len(body) > LONGEST_ANSWER:
            raise ValueError("the answer is too long")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """A path of the socket that is short enough for any folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)
