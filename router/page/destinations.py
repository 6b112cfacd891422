"""Destinations: how each is, why deliveries to it failed, and what a person can do: ask, pause, resume, test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.commands.echo import echo
from router.commands.pause_words import pause_end
from router.commands.test_image import ARRIVES_AS, PATIENCE, send_test
from router.config import Settings
from router.config.settings import DestinationSettings
from router.node.orders import NoteTest, OrderError, Pause, Resume
from router.page import search
from router.page.forms import FormError, field, fields
from router.page.site import Site
from router.spool import Spool
from router.web.access import Role, needs


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination last answered to a person's question."""

    what: str
    at: float
    trouble: str
    """Empty: all went well."""
    milliseconds: float
    who: str


class Answers:
    """The last answer of each destination. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, Answer] = {}

    def ask(self, what: str, name: str, who: str, question: Callable[[], str]) -> str:
        """Why there was no good answer; empty if there was."""
        began = time.perf_counter()
        trouble = question()
        took = 1000 * (time.perf_counter() - began)
        with self._lock:
            self._last[name] = Answer(what, time.time(), trouble, took, who)
        return trouble

    def all(self) -> dict[str, Answer]:
        with self._lock:
            return dict(self._last)


def routes(site: Site) -> Iterator[BaseRoute]:
    answers = Answers()

    @needs(Role.VIEW)
    async def destinations(request: Request) -> Response:
        return await site.show(request, "destinations.html.j2", lambda spool: _values(site, spool, answers))

    @needs(Role.OPERATE)
    async def pause(request: Request) -> Response:
        async def work() -> str:
            order = _pause(fields(request))
            await site.carry_out(request, order)
            return "paused-until" if order.until else "paused"

        return await site.order(request, work())

    @needs(Role.OPERATE)
    async def resume(request: Request) -> Response:
        async def work() -> str:
            await site.carry_out(request, Resume(field(fields(request), "destination")))
            return "resumed"

        return await site.order(request, work())

    @needs(Role.OPERATE)
    async def ask(request: Request) -> Response:
        async def work() -> str:
            settings, who = site.node.settings(), request.state.person.name
            to = _quick(settings, field(fields(request), "destination"))
            kind = "OPTIONS" if to.stow else "C-ECHO"
            await site.in_thread(lambda: answers.ask(kind, to.name, who, lambda: echo(settings, to)))
            return ""

        return await site.order(request, work())

    @needs(Role.OPERATE)
    async def test(request: Request) -> Response:
        async def work() -> str | Response:
            form = fields(request)
            settings, who = site.node.settings(), request.state.person.name
            to = _quick(settings, field(form, "destination"))
            if form.get("sure") != "yes":
                question = f"Send a synthetic X-ray to {to.name}? {ARRIVES_AS}"
                return site.sure(request, question, "Send it", {"destination": to.name})
            send = partial(send_test, settings, to)
            error = await site.in_thread(lambda: answers.ask("test image", to.name, who, send))
            await site.carry_out(request, NoteTest(to.name, error))
            return ""

        return await site.order(request, work())

    yield Route("/destinations", destinations)
    for name, endpoint in (("pause", pause), ("resume", resume), ("echo", ask), ("test", test)):
        yield Route(f"/destinations/{name}", endpoint, methods=["POST"])


def _values(site: Site, spool: Spool, answers: Answers) -> dict[str, Any]:
    settings, found = site.node.settings(), site.latest.look(spool).status
    causes = spool.overview.causes()
    return {
        "rows": [
            (one, settings.destinations.get(one.name),
             [(c, search.sealed_cause(site.folder, c.reason)) for c in causes if c.destination == one.name])
            for one in found.destinations
        ],
        "answers": answers.all(),
    }  # fmt: skip


def _pause(form: dict[str, str]) -> Pause:
    """Raises FormError for an end that cannot be understood."""
    try:
        return Pause(field(form, "destination"), pause_end(form.get("until", ""), time.time()))
    except ValueError as error:
        raise FormError(f"until: {error}") from None


def _quick(settings: Settings, name: str) -> DestinationSettings:
    """A destination, with short time limits: a person waits."""
    if name not in settings.destinations:
        raise OrderError(f"no destination {name[:64]}: use one of {', '.join(settings.destinations)}", 2)
    return replace(settings.destinations[name], connect_timeout=PATIENCE, response_timeout=PATIENCE)
