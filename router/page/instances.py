"""Instances: found by the words of `find`, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from router.flow import CLASSES, UNCERTAIN
from router.page import search, words
from router.page.forms import asked, field, fields
from router.page.site import Site
from router.spool import Spool
from router.spool.find import FIRST_PAGE
from router.web.access import Role, needs

PAGE = 50
SINCE = ("1h", "24h", "7d")


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def instances(request: Request) -> Response:
        query = asked(request)
        return await site.show(request, "instances.html.j2", lambda spool: _values(site, spool, query))

    @needs(Role.VIEW)
    async def find(request: Request) -> Response:
        """What is typed is posted: it must not stand in an address."""
        form = fields(request)
        return await site.answer(request, lambda _: RedirectResponse(_address(site, form), 303))

    yield Route("/instances", instances)
    yield Route("/find", find, methods=["POST"])


def _address(site: Site, form: dict[str, str]) -> str:
    typed = search.parse(field(form, "q"))
    text = typed.pop("text", "")
    return words.found(find=search.seal(site.folder, text) if text else "", **typed)


def _values(site: Site, spool: Spool, query: dict[str, str]) -> dict[str, Any]:
    opened = search.unsealed(site.folder, query)
    wanted = search.filter_from(opened)
    before = query.get("before", FIRST_PAGE)[:33]
    rows = spool.views.find(wanted, before=before, limit=PAGE + 1)
    kept = {name: value for name, value in query.items() if name in (*search.SEALED, *search.WORDS) and value}
    return {
        "rows": rows[:PAGE], "line": search.line_of(opened), "asked": kept,
        "said": {name: opened[meaning] for name, meaning in search.SEALED.items() if name in kept},
        "older": words.found(**kept, before=rows[PAGE - 1].id) if len(rows) > PAGE else "",
        "newest": words.found(**kept) if before != FIRST_PAGE else "",
        "destinations": sorted(site.node.settings().enabled),
        "choices": {"state": search.STATES, "class": (*CLASSES, UNCERTAIN), "since": SINCE},
    }  # fmt: skip
