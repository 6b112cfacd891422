"""Asks the node that works on a spool, over the Unix socket in the spool's folder.

This module needs nothing of the web server, so that commands start quickly. The path of a Unix socket must be short. So
the socket is reached through the folder's descriptor, whatever the path of the spool.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from router.errors import RouterError
from router.node.orders import NAMES, Order, OrderError

SOCKET = "control"
"""The name of the socket of a spool's only node. Of several (PostgreSQL), each adds its host and its start."""
SECONDS = 60.0
"""The most seconds that a client waits for the whole answer."""
LONGEST_ANSWER = 1 << 20
"""The most bytes of an answer."""
BUSY = "the node is busy with other requests; try again"


def socket_name(start: int | None) -> str:
    """The name of a node's socket. `start`: its number among several nodes; None: it is the only one."""
    return SOCKET if start is None else f"{SOCKET}.{_host()}.{start}"


def _host() -> str:
    """This machine in the name of a socket, which must be short."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]


def sockets(folder: Path) -> list[str]:
    """The sockets in a spool's folder, also of nodes that have ended: this machine's before others, the newest first.

    A folder that several machines share has the sockets of all of them, and only those of this machine lead to a node.
    """
    own = f"{SOCKET}.{_host()}."
    found = [name.split(".") for name in os.listdir(folder) if re.fullmatch(rf"{SOCKET}\.[A-Za-z0-9-]+\.[0-9]+", name)]
    several = sorted(found, key=lambda parts: int(parts[2]), reverse=True)
    several.sort(key=lambda parts: not ".".join(parts).startswith(own))
    return [SOCKET, *map(".".join, several)]


def remove_sockets_but(folder: Path, starts: Collection[int]) -> None:
    """Remove the sockets of nodes that are in no list any more: of killed ones nobody else does. Raises OSError."""
    for name in sockets(folder)[1:]:
        if int(name.rpartition(".")[2]) not in starts:
            (folder / name).unlink(missing_ok=True)


def killed_here(folder: Path) -> set[int]:
    """The starts of this machine's nodes whose socket is there, but nobody listens: they were killed.

    Raises OSError.
    """
    own = f"{SOCKET}.{_host()}."
    found: set[int] = set()
    for name in (name for name in sockets(folder) if name.startswith(own)):
        with socket.socket(socket.AF_UNIX) as probe, short_path(folder, name) as path, suppress(BlockingIOError):
            probe.setblocking(False)  # of a node that stands still there is a queue, maybe a full one
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                found.add(int(name.rpartition(".")[2]))
            except FileNotFoundError:  # it has just ended by itself
                continue
    return found


class NoNodeError(RouterError):
    """No node is running on this spool."""


class NoAnswerError(RouterError):
    """A node is running, but did not say whether it has done the work. No other process may do it instead."""


def give(folder: Path, order: Order, who: str) -> dict[str, Any]:
    """Let the node on a spool carry out an order. Raises what `ask` raises."""
    return ask(folder, "POST", f"/orders/{NAMES[type(order)]}", asdict(order) | {"who": who})


def state(folder: Path, what: str) -> dict[str, Any]:
    """What the node on a spool says about itself: `health`, `status` or `models`. Raises what `ask` raises.

    Of several nodes one is asked, on this machine if there is one.
    """
    return ask(folder, "GET", f"/{what}")


def health_here(folder: Path) -> dict[str, bool]:
    """The parts of all nodes of this machine on a spool, and whether each works. Raises what `ask` raises."""
    own = f"{SOCKET}.{_host()}."
    found: dict[str, dict[str, bool]] = {}
    for name in (name for name in _there(folder) if name == SOCKET or name.startswith(own)):
        try:
            found[name.rpartition(".")[2]] = ask(folder, "GET", "/health", names=[name])
        except NoNodeError:  # it has ended
            continue
    if not found:
        raise NoNodeError(f"no node is running on {folder}")
    if len(found) == 1:
        return next(iter(found.values()))
    return {f"{part} of {start}": works for start, parts in found.items() for part, works in parts.items()}


def ask(
    folder: Path, method: str, path: str, about: dict[str, Any] | None = None, names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Send one request to a node that works on a spool, and return the answer.

    Raises OrderError with the node's words, NoNodeError, and NoAnswerError. The last also if this account may not use
    the socket. `names`: the sockets of the nodes that may answer; the first that can be reached does.
    """
    connection = _connected(folder, _there(folder) if names is None else names)
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


def _there(folder: Path) -> list[str]:
    """The sockets in a folder. Raises NoNodeError, NoAnswerError."""
    try:
        return sockets(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoNodeError(f"no node is running on {folder}") from error
    except PermissionError as error:
        raise _forbidden(folder, error) from error


def _connected(folder: Path, names: Iterable[str]) -> _Connection:
    """A connection to the first of these sockets that a node listens on. Raises NoNodeError, NoAnswerError."""
    for name in names:
        connection = _Connection(folder, name)
        try:
            connection.connect()
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            continue
        except PermissionError as error:
            raise _forbidden(folder, error) from error
        except BlockingIOError as error:
            raise NoAnswerError(BUSY) from error
        return connection
    raise NoNodeError(f"no node is running on {folder}")


def _forbidden(folder: Path, error: PermissionError) -> NoAnswerError:
    from router.spool.account import as_owner  # importing the spool takes long

    return NoAnswerError(f"{folder}: {error.strerror}{as_owner(folder)}")


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket in a spool's folder."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__("node", timeout=SECONDS)
        self._folder, self._name = folder, name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        try:
            with short_path(self._folder, self._name) as path:
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
def short_path(folder: Path, name: str = SOCKET) -> Iterator[str]:
    """A path of a socket that is short enough for any folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
