"""Attention: what was given up on, by its cause and not by its row, and what a person can do for all of a cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.node.orders import DecideAgain, Discard, Order, Retry
from router.page.forms import FormError, asked, field, fields
from router.page.site import Site
from router.spool import Spool
from router.web.access import Role, needs

AT_ONCE = 1000
"""Deliveries of an order."""
MOST = 5_000
"""Deliveries that one press of a button changes; beyond, it is pressed again."""
MOST_DECISIONS = 500
"""The same for new decisions: each instance is an order of its own."""
SHOWN = 5
"""Instances of a cause that are named."""


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def attention(request: Request) -> Response:
        only = asked(request).get("to", "")
        return await site.show(request, "attention.html.j2", lambda spool: _values(spool, only))

    def group_order(
        question: str, button: str, done: str, carry_out: Callable[[Spool, str, str, Callable[[Order], Any]], int]
    ) -> Callable[[Request], Any]:
        @needs(Role.OPERATE)
        async def ordered(request: Request) -> Response:
            async def work() -> str | Response:
                form = fields(request)
                to, reason = field(form, "destination"), field(form, "reason")
                if form.get("sure") != "yes":
                    text = question.format(n=form.get("n", "all"), to=to)
                    return site.sure(request, text, button, {"destination": to, "reason": reason})
                who = request.state.person.name
                changed = await site.read(
                    lambda spool: carry_out(spool, to, reason, lambda order: site.node.carry_out(order, who))
                )
                site.latest.forget()
                if not changed:
                    raise FormError("Nothing was changed: the deliveries have ended meanwhile.", 409)
                return done

            return await site.order(request, work())

        return ordered

    yield Route("/attention", attention)
    for name, endpoint in (
        ("retry", group_order("Try {n} deliveries to {to} again?", "Try again", "retried", _retry)),
        ("discard", group_order("Drop {n} deliveries to {to} for good?", "Drop them", "discarded", _discard)),
        ("decide-again", group_order(
            "Decide again for {n} instances given up on for {to}? What was given up on stays until you drop it.",
            "Decide again", "decided-again", _decide_again)),
    ):  # fmt: skip
        yield Route(f"/attention/{name}", endpoint, methods=["POST"])


def _values(spool: Spool, only: str) -> dict[str, Any]:
    causes = [one for one in spool.overview.causes() if only in ("", one.destination)]
    return {
        "causes": [(one, spool.overview.buried(one.destination, one.reason, limit=SHOWN)) for one in causes],
        "only": only, "n": sum(one.n for one in causes),
    }  # fmt: skip


def _pages(spool: Spool, to: str, reason: str, most: int) -> Iterator[list[tuple[int, str]]]:
    """The deliveries of a cause, each once, a page at a time."""
    after, left = 0, most
    while left > 0 and (page := spool.overview.buried(to, reason, after=after, limit=min(AT_ONCE, left))):
        yield page
        after, left = page[-1][0], left - len(page)


def _retry(spool: Spool, to: str, reason: str, carry_out: Callable[[Order], Any]) -> int:
    pages = _pages(spool, to, reason, MOST)
    return sum(int(carry_out(Retry(tuple(number for number, _ in page)))["changed"]) for page in pages)


def _discard(spool: Spool, to: str, reason: str, carry_out: Callable[[Order], Any]) -> int:
    pages = _pages(spool, to, reason, MOST)
    return sum(int(carry_out(Discard(tuple(number for number, _ in page)))["changed"]) for page in pages)


def _decide_again(spool: Spool, to: str, reason: str, carry_out: Callable[[Order], Any]) -> int:
    which = dict.fromkeys(i for page in _pages(spool, to, reason, MOST_DECISIONS) for _, i in page)
    for instance_id in which:
        carry_out(DecideAgain(instance_id))
    return len(which)
