"""Who asks a page, and what they may do: without users, whoever sits at this machine, as its local account may."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class Role(Enum):
    """What a person may do."""

    VIEW = "view"
    IMAGES = "see images"
    OPERATE = "operate"
    RULES = "change rules"
    ADMIN = "administer"


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks."""

    name: str
    roles: frozenset[Role]


LOCAL = Person("local", frozenset(Role))
NAMES = ("localhost", "127.0.0.1", "[::1]")
"""How a browser on this machine calls it: any other name is a foreign site's that leads here."""


def person_of(request: Request) -> Person:
    found = request.state.person
    assert isinstance(found, Person)
    return found


def needs(role: Role) -> Callable[[Endpoint], Endpoint]:
    """Refuse a request of a person without this role."""

    def around(endpoint: Endpoint) -> Endpoint:
        @wraps(endpoint)
        async def checked(request: Request) -> Response:
            if role not in person_of(request).roles:
                return PlainTextResponse(f"you may not {role.value} here", status_code=403)
            return await endpoint(request)

        return checked

    return around


def is_genuine(request: Request, token: str) -> bool:
    """Whether a form that was posted is one that this page gave out."""
    return hmac.compare_digest(token.encode(), str(request.state.csrf).encode())


class Access:
    """Names the person of each request in `request.state`, or refuses it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._csrf = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refused = _refused(Request(scope))
            if refused:
                await PlainTextResponse(refused, status_code=403)(scope, receive, send)
                return
            scope["state"] = scope.get("state", {}) | {"person": LOCAL, "csrf": self._csrf}
        await self._app(scope, receive, send)


def _refused(request: Request) -> str:
    """Why a request is refused; empty if it is not."""
    peer = request.client.host if request.client else ""
    name = request.headers.get("host", "").rsplit(":", 1)[0] if "]" not in request.headers.get("host", "") else "[::1]"
    if not _is_loopback(peer) or name not in NAMES:
        return "this page is for this machine only"
    if request.method not in ("GET", "HEAD"):
        origin = request.headers.get("origin")
        if origin is not None and origin.split("://")[-1] != request.headers.get("host"):
            return "this order comes from another site"
    return ""


def _is_loopback(peer: str) -> bool:
    try:
        return ip_address(peer).is_loopback
    except ValueError:
        return False
