"""Rules that a person wants to try: what they would have done with what came lately; and the order to apply them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from shlex import quote
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from router.config import ConfigError, Settings
from router.config.candidate import candidate
from router.decide.replay import Came, Change, replay
from router.node import settings_file
from router.node.orders import ApplyRules, OrderError
from router.node.rule_changes import LONGEST_COMMENT
from router.page import words
from router.page.forms import FormError, field, fields
from router.page.kept_rules import difference, in_yaml
from router.page.search import moment_of
from router.page.site import BusyError, Site
from router.spool import InstanceState, Spool
from router.web.access import Role, needs

LASTS = (500, 5000, 20_000)
"""How many of the latest instances can be tried."""
TRY_FOR = 3.0
"""Seconds in which they are; then it says how far it came."""
REST_AFTER, REST = 50, 0.002
"""Instances after which it rests, and seconds: the node receives and decides meanwhile, in the same process."""
ONE_AT_A_TIME = threading.Lock()
LINKS = 100
"""Instances of a change that are named."""
THUMBNAILS = 6
"""Pictures of a change that are shown, of the first MOST_CHANGES of them."""
MOST_CHANGES = 8
WORDS = ("", "24h", "7d", "30d")


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.RULES)
    async def form(request: Request) -> Response:
        return await site.show(request, "candidate.html.j2", lambda _: _form(site))

    @needs(Role.RULES)
    async def tried(request: Request) -> Response:
        form = fields(request)

        def values(spool: Spool) -> dict[str, Any]:
            if not ONE_AT_A_TIME.acquire(blocking=False):
                raise BusyError("somebody else is trying rules just now; press the button again in a moment")
            try:
                return _tried(site, spool, form)
            finally:
                ONE_AT_A_TIME.release()

        return await site.show(request, "candidate.html.j2", values)

    @needs(Role.RULES)
    async def applied(request: Request) -> Response:
        async def work() -> Response:
            form = fields(request)
            text = field(form, "text").replace("\r\n", "\n")
            await site.carry_out(request, ApplyRules(text, field(form, "comment"), field(form, "looked_at")))
            return RedirectResponse(words.address("/rules", {"done": "rules-applied"}), 303)

        return await site.order(request, work())

    yield Route("/rules/apply", applied, methods=["POST"])
    yield Route("/rules/candidate", form)
    yield Route("/rules/candidate", tried, methods=["POST"])


class InTime:
    """What came, as long as there is time; then `ended_early`."""

    def __init__(self, came: Iterable[Came], seconds: float) -> None:
        self._came, self._until = came, time.monotonic() + seconds
        self.ended_early = False

    def __iter__(self) -> Iterator[Came]:
        for count, one in enumerate(self._came, 1):
            yield one
            if count % REST_AFTER == 0:
                time.sleep(REST)
            if time.monotonic() > self._until:
                self.ended_early = True
                return


def _form(site: Site) -> dict[str, Any]:
    written = in_yaml(site.node.settings().rules.text)
    return {"text": written, "last": LASTS[1], "since": "", "lasts": LASTS, "sinces": WORDS, "found": None,
            "problems": (), "file": site.node.settings().file.name,
            "path": quote(str(site.node.settings().file))}  # fmt: skip


def _tried(site: Site, spool: Spool, form: dict[str, str]) -> dict[str, Any]:
    text, since, last = field(form, "text").replace("\r\n", "\n"), form.get("since", ""), form.get("last", "")
    if last not in map(str, LASTS):
        raise FormError(f"last: use one of {', '.join(map(str, LASTS))}")
    begin = moment_of("since", since)
    settings = site.node.settings()
    values = _form(site) | {"text": text, "last": int(last), "since": since}
    try:
        wanted = candidate(text, {name: to.enabled for name, to in settings.destinations.items()})
    except ConfigError as error:
        return values | {"problems": [(one.line, one.message, one.fix) for one in error.problems]}
    came = InTime(spool.rules.came(since=begin, last=int(last)), TRY_FOR)
    found = replay(wanted.table, came, wanted.enabled, LINKS)
    moved = [one for one in found.changes if one.moves]
    return values | {
        "found": found, "ended_early": came.ended_early, "warnings": wanted.warnings, "moved": moved,
        "renamed": [one for one in found.changes if not one.moves],
        "pictures": {place: _with_picture(spool, one) for place, one in enumerate(moved[:MOST_CHANGES])},
        "difference": difference(settings.rules.text, wanted.table.text),
        "same_table": wanted.table.digest == settings.rules.digest, "digest": wanted.table.digest,
        "looked_at": settings_file.fingerprint(settings.file), "obstacle": _obstacle(settings),
        "most_comment": LONGEST_COMMENT,
    }  # fmt: skip


def _obstacle(settings: Settings) -> str:
    """Why the node cannot write its file; empty where it can."""
    try:
        settings_file.must_be_writable(settings.file)
    except OrderError as error:
        return str(error)
    return ""


def _with_picture(spool: Spool, change: Change) -> list[str]:
    """Some instances of a change whose picture is still there."""
    found: list[str] = []
    for which in change.examples[: 3 * THUMBNAILS]:
        row = spool.views.instance(which)
        if row is not None and row.state is not InstanceState.GONE and row.pixels == "decoded":
            found.append(which)
    return found[:THUMBNAILS]
