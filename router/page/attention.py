"""Attention: what was buried, by its cause and not by its row, and what a person can do for all of a cause."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.page import search
from router.page.forms import asked
from router.page.many import shown
from router.page.site import Site
from router.spool import Spool
from router.web.access import Role, needs

SHOWN = 5
"""Instances of a cause that are named."""
JOBS = 5
"""The latest jobs."""


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def attention(request: Request) -> Response:
        only = asked(request).get("to", "")
        return await site.show(request, "attention.html.j2", lambda spool: _values(site, spool, only))

    yield Route("/attention", attention)


def _values(site: Site, spool: Spool, only: str) -> dict[str, Any]:
    causes = [one for one in spool.overview.causes() if only in ("", one.destination)]
    return {
        "causes": [
            (
                one, spool.overview.buried(one.destination, one.reason, limit=SHOWN),
                search.sealed_cause(site.folder, one.reason),
            )
            for one in causes
        ],
        "only": only, "n": sum(one.n for one in causes), "jobs": shown(spool, JOBS),
        "destinations": sorted(site.node.settings().enabled),
    }  # fmt: skip
