"""The story of one instance: its picture, what was seen, why it went where it went, and what a person can do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from router.commands.limits import limits_for
from router.commands.quota_words import waits_for_quota
from router.config import Settings
from router.flow import CLASSES, Instance
from router.node.orders import DecideAgain, EndStudy, SendAlso
from router.page.events import said
from router.page.forms import FormError, field, fields
from router.page.pictures import NoPictureError
from router.page.site import BusyError, Site
from router.page.viewed import Viewed
from router.page.why import MARKS, why
from router.spool import DeliveryState, EventRow, InstanceRow, InstanceState, Spool, SpoolError
from router.spool.gathering import WAITS
from router.spool.matching import ALONE, REFERENCE, STUDY
from router.spool.orders import LABELLED
from router.spool.rows import instance_of
from router.web.access import Role, needs

MOST = 200
"""Deliveries, and events, that a story shows."""
NO_PICTURE = {
    "none": "It has no pixels",
    "undecodable": "Its pixels cannot be decoded",
    "unparseable": "Its data set cannot be read",
    "failed": "The model could not answer",
}

HOW = {
    REFERENCE: "it refers to this instance",
    STUDY: "it is of this study",
    ALONE: "it refers to this instance, though it comes from another AE title",
}
"""How it is known what a result answers."""


@dataclass(frozen=True, slots=True)
class Bar:
    """How probable a class is, and from where on the model names it."""

    name: str
    probability: float
    threshold: float | None
    is_top: bool


def routes(site: Site) -> Iterator[BaseRoute]:
    viewed = Viewed(site.node)

    @needs(Role.VIEW)
    async def story(request: Request) -> Response:
        which = request.path_params["which"]
        return await site.show(request, "story.html.j2", lambda spool: _values(site, spool, which))

    @needs(Role.IMAGES)
    async def picture(request: Request) -> Response:
        which, who = request.path_params["which"], request.state.person.name
        try:
            one = instance_of(await site.read(lambda spool: _row(spool, which)))
            content = await _picture(site, who, one)
        except (NoPictureError, FormError) as error:
            return PlainTextResponse(str(error), status_code=404)
        except (SpoolError, BusyError) as error:
            return PlainTextResponse(str(error), status_code=503)
        viewed.note(who, which)
        return Response(content, media_type="image/png")

    @needs(Role.OPERATE)
    async def decide_again(request: Request) -> Response:
        async def work() -> str:
            fields(request)
            await site.carry_out(request, DecideAgain(request.path_params["which"]))
            return "decided-again"

        return await site.order(request, work())

    @needs(Role.OPERATE)
    async def send_also(request: Request) -> Response:
        async def work() -> str:
            form = fields(request)
            study = form.get("study") == "yes"
            await site.carry_out(request, SendAlso(request.path_params["which"], field(form, "destination"), study))
            return "study-sent" if study else "sent-also"

        return await site.order(request, work())

    @needs(Role.OPERATE)
    async def end_study(request: Request) -> Response:
        async def work() -> str:
            destination = field(fields(request), "destination")
            await site.carry_out(request, EndStudy(request.path_params["which"], destination))
            return "study-ended"

        return await site.order(request, work())

    yield Route("/instances/{which}", story)
    yield Route("/instances/{which}/picture.png", picture)
    yield Route("/instances/{which}/decide-again", decide_again, methods=["POST"])
    yield Route("/instances/{which}/send-also", send_also, methods=["POST"])
    yield Route("/instances/{which}/end-study", end_study, methods=["POST"])


async def _picture(site: Site, who: str, one: Instance) -> bytes:
    """Raises NoPictureError, SpoolError."""
    spool = site.node.spool
    here = await asyncio.wrap_future(spool.bring(one))
    try:
        return await site.pictures.png(who, one.id, spool.blob(one.id))
    finally:
        if here:
            spool.let_go(one)


def _row(spool: Spool, which: str) -> InstanceRow:
    row = spool.views.instance(which) if which.isalnum() and which.isascii() and len(which) == 32 else None
    if row is None:
        raise FormError("There is no such instance. Its record may have been removed after its time.", 404)
    return row


def _values(site: Site, spool: Spool, which: str) -> dict[str, Any]:
    row, settings = _row(spool, which), site.node.settings()
    deliveries = spool.views.deliveries(instance_id=row.id, limit=MOST)
    events = spool.views.events(instance_id=row.id, limit=MOST)
    owed = {one.destination for one in deliveries if one.state in (DeliveryState.OPEN, DeliveryState.BURIED)}
    states = spool.destinations.states()
    quotas = {
        one.id: waits_for_quota(
            settings.destinations.get(one.destination), states.get(one.destination), tries=one.tries, reason=one.reason
        )
        for one in deliveries
    }
    return {
        "quotas": quotas,
        "row": row, "deliveries": deliveries, "bars": bars(settings, row.probabilities, row.model, row.top),
        "events": [(one, said(one.kind, one.destination, one.detail)) for one in events],
        "facts": row.facts if isinstance(row.facts, dict) else {}, "why": _why(settings, row),
        "explained": why(spool, row.id, settings), "marks": MARKS,
        "has_blob": row.state is not InstanceState.GONE, "no_picture": NO_PICTURE.get(row.pixels or "", ""),
        "others": [name for name, to in settings.destinations.items() if to.enabled and name not in owed],
        "study_follows": spool.views.follows_to(row.study) if row.study else [],
        "gathers": WAITS, "enabled": sorted(settings.enabled),
        "results": spool.results.answering(row.id), "result_of": spool.results.answered_by(row.id), "how": HOW,
        "classes": CLASSES, "label": _label(events), "states": states,
        "sop_class": _name_of(row.sop_class),
        "syntax": _name_of(row.transfer_syntax), "table_is_old": bool(row.table and row.table != settings.rules.digest),
    }  # fmt: skip


def bars(settings: Settings, probabilities: Any, model: str | None, top: str | None) -> list[Bar]:
    """One for each class, in the order of CLASSES."""
    if not isinstance(probabilities, list) or len(probabilities) != len(CLASSES):
        return []
    limits = limits_for(settings, model)
    thresholds = limits.thresholds if limits else {}
    return [
        Bar(name, float(probability), thresholds.get(name), name == top)
        for name, probability in zip(CLASSES, probabilities, strict=True)
    ]


def _label(events: Sequence[EventRow]) -> str:
    """What a person said last that it shows; empty if nobody did."""
    return next((str(one.detail.get("label", "")) for one in reversed(events) if one.kind == LABELLED), "")


def _why(settings: Settings, row: InstanceRow) -> str:
    """Why its class is uncertain; empty if it is not."""
    if row.class_name != "uncertain" or row.top is None or row.confidence is None:
        return ""
    limits = limits_for(settings, row.model)
    return limits.why(row.top, row.confidence, novel=bool(row.novel)) if limits else ""


def _name_of(uid: str) -> str:
    """A UID's name in the standard, else the UID."""
    from pydicom.uid import UID

    return str(UID(uid).name)
