"""The local socket of a running node: its HTTP interface (`router/node/api.py`) over a Unix socket.

The socket is in the spool's folder (0700) and has mode 0600. So a process that may use it may read the spool as well:
the permissions of the file are the credential.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from pathlib import Path

import h11
from starlette.applications import Starlette

from router.node.client import SECONDS, SOCKET, short_path
from router.web.server import OneAnswer, Server, config_of

REQUEST_SECONDS = 5.0
"""Seconds for a whole request. Then a silent or slow client loses its connection."""
ANSWER_SECONDS = SECONDS + 5.0
"""Seconds after which a connection ends in any case. No client waits longer for its answer."""
PLACES = 64
"""The most connections without a request. A further one closes the oldest silent one, so no client waits for them."""
STOP_SECONDS = 0.5
"""Seconds for requests under way when the node stops."""


class LocalRequest(OneAnswer):
    """A connection to the local socket. It may keep its place no longer than an honest client needs."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(REQUEST_SECONDS, self._end_unless_asked)
        self.loop.call_later(ANSWER_SECONDS, transport.abort)
        waiting = [one for one in self.connections if isinstance(one, LocalRequest) and not one.has_asked]
        if len(waiting) > PLACES:
            silent = (one for one in waiting if one is not self and not one.has_bytes)
            oldest = min(silent, key=lambda one: one.began, default=None)
            if oldest is not None:
                self.connections.discard(oldest)
                oldest.transport.abort()

    @property
    def has_asked(self) -> bool:
        """Whether the whole request is here."""
        return self.conn.their_state is not h11.IDLE and self.conn.their_state is not h11.SEND_BODY

    @property
    def has_bytes(self) -> bool:
        """Whether unread bytes have arrived."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _end_unless_asked(self) -> None:
        if not self.has_asked:
            self.transport.abort()


class ControlServer:
    """Serves an application on the socket in a spool's folder."""

    def __init__(self, folder: Path, app: Starlette, name: str = SOCKET) -> None:
        """`name`: of the socket. Several nodes on one folder have several."""
        self._folder, self._name = folder, name
        self._server = Server(config_of(app, LocalRequest))
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Raises OSError. Replaces the socket of a killed node (the spool's lock says that it is dead)."""
        (self._folder / self._name).unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        with short_path(self._folder, self._name) as path:
            server.bind(path)
            os.chmod(path, 0o600)
        server.listen(4 * PLACES)
        self._socket = server
        self._thread = threading.Thread(target=self._server.run, args=([server],), name="control", daemon=True)
        self._thread.start()

    def stop(self, _deadline: float = 0.0) -> None:
        """End within STOP_SECONDS, even if requests are under way."""
        self._server.end()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        if self._socket is not None:
            self._socket.close()
            (self._folder / self._name).unlink(missing_ok=True)

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()
