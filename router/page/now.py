"""Now: one sentence, what needs a person with its button, and the figures of the last hour."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.commands.status import Status, status_of
from router.page.site import Site
from router.spool import Spool
from router.spool.overview import Minute
from router.web.access import Role, needs

FRESH = 2.0
"""Seconds for which all visitors see the same figures: any number of them costs as much as one."""
SOON_FULL = 7 * 24.0
"""Hours."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read, and when (time.monotonic)."""

    status: Status
    minutes: tuple[Minute, ...]
    at: float


class Latest:
    """The latest look at the node; one visitor looks, the others wait for it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._seen: Seen | None = None

    def look(self, spool: Spool) -> Seen:
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen.at > FRESH:
                node, settings = self._site.node, self._site.node.settings()
                found = status_of(settings, spool, node.view.status(), node.spool.views.bytes_in_use)
                minutes = spool.overview.minutes([one.name for one in found.destinations])
                self._seen = Seen(found, minutes, time.monotonic())
            return self._seen


def routes(site: Site) -> Iterator[BaseRoute]:
    latest = Latest(site)

    @needs(Role.VIEW)
    async def now(request: Request) -> Response:
        return await site.show(request, "now.html.j2", lambda spool: _values(latest.look(spool)))

    yield Route("/", now)


def _values(seen: Seen) -> dict[str, Any]:
    found = seen.status
    return {
        "status": found, "lately": found.lately, "minutes": seen.minutes, "soon_full": SOON_FULL,
        "most": max([*(one.received for one in seen.minutes), *(one.delivered for one in seen.minutes), 4]),
        "delivered": sum(found.lately.delivered.values()),
    }  # fmt: skip
