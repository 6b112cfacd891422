"""/healthz and /readyz: for load balancers and containers.

No request waits for the node. A thread looks at it twice a second, and the answer is what it saw last. If the thread
has seen nothing for a while it hangs, and that is the answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.observe import log, where
from router.spool import SpoolError
from router.web.gauges import GaugesView, metrics_of

LOOK_EVERY = 0.5
"""Seconds between two looks at the node."""
STALE = 3.0
"""Seconds. If the last look is older, the node counts as hanging."""


class View(GaugesView, Protocol):
    """What the web room may ask of the node."""

    def alive(self) -> dict[str, bool]: ...

    def ready(self) -> dict[str, bool]: ...


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of the node, and when (time.monotonic)."""

    alive: dict[str, bool]
    ready: dict[str, bool]
    at: float


class Health:
    """The last look at the node."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._last = Looked({"looked": False}, {"looked": False}, time.monotonic())
        self._stopped = threading.Event()
        self._looked, self._awaited = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Look once, unless that takes long, and go on looking."""
        self._thread.start()
        self._looked.wait(LOOK_EVERY)

    def look(self) -> None:
        """Look now, unless that takes long: what has just started must not seem to be down."""
        for _ in range(2):  # the first may have begun before
            self._looked.clear()
            self._awaited.set()
            self._looked.wait(LOOK_EVERY)

    def stop(self) -> None:
        self._stopped.set()
        self._awaited.set()

    def alive(self) -> dict[str, bool]:
        return self._fresh().alive

    def ready(self) -> dict[str, bool]:
        return self._fresh().ready

    def _fresh(self) -> Looked:
        last = self._last
        if time.monotonic() - last.at > STALE:  # something hangs
            return Looked(last.alive | {"looked": False}, last.ready | {"looked": False}, last.at)
        return last

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._awaited.clear()
            try:
                self._last = Looked(self._view.alive(), self._ready(), time.monotonic())
            except Exception as error:  # the last look grows stale, and the answer says so
                log.error("health failed", error=where(error))
            self._looked.set()
            self._awaited.wait(LOOK_EVERY)

    def _ready(self) -> dict[str, bool]:
        try:
            return self._view.ready()
        except (OSError, SpoolError):  # a disk that does not answer counts as full
            return {"room": False}


def routes(view: View, health: Health) -> Iterator[Route]:
    def answer(parts: Callable[[], dict[str, bool]]) -> Callable[[Request], Awaitable[Response]]:
        async def said(_: Request) -> Response:
            found = parts()
            return JSONResponse(found, status_code=200 if all(found.values()) else 503)

        return said

    yield Route("/healthz", answer(health.alive))
    yield Route("/readyz", answer(health.ready))
    yield Route("/metrics", metrics_of(view))
