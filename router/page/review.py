"""Review: images of doubt, and those whose header and pixels went apart; a person's choice is kept as a label.

If the person wants, the image is also owed to where the rules send that class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.commands.send_class import destinations_if
from router.config import Settings
from router.flow import CLASSES
from router.node.orders import Label, SendAlso
from router.page import words
from router.page.devices import disagreeing
from router.page.forms import asked, back_of, field, fields
from router.page.record import csv_of
from router.page.repeats import Given, agreement, repeat_before
from router.page.site import Site
from router.page.story import bars
from router.spool import DeliveryState, Spool
from router.spool.find import FIRST_PAGE
from router.spool.overview import Labelled, ToReview
from router.web.access import Role, needs

KINDS = {"doubt": "The model is not sure", "disagreement": "Header and pixels disagree"}
COLUMNS = ("file", "label", "said", "who", "at")
"""`dicom-router adapt --labels` needs the first two: the blob of an instance has its id as name."""

THERE = (DeliveryState.OPEN, DeliveryState.BURIED, DeliveryState.DONE)
"""States of a delivery after which nothing is owed there once more."""


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.IMAGES)
    async def review(request: Request) -> Response:
        query, who = asked(request), request.state.person.name
        return await site.show(request, "review.html.j2", lambda spool: _values(site, spool, query, who))

    @needs(Role.OPERATE)
    async def label(request: Request) -> Response:
        async def work() -> str:
            form = fields(request)
            which = field(form, "instance")
            label, also = field(form, "label"), form.get("send") == "yes"
            await site.carry_out(request, Label(which, label))
            if back_of(request).startswith("/review"):
                request.state.back = words.changed(back_of(request), last=which, send="yes" if also else "")
            if not also:
                return "labelled"
            settings = site.node.settings()
            wanted = (await site.read(lambda spool: new_places(spool, which, settings))).get(label, ())
            for destination in wanted:
                await site.carry_out(request, SendAlso(which, destination))
            return "labelled-and-sent" if wanted else "labelled-not-sent"

        return await site.order(request, work())

    @needs(Role.IMAGES)
    async def labels(request: Request) -> Response:
        return await site.answer(request, lambda spool: csv_of(COLUMNS, _lines(spool), "labels.csv"))

    yield Route("/review", review)
    yield Route("/review/label", label, methods=["POST"])
    yield Route("/review/labels.csv", labels)


def _values(site: Site, spool: Spool, query: dict[str, str], who: str) -> dict[str, Any]:
    kind = query.get("kind", "doubt")
    kind = kind if kind in KINDS else "doubt"
    rules = disagreeing(site) if kind == "disagreement" else ()
    before = query.get("before", FIRST_PAGE)[:33]
    nothing_to_ask = kind == "disagreement" and not rules
    found = [] if nothing_to_ask else spool.overview.to_review(rules, before=before, limit=2)
    first, follows = (*found, None, None)[:2]
    given, sends = _given(spool), "yes" if query.get("send") == "yes" else ""
    shown = _repeat(spool, first, who, given) or first
    return {
        "kind": kind, "kinds": KINDS, "one": shown, "next": follows if shown is first else first,
        "bars": _bars(site, shown), "mine": agreement(given, who), "all": agreement(given),
        "places": new_places(spool, shown.id, site.node.settings()) if shown else {}, "send": sends,
        "classes": CLASSES, "labels": len(spool.overview.labels()),
        "skip": words.address("/review", {"kind": kind, "before": first.id, "send": sends}) if first else "",
        "here": words.address("/review", {"kind": kind, "before": query.get("before", ""), "send": sends}),
        "last": query.get("last", "") if query.get("last", "").isalnum() else "",
        "again": words.address("/review", {"kind": kind}) if query.get("before") else "",
    }  # fmt: skip


def _repeat(spool: Spool, first: ToReview | None, who: str, given: Sequence[Given]) -> ToReview | None:
    """What is shown in place of the first image once more."""
    again = repeat_before(first.id, who, given) if first else None
    return spool.overview.review_again(again) if again else None


def _given(spool: Spool) -> list[Given]:
    details = [(one.instance_id, _detail(one)) for one in spool.overview.given()]
    return [Given(str(said.get("who", "")), which, str(said.get("label", ""))) for which, said in details]


def new_places(spool: Spool, which: str, settings: Settings) -> dict[str, tuple[str, ...]]:
    """For each class: the destinations that the rules give it, and that this instance neither has nor is owed to."""
    came = spool.rules.came_one(which)
    if came is None:
        return {}
    deliveries = spool.views.deliveries(instance_id=which)
    there = {one.destination for one in deliveries if one.state in THERE}
    return {name: tuple(to for to in destinations_if(came, name, settings) if to not in there) for name in CLASSES}


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
