"""Now: one sentence, what needs a person with its button, and the figures of the last hour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.page.latest import Seen
from router.page.site import Site
from router.web.access import Role, needs

SOON_FULL = 7 * 24.0
"""Hours."""


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def now(request: Request) -> Response:
        return await site.show(request, "now.html.j2", lambda spool: _values(site.latest.look(spool)))

    yield Route("/", now)


def _values(seen: Seen) -> dict[str, Any]:
    found = seen.status
    return {
        "status": found, "lately": found.lately, "minutes": seen.minutes, "soon_full": SOON_FULL,
        "most": max([*(one.received for one in seen.minutes), *(one.delivered for one in seen.minutes), 4]),
        "delivered": sum(found.lately.delivered.values()),
    }  # fmt: skip
