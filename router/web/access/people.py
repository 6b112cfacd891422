"""Who asks, and what an endpoint needs of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response

from router.flow import Role
from router.web.access.pages import refused

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
MAY = {
    Role.VIEW: "to see this",
    Role.IMAGES: "to see images",
    Role.OPERATE: "to do this",
    Role.RULES: "to change rules or models",
    Role.ADMIN: "to administer the node",
}


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, by the name that the record keeps, and what they may do."""

    name: str
    roles: frozenset[Role]


def needs(role: Role) -> Callable[[Endpoint], Endpoint]:
    """Let an endpoint (a function of the request) answer only those with a role; others get a page with status 403."""

    def decorate(endpoint: Endpoint) -> Endpoint:
        @functools.wraps(endpoint)
        async def later(request: Request) -> Response:
            return _refusal(request, role) or await endpoint(request)

        @functools.wraps(endpoint)
        def at_once(request: Request) -> Response:
            return _refusal(request, role) or endpoint(request)

        checked: Any = later if inspect.iscoroutinefunction(endpoint) else at_once
        checked.needs = role
        return cast(Endpoint, checked)

    return decorate


def needed_by(endpoint: object) -> Role | None:
    """The role that an endpoint needs; None if it does not say."""
    return getattr(endpoint, "needs", None)


def _refusal(request: Request, role: Role) -> Response | None:
    person: Person = request.state.person
    return None if role in person.roles else lacking(person, role)


def lacking(person: Person, role: Role) -> Response:
    """The page for a person who has not the role."""
    return refused(403, f"{person.name} needs the role '{role}' {MAY[role]}. An administrator can give it.")


def csrf_of(request: Request) -> str:
    """What a form must send back as `csrf`, or a script as the header `X-CSRF-Token`."""
    return str(request.state.csrf)


def form_of(request: Request) -> dict[str, str]:
    """The fields of the form that was posted (application/x-www-form-urlencoded); of a repeated field the last value.

    Empty for another kind of body.
    """
    return {name: values[-1] for name, values in fields_of(request).items()}


def fields_of(request: Request) -> dict[str, list[str]]:
    """The same with every value of a repeated field."""
    return dict(request.state.form)
