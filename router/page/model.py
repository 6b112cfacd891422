"""Model: what serves, what shadows, and the way back to what served before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.flow import CLASSES
from router.model.doubt import read_limits
from router.model.files import shipped_model
from router.node.orders import RollBack
from router.page.forms import fields
from router.page.site import Site
from router.spool import SHADOW_PREDICTION, Spool
from router.web.access import Role, needs

PAIRS = 1000
"""The latest answers of the shadow that are compared."""


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def model(request: Request) -> Response:
        return await site.show(request, "model.html.j2", lambda spool: _values(site, spool))

    @needs(Role.RULES)
    async def rollback(request: Request) -> Response:
        async def work() -> str | Response:
            form = fields(request)
            if form.get("sure") != "yes":
                return site.sure(request, "Let the model serve that served before?", "Roll back", {})
            configured = str(site.node.view.model_report().get("configured", ""))
            await site.carry_out(request, RollBack(configured))
            return "rolled-back"

        return await site.order(request, work())

    yield Route("/model", model)
    yield Route("/model/rollback", rollback, methods=["POST"])


def _values(site: Site, spool: Spool) -> dict[str, Any]:
    report, settings = site.node.view.model_report(), site.node.settings()
    chosen = report.get("serving") or {}
    folder = settings.spool.path / "models" / str(chosen["name"]) if chosen else settings.model.path or shipped_model()
    pairs = [row.detail for row in spool.views.events(kind=SHADOW_PREDICTION, limit=PAIRS)]
    return {
        "report": report, "on": report.get("inference") or {}, "limits": read_limits(folder), "classes": CLASSES,
        "pairs": len(pairs), "agree": sum(_agrees(one) for one in pairs), "differences": _differences(pairs),
        "changes": [
            one for kind in ("model promoted", "model rolled back", "shadow changed")
            for one in spool.views.events(kind=kind, limit=5)
        ],
    }  # fmt: skip


def _shown(detail: Mapping[str, Any], role: str) -> str:
    found = detail.get(role)
    return str(found.get("class", "–")) if isinstance(found, dict) else "–"


def _agrees(detail: Mapping[str, Any]) -> bool:
    return _shown(detail, "served") == _shown(detail, "shadow")


def _differences(pairs: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """What served and what the shadow said, and how often, where they differ."""
    counts: dict[tuple[str, str], int] = {}
    for one in pairs:
        if not _agrees(one):
            said = _shown(one, "served"), _shown(one, "shadow")
            counts[said] = counts.get(said, 0) + 1
    return sorted(((*said, n) for said, n in counts.items()), key=lambda row: -row[2])
