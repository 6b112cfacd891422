"""Review: images of doubt, and those whose header and pixels went apart; a person's choice is kept as a label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.flow import CLASSES
from router.node.orders import Label
from router.page import words
from router.page.devices import disagreeing
from router.page.forms import asked, back_of, field, fields
from router.page.record import csv_of
from router.page.site import Site
from router.page.story import bars
from router.spool import Spool
from router.spool.find import FIRST_PAGE
from router.spool.overview import Labelled, ToReview
from router.web.access import Role, needs

KINDS = {"doubt": "The model is not sure", "disagreement": "Header and pixels disagree"}
COLUMNS = ("file", "label", "said", "who", "at")
"""`dicom-router adapt --labels` needs the first two: the blob of an instance has its id as name."""


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.IMAGES)
    async def review(request: Request) -> Response:
        query = asked(request)
        return await site.show(request, "review.html.j2", lambda spool: _values(site, spool, query))

    @needs(Role.OPERATE)
    async def label(request: Request) -> Response:
        async def work() -> str:
            form = fields(request)
            which = field(form, "instance")
            await site.carry_out(request, Label(which, field(form, "label")))
            if back_of(request).startswith("/review"):
                request.state.back = words.changed(back_of(request), last=which)
            return "labelled"

        return await site.order(request, work())

    @needs(Role.IMAGES)
    async def labels(request: Request) -> Response:
        return await site.answer(request, lambda spool: csv_of(COLUMNS, _lines(spool), "labels.csv"))

    yield Route("/review", review)
    yield Route("/review/label", label, methods=["POST"])
    yield Route("/review/labels.csv", labels)


def _values(site: Site, spool: Spool, query: dict[str, str]) -> dict[str, Any]:
    kind = query.get("kind", "doubt")
    kind = kind if kind in KINDS else "doubt"
    rules = disagreeing(site) if kind == "disagreement" else ()
    before = query.get("before", FIRST_PAGE)[:33]
    nothing_to_ask = kind == "disagreement" and not rules
    found = [] if nothing_to_ask else spool.overview.to_review(rules, before=before, limit=2)
    first = found[0] if found else None
    return {
        "kind": kind, "kinds": KINDS, "one": first, "next": found[1] if len(found) > 1 else None,
        "bars": _bars(site, first), "classes": CLASSES, "labels": len(spool.overview.labels()),
        "skip": words.address("/review", {"kind": kind, "before": first.id}) if first else "",
        "here": words.address("/review", {"kind": kind, "before": query.get("before", "")}),
        "last": query.get("last", "") if query.get("last", "").isalnum() else "",
        "again": words.address("/review", {"kind": kind}) if query.get("before") else "",
    }  # fmt: skip


def _bars(site: Site, one: ToReview | None) -> list[Any]:
    if one is None:
        return []
    try:
        probabilities = json.loads(one.probabilities or "null")
    except (ValueError, RecursionError):
        return []
    return bars(site.node.settings(), probabilities, one.model, one.top)


def _lines(spool: Spool) -> Iterator[tuple[Any, ...]]:
    for one in spool.overview.labels():
        detail = _detail(one)
        if detail.get("label") in CLASSES:
            said, who = detail.get("said") or "", detail.get("who") or ""
            yield one.instance_id, detail["label"], said, who, words.exact(one.at)


def _detail(one: Labelled) -> dict[str, Any]:
    try:
        found = json.loads(one.detail)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
