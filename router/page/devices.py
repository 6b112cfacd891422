"""Devices: by calling AE title and station, what its latest images were and where header and pixels went apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.commands.devices import ENOUGH, MOST_SENDERS, Device, devices_of
from router.commands.status import HOUR, silent_callers
from router.config import Settings
from router.config.header_words import shipped_vocabulary
from router.flow import CLASSES
from router.page.conditions import asks
from router.page.site import Site
from router.spool import Spool
from router.spool.devices import MOST as MOST_LOOKED_AT
from router.web.access import Role, needs

FRESH = 60.0
"""Seconds for which all visitors see the same figures."""
AGREES = "header_agrees"


def disagreeing(site: Site) -> tuple[str, ...]:
    """The rules in force that ask whether header and pixels agree."""
    return tuple(rule.name for rule in site.node.settings().rules.rules if asks(rule.when, AGREES))


class Measured:
    """What was measured last, which visitors share; one measures, the others wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, Device] = {}
        self._at = -FRESH

    def look(self, spool: Spool, senders: Sequence[str], settings: Settings) -> dict[str, Device]:
        with self._lock:
            if time.monotonic() - self._at >= FRESH:
                words = settings.header_words or shipped_vocabulary()
                self._seen = devices_of(spool.overview.taken(senders), words)
                self._at = time.monotonic()
            return self._seen


def routes(site: Site) -> Iterator[BaseRoute]:
    measured = Measured()

    @needs(Role.VIEW)
    async def devices(request: Request) -> Response:
        return await site.show(request, "devices.html.j2", lambda spool: _values(site, spool, measured))

    yield Route("/devices", devices)


def _values(site: Site, spool: Spool, measured: Measured) -> dict[str, Any]:
    lately = spool.views.activity(HOUR)
    senders = lately.senders[:MOST_SENDERS]
    found = measured.look(spool, [one.calling_ae for one in senders], site.node.settings())
    return {
        "rows": [(sender, found.get(sender.calling_ae)) for sender in senders], "now": lately.now, "classes": CLASSES,
        "most": MOST_LOOKED_AT, "more": len(lately.senders) - len(senders), "enough": ENOUGH,
        "silent": silent_callers(site.node.settings(), lately),
    }  # fmt: skip
