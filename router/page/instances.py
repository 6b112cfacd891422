"""Instances: found by the words of `find`, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from router.flow import CLASSES, UNCERTAIN
from router.page import search, words
from router.page.forms import asked
from router.page.site import Site
from router.spool import Spool
from router.spool.find import FIRST_PAGE
from router.web.access import Role, needs

PAGE = 50
SINCE = ("1h", "24h", "7d")


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def instances(request: Request) -> Response:
        return await _listed(site, request)

    yield Route("/instances", instances)


async def _listed(site: Site, request: Request) -> Response:
    query = asked(request)
    if "q" in query:
        line = query.pop("q")
        return await site.answer(request, lambda _: RedirectResponse(words.found(**search.parse(line)), 303))
    return await site.show(request, "instances.html.j2", lambda spool: _values(site, spool, query))


def _values(site: Site, spool: Spool, query: dict[str, str]) -> dict[str, Any]:
    wanted = search.filter_from(query)
    before = query.get("before", FIRST_PAGE)[:33]
    rows = spool.views.find(wanted, before=before, limit=PAGE + 1)
    kept = {name: value for name, value in query.items() if name in ("text", *search.WORDS) and value}
    return {
        "rows": rows[:PAGE], "line": search.line_of(query), "asked": kept,
        "older": words.found(**kept, before=rows[PAGE - 1].id) if len(rows) > PAGE else "",
        "newest": words.found(**kept) if before != FIRST_PAGE else "",
        "destinations": sorted(site.node.settings().enabled),
        "choices": {"state": search.STATES, "class": (*CLASSES, UNCERTAIN), "since": SINCE},
    }  # fmt: skip
