"""Orders about one delivery: try it again, or drop it for good."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.node.orders import Discard, Retry
from router.page.forms import FormError, fields
from router.page.site import Site
from router.web.access import Role, needs


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.OPERATE)
    async def retry(request: Request) -> Response:
        async def work() -> str:
            number = _number(fields(request))
            _must_change(await site.carry_out(request, Retry((number,))))
            return "retried"

        return await site.order(request, work())

    @needs(Role.OPERATE)
    async def discard(request: Request) -> Response:
        async def work() -> str | Response:
            form = fields(request)
            number = _number(form)
            if form.get("sure") != "yes":
                return site.sure(
                    request, f"Discard the delivery to {form.get('destination', '')} for good?", "Discard it",
                    {"delivery": str(number)},
                )  # fmt: skip
            _must_change(await site.carry_out(request, Discard((number,))))
            return "discarded"

        return await site.order(request, work())

    yield Route("/deliveries/retry", retry, methods=["POST"])
    yield Route("/deliveries/discard", discard, methods=["POST"])


def _number(form: Mapping[str, str]) -> int:
    text = form.get("delivery", "")
    if not text.isdecimal() or len(text) > 18:
        raise FormError("the number of a delivery is missing")
    return int(text)


def _must_change(answer: Mapping[str, Any]) -> None:
    if not answer.get("changed"):
        raise FormError("Nothing was changed: the delivery has ended, or is being sent just now.", 409)
