"""Who may see the page and act on it: whoever sits at this machine, as its local account may.

`protected(app, access)` wraps an application: every request then has `request.state.person`, and others are refused.
Each endpoint says with `@needs(Role.X)` what it takes. A form carries `csrf_of(request)` in a hidden field `csrf`;
`form_of(request)` gives the fields of a form that was posted.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.config.settings import WebSettings
from router.spool import Spool

Endpoint = Callable[[Request], Awaitable[Response]]
LONGEST_FORM = 1 << 18
"""Bytes."""
MOST_FIELDS = 1000


class Role(StrEnum):
    """What a person may do."""

    VIEW = "view"
    IMAGES = "images"
    OPERATE = "operate"
    RULES = "rules"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, by the name that the record keeps, and what they may do."""

    name: str
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class Access:
    """What the gate goes by."""

    settings: WebSettings
    spool: Spool


LOCAL = Person("local", frozenset(Role))


def csrf_of(request: Request) -> str:
    """What a form must send back as `csrf`."""
    return str(request.state.csrf)


def form_of(request: Request) -> dict[str, str]:
    """The fields of the form that was posted; of a repeated field the last value."""
    return dict(request.state.form)


def needs(role: Role) -> Callable[[Endpoint], Endpoint]:
    """Refuse a request of a person without this role."""

    def around(endpoint: Endpoint) -> Endpoint:
        @wraps(endpoint)
        async def checked(request: Request) -> Response:
            if role not in request.state.person.roles:
                return PlainTextResponse(f"this needs the role {role}", status_code=403)
            return await endpoint(request)

        return checked

    return around


def protected(app: ASGIApp, _access: Access) -> ASGIApp:
    """The application behind the gate."""
    return _Gate(app)


class RefusedError(Exception):
    """A request that does not pass the gate; between its parts."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class _Gate:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._csrf = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            _check(request)
            form = await self._form(request) if request.method == "POST" else {}
        except RefusedError as refusal:
            await PlainTextResponse(refusal.why, refusal.status)(scope, receive, send)
            return
        scope["state"] = scope.get("state", {}) | {"person": LOCAL, "csrf": self._csrf, "form": form}
        await self._app(scope, _nothing, send)

    async def _form(self, request: Request) -> dict[str, str]:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST_FORM:
                raise RefusedError(413, "the form is too long")
        try:
            form = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS))
        except ValueError:
            raise RefusedError(400, "the form cannot be read") from None
        if not hmac.compare_digest(form.pop("csrf", "").encode(), self._csrf.encode()):
            raise RefusedError(403, "this form is too old, or is not from here; open its page again")
        return form


async def _nothing() -> Message:
    """The body has been read."""
    return {"type": "http.request", "body": b"", "more_body": False}


def _check(request: Request) -> None:
    """Only this machine, by a name of its own: else a foreign site could let its name lead here, and read along."""
    host = request.headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not _is_loopback(request.client.host if request.client else "") or not (
        name == "localhost" or _is_loopback(name)
    ):
        raise RefusedError(403, "this page is for this machine only")
    origin = request.headers.get("origin")
    if request.method == "POST" and origin is not None and origin != f"http://{host}":
        raise RefusedError(403, "another site has sent this")


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
