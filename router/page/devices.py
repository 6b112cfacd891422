"""Devices: by calling AE title, what its latest images were and where header and pixels went apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.commands.status import HOUR, silent_callers
from router.flow import CLASSES, UNCERTAIN
from router.page.conditions import asks
from router.page.site import Site
from router.spool import Spool
from router.spool.overview import LATEST
from router.web.access import Role, needs

MOST = 40
"""Senders that are looked at, those seen last."""
AGREES = "header_agrees"


def disagreeing(site: Site) -> tuple[str, ...]:
    """The rules in force that ask whether header and pixels agree."""
    return tuple(rule.name for rule in site.node.settings().rules.rules if asks(rule.when, AGREES))


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def devices(request: Request) -> Response:
        return await site.show(request, "devices.html.j2", lambda spool: _values(site, spool))

    yield Route("/devices", devices)


def _values(site: Site, spool: Spool) -> dict[str, Any]:
    lately = spool.views.activity(HOUR)
    senders = lately.senders[:MOST]
    apart = disagreeing(site)
    found = spool.overview.devices([one.calling_ae for one in senders], apart)
    return {
        "rows": [(sender, found[sender.calling_ae]) for sender in senders],
        "now": lately.now, "classes": (*CLASSES, UNCERTAIN), "apart": apart, "latest": LATEST,
        "silent": silent_callers(site.node.settings(), lately),
        "more": len(lately.senders) - len(senders),
    }  # fmt: skip
