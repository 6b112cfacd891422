"""Notices: of what people are told, what goes on, and a silence for a while."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.config.settings import CONDITIONS
from router.node.orders import Silence
from router.page.forms import FormError, field, fields
from router.page.site import Site
from router.spool import Spool
from router.web.access import Role, needs

HOURS = {"1": "an hour", "4": "4 hours", "12": "12 hours", "48": "2 days"}
ALL = ""
"""As the condition of a silence."""
SHOWN = 20
"""Silences that were ordered lately."""


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def notices(request: Request) -> Response:
        return await site.show(request, "notices.html.j2", lambda spool: _values(site, spool))

    @needs(Role.OPERATE)
    async def silence(request: Request) -> Response:
        async def work() -> str:
            form = fields(request)
            condition, hours = field(form, "condition"), field(form, "hours")
            if hours not in ("0", *HOURS):
                raise FormError(f"hours: use one of {', '.join(HOURS)}")
            await site.carry_out(request, Silence(3600.0 * int(hours), condition))
            return "silenced" if hours != "0" else "told-again"

        return await site.order(request, work())

    yield Route("/notices", notices)
    yield Route("/notices/silence", silence, methods=["POST"])


def _values(site: Site, spool: Spool) -> dict[str, Any]:
    return {
        "current": spool.notices.current(), "silences": spool.notices.silences(), "conditions": CONDITIONS,
        "hours": HOURS, "told": len(site.node.settings().notify.to),
        "silenced": spool.views.events(kind="notifications silenced", limit=SHOWN)[::-1],
    }  # fmt: skip
