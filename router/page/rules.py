"""Rules: the table in force, how often each rule decided, and which never did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.decide.decision import OTHERWISE
from router.node.orders import Reload
from router.page.conditions import written
from router.page.forms import fields
from router.page.site import Site
from router.spool import Spool
from router.spool.overview import Hits
from router.web.access import Role, needs


@dataclass(frozen=True, slots=True)
class Line:
    """A rule of the table, as a person reads it."""

    name: str
    when: str
    send: tuple[str, ...]
    note: str
    hits: Hits


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def rules(request: Request) -> Response:
        return await site.show(request, "rules.html.j2", lambda spool: _values(site, spool))

    @needs(Role.RULES)
    async def reload(request: Request) -> Response:
        async def work() -> str:
            fields(request)
            await site.carry_out(request, Reload())
            return "reloaded"

        return await site.order(request, work())

    yield Route("/rules", rules)
    yield Route("/rules/reload", reload, methods=["POST"])


def _values(site: Site, spool: Spool) -> dict[str, Any]:
    settings = site.node.settings()
    table = settings.rules
    hits = spool.overview.hits([*(rule.name for rule in table.rules), OTHERWISE])
    lines = [
        Line(rule.name, written(rule.when), rule.send, _note(rule.shadow, rule.discard, rule.reason), hits[rule.name])
        for rule in table.rules
    ]
    lines.append(Line(OTHERWISE, "everything else", table.otherwise.send, "", hits[OTHERWISE]))
    reloads = spool.views.events(kind="reloaded", limit=5)
    applied = next((one for one in spool.rules.tables(table.digest) if one.applied_at), None)
    return {
        "applied": applied, "lines": lines, "digest": table.digest,
        "file": settings.file.name, "warnings": settings.warnings, "dry_run": settings.node.dry_run,
        "most": max([one.hits.week for one in lines], default=0), "reloads": list(reversed(reloads)),
    }  # fmt: skip


def _note(shadow: bool, discard: bool, reason: str) -> str:
    return "shadow: only recorded" if shadow else f"discards: {reason}" if discard else ""
