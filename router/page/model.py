"""Model: what serves, what shadows; the shadow can serve, and there is a way back to what served before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.flow import CLASSES
from router.model.doubt import read_limits
from router.model.files import shipped_model
from router.node.orders import OrderError, Promote, RollBack, SetShadow
from router.node.serving_models import store_of
from router.page import words
from router.page.forms import field, fields
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
            await site.carry_out(request, RollBack(_configured(site)))
            return "rolled-back"

        return await site.order(request, work())

    @needs(Role.RULES)
    async def promote(request: Request) -> Response:
        async def work() -> str | Response:
            form = fields(request)
            name = field(form, "model")
            pairs = await site.read(lambda spool: _pairs(spool, name))
            agree = words.share(sum(_agrees(one) for one in pairs), len(pairs))
            _must_shadow(site, name, pairs)
            if form.get("sure") != "yes":
                note = (f"It named the same class in {agree} of its latest {words.number(len(pairs))} answers. "
                        "No labelled images are tested here, as dicom-router model promote does.")  # fmt: skip
                return site.sure(request, f"Let {name} serve?", "Let it serve", {"model": name}, note)
            before = await site.in_thread(lambda: _served(site))
            tested = f"{len(pairs)} answers as shadow, {agree} the same"
            await site.carry_out(request, Promote(name, before, tested, _configured(site)))
            return "promoted"

        return await site.order(request, work())

    @needs(Role.RULES)
    async def shadow(request: Request) -> Response:
        async def work() -> str | Response:
            form = fields(request)
            name = form.get("model", "")
            if form.get("sure") != "yes":
                question, button = (f"Let {name} shadow?", "Let it shadow") if name else ("End the shadow?", "End it")
                note = "It costs processor time, and decides nothing." if name else (
                    "Its copy is removed, unless it served before.")  # fmt: skip
                return site.sure(request, question, button, {"model": name}, note)
            await site.carry_out(request, SetShadow(name or None, _configured(site)))
            return "shadow-set" if name else "shadow-ended"

        return await site.order(request, work())

    yield Route("/model", model)
    yield Route("/model/promote", promote, methods=["POST"])
    yield Route("/model/shadow", shadow, methods=["POST"])
    yield Route("/model/rollback", rollback, methods=["POST"])


def _values(site: Site, spool: Spool) -> dict[str, Any]:
    report, settings = site.node.view.model_report(), site.node.settings()
    chosen = report.get("serving") or {}
    folder = settings.spool.path / "models" / str(chosen["name"]) if chosen else settings.model.path or shipped_model()
    shadow = report.get("shadow") or {}
    pairs = _pairs(spool, str(shadow.get("name", "")))
    return {
        "report": report, "on": report.get("inference") or {}, "limits": read_limits(folder), "classes": CLASSES,
        "pairs": len(pairs), "agree": sum(_agrees(one) for one in pairs), "differences": _differences(pairs),
        "changes": [
            one for kind in ("model promoted", "model rolled back", "shadow changed")
            for one in spool.views.events(kind=kind, limit=5)
        ],
    }  # fmt: skip


def _configured(site: Site) -> str:
    return str(site.node.view.model_report().get("configured", ""))


def _must_shadow(site: Site, name: str, pairs: list[dict[str, Any]]) -> None:
    report = site.node.view.model_report()
    if name != (report.get("shadow") or {}).get("name"):
        raise OrderError("this model shadows no longer; look at Model again")
    if not pairs or not report.get("shadow_ready"):
        raise OrderError("the shadow has not answered yet: let it answer first")


def _served(site: Site) -> str:
    """The model that serves, as a copy in the spool's folder: for the way back."""
    chosen = site.node.view.model_report().get("serving")
    if chosen:
        return str(chosen["name"])
    path = site.node.settings().model.path
    return store_of(site.node.spool, path).keep(path or shipped_model())


def _pairs(spool: Spool, shadow: str) -> list[dict[str, Any]]:
    """The latest answers of this shadow, each with what served."""
    latest = [row.detail for row in spool.views.events(kind=SHADOW_PREDICTION, limit=PAIRS)]
    return [one for one in latest if shadow and (one.get("shadow") or {}).get("model") == shadow]


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
