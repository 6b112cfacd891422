"""Something is done with all of a search, or of a cause: it asks first, with counts; then a job works it off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from router.node.carrying_out import act_and_filter
from router.node.orders import CancelJob, Many
from router.page import search, words
from router.page.forms import FormError, field, fields
from router.page.site import Site
from router.spool import Act, Job, Spool
from router.spool.bulk_rows import UNDONE_BY_CANCEL, WORKING
from router.spool.find import Filter
from router.web.access import Role, needs

JOBS = 50
"""That a page lists."""
COUNT_FOR = 4.0
"""Seconds in which what a job would take is counted; then it is "more than" that."""
LONGEST_REASON = 200
ACTS = {
    Act.RETRY: ("Retry", "Retry {n} to {to}?"),
    Act.DISCARD: ("Discard", "Discard {n} to {to} for good?"),
    Act.MOVE: ("Move", "Move {n} from {to} to {new}?"),
    Act.RESEND: ("Resend", "Resend {n} to {to}?"),
    Act.DECIDE_AGAIN: ("Decide again", "Decide again for {n}?"),
}
NAMES = {"open": "waiting"}
_TIMES = ("since", "until")


@dataclass(frozen=True, slots=True)
class Shown:
    """A job as a person reads it."""

    job: Job
    what: str
    state: str
    works: bool
    part: float
    """Of 1: how far it is."""
    can_end: bool
    can_undo: bool


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.OPERATE)
    async def many(request: Request) -> Response:
        async def work() -> str | Response:
            form = fields(request)
            order = order_of(form | search.unsealed(site.folder, form))
            if form.get("sure") != "yes":
                kept = {name: value for name, value in form.items() if name != "sure"} | _fixed(order)
                return await site.show(request, "many.html.j2", lambda spool: _plan(spool, order) | {"kept": kept})
            number = (await site.carry_out(request, order))["job"]
            return RedirectResponse(words.address("/attention/jobs", {"done": "begun"}) + f"#job-{number}", 303)

        return await site.order(request, work())

    @needs(Role.VIEW)
    async def jobs(request: Request) -> Response:
        return await site.show(request, "jobs.html.j2", lambda spool: {"jobs": shown(spool, JOBS)})

    @needs(Role.OPERATE)
    async def cancel(request: Request) -> Response:
        async def work() -> str:
            number = field(fields(request), "job")
            if not number.isdecimal() or len(number) > 18:
                raise FormError("the number of a job is missing")
            await site.carry_out(request, CancelJob(int(number)))
            return "cancelled"

        return await site.order(request, work())

    yield Route("/many", many, methods=["POST"])
    yield Route("/attention/jobs", jobs)
    yield Route("/attention/jobs/cancel", cancel, methods=["POST"])


def order_of(form: Mapping[str, str]) -> Many:
    """The order of a form, which has the words of `find`, and a cause. Raises FormError."""
    act = form.get("act", "")
    if act not in ACTS:
        raise FormError(f"act: use one of {', '.join(ACTS)}")
    if not any(form.get(name) for name in (*search.SEALED.values(), *search.WORDS)):
        raise FormError("Say which instances: nothing is done with all that there are.")
    reason = form.get("why", "").strip()[:LONGEST_REASON]
    wanted: Filter = search.filter_from(form)
    return Many(
        act, form.get("new", "") if act == Act.MOVE else "", reason, wanted.text, wanted.since, wanted.until,
        wanted.class_name, wanted.rule, wanted.to, wanted.calling_ae, wanted.peer, str(wanted.state or ""),
        form.get("cause"),
    )  # fmt: skip


def _fixed(order: Many) -> dict[str, str]:
    """Times as they were when it was asked: `2h` must not mean something later when the person is sure."""
    return {name: words.moment(at) for name in _TIMES if (at := getattr(order, name)) is not None}


def _plan(spool: Spool, order: Many) -> dict[str, Any]:
    act, wanted = act_and_filter(order)
    plan, is_whole = spool.bulk.plan_within(act, wanted, COUNT_FOR)
    button, question = ACTS[act]
    one, several = ("instance", "instances") if act is Act.DECIDE_AGAIN else ("delivery", "deliveries")
    n = sum(part.n for part in plan)
    said = words.plural(n, one, several) if is_whole else f"more than {words.plural(n, one, several)}"
    to = order.to or "any destination"
    return {
        "nothing": is_whole and not n, "plan": plan, "is_whole": is_whole, "button": button,
        "names": NAMES, "act": str(act),
        "question": question.format(n=said, to=to, new=order.destination), "undone": act in UNDONE_BY_CANCEL,
    }  # fmt: skip


def shown(spool: Spool, limit: int) -> list[Shown]:
    """The latest jobs, the newest first."""
    return [_shown(one) for one in spool.bulk.jobs(limit=limit)]


def _shown(job: Job) -> Shown:
    wanted = job.filter
    parts = [f"from {wanted.to}" if job.act is Act.MOVE else f"to {wanted.to}" if wanted.to else ""]
    parts += [f"to {job.destination}" if job.destination else ""]
    parts += [f"{name} {value}" for name, value in (
        ("class", wanted.class_name), ("rule", wanted.rule), ("from", wanted.calling_ae or wanted.peer),
        ("state", wanted.state), ("since", wanted.since and words.clock(wanted.since)),
        ("until", wanted.until and words.clock(wanted.until)), ("cause:", wanted.cause),
    ) if value]  # fmt: skip
    parts += ["what one name finds"] if wanted.names is not None else []
    done, of = (job.undone, job.changed) if job.state == "undoing" else (job.chosen, job.total)
    works, undoes = job.state in WORKING, job.act in UNDONE_BY_CANCEL
    return Shown(
        job, ", ".join(part for part in parts if part), str(job.state), works, done / of if of else 0.0,
        can_end=job.state == "running" and not undoes,
        can_undo=undoes and (job.state == "running" or (job.state == "done" and job.changed > 0)),
    )  # fmt: skip
