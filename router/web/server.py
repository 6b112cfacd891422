"""The web server's life: a thread with uvicorn on a socket that was opened before, so that a used port is an error."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from email.utils import formatdate
from functools import partial

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from router.association.tls import server_context, unusable
from router.config.settings import Networks, ServerTls, WebSettings
from router.listening import WEB, AddressError, bind, listen
from router.web.access.arrival import inside
from router.web.health import Health, View, routes

SECONDS = 10.0
"""For a peer: to send all of its request, and to take all of the answer."""
WORK_SECONDS = 30.0
"""From a connection's beginning, for the node to begin its answer: meanwhile the peer can do nothing but wait."""
LOOK_EVERY = 1.0
"""Seconds after which a connection whose answer has not begun is looked at again."""
PER_PEER = 16
"""Connections of one address. One more closes the oldest, so that a quick request is always answered."""
MOST_AT_ONCE = 64
"""Connections. Where so many are open, the oldest without a whole request ends, so that health is answered."""
UNASKED = (h11.IDLE, h11.SEND_BODY)
"""The request is not here, or not all of it."""


class OneAnswer(H11Protocol):
    """A connection that is closed after one answer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.began = self.loop.time()
        date = (b"date", formatdate(usegmt=True).encode())
        self.server_state.default_headers = [date, *self.config.encoded_headers]


class OneRequest(OneAnswer):
    """A connection of a peer, which may not keep its place for longer than an honest one needs.

    A busy node must not look like a slow peer: a browser that got no answer at all says that the node is broken.
    """

    proxies: Networks = ()
    """Each of these speaks for many, and may have as many connections as there are places."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self.loop.call_later(SECONDS, self._end_if_slow)
        same = [one for one in self.connections if isinstance(one, OneRequest) and one.peer == self.peer]
        if len(same) > PER_PEER and not inside(self.peer, self.proxies):
            self._end_oldest(same)
        elif len(self.connections) >= MOST_AT_ONCE:  # of many addresses: the slowest makes way
            all_others = [one for one in self.connections if isinstance(one, OneRequest) and one is not self]
            self._end_oldest([one for one in all_others if one.conn.their_state in UNASKED] or all_others)

    def _end_if_slow(self, had_to_wait: bool = False) -> None:
        if self._waits_for_the_node() and self.loop.time() < self.began + WORK_SECONDS:
            self.loop.call_later(LOOK_EVERY, self._end_if_slow, True)
        elif had_to_wait and not self._waits_for_the_node():
            self.loop.call_later(SECONDS, self.transport.abort)
        else:
            self.transport.abort()

    def _waits_for_the_node(self) -> bool:
        """All of its request is here, and nothing of the answer has gone."""
        return bool(self.conn.their_state is h11.DONE and self.conn.our_state is h11.SEND_RESPONSE)

    def _end_oldest(self, some: list[OneRequest]) -> None:
        oldest = min(some, key=lambda one: one.began)
        self.connections.discard(oldest)
        oldest.transport.abort()


class Server(uvicorn.Server):
    """Waits for its end, where uvicorn looks ten times a second whether it has come, and for the time of day."""

    _end: asyncio.Event | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        if self.config.is_ssl:  # a handshake has the time of a request, not a minute
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=SECONDS)  # type: ignore[method-assign]
        await super().startup(sockets)

    async def main_loop(self) -> None:
        self._end, self._loop = asyncio.Event(), asyncio.get_running_loop()
        if not self.should_exit:
            await self._end.wait()

    def end(self) -> None:
        """From another thread."""
        self.should_exit = True
        if self._end is not None and self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself just now
                self._loop.call_soon_threadsafe(self._end.set)


def config_of(app: Starlette, protocol: type[OneAnswer], most_at_once: int | None = None) -> uvicorn.Config:
    """A server without logs of its own; beyond `most_at_once` connections a request is answered with 503."""
    return uvicorn.Config(
        app, http=protocol, headers=[("connection", "close")], log_config=None, access_log=False, lifespan="off",
        ws="none", proxy_headers=False, limit_concurrency=most_at_once, h11_max_incomplete_event_size=16384,
        timeout_graceful_shutdown=1,
    )  # fmt: skip


class WebServer:
    """Health, readiness and metrics over HTTP, and the page on the same port."""

    def __init__(self, settings: WebSettings, view: View, page: ASGIApp | None = None) -> None:
        """`page` answers all other paths; it must refuse strangers itself (`access.protected`)."""
        self._health = Health(view)
        rest = [Mount("/", page)] if page else []
        app = Starlette(routes=[*routes(view, self._health), *rest])
        protocol = type("OneRequestOf", (OneRequest,), {"proxies": settings.proxies})
        at_once = 4 * MOST_AT_ONCE  # the work of a connection that was ended counts until it has noticed
        self._server = Server(config_of(app, protocol, most_at_once=at_once))
        self._settings = settings
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Open the port and return it. Raises AddressError, also where `web.tls` cannot be used."""
        if (tls := self._settings.tls) is not None:
            try:
                context = server_context(ServerTls(tls.certificate, tls.key))
            except OSError as error:
                raise AddressError(f"web.tls: {unusable(error)}; correct the file, or name another file") from error
            self._server.config.ssl_context_factory = lambda *_: context
        self._socket = bind(self._settings.address, self._settings.port, WEB)
        listen(self._socket, 64, WEB)
        self._health.start()
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="web", daemon=True)
        self._thread.start()
        return int(self._socket.getsockname()[1])

    def alive(self) -> dict[str, bool]:
        """What /healthz says."""
        return self._health.alive()

    def look(self) -> None:
        """Let health and readiness say what is so now: all parts of the node have started."""
        self._health.look()

    def stop(self, _deadline: float = 0.0) -> None:
        """End within a few seconds, even if requests are under way."""
        self._health.stop()
        self._server.end()
        if self._thread is not None:
            self._thread.join(3.0)
        if self._socket is not None:
            self._socket.close()
