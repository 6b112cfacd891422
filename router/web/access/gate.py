"""The gate: every request to the page passes here, and only those of a known person go on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from router.config.settings import WebSettings
from router.flow import Role
from router.observe import log, where
from router.spool import Spool, SpoolError
from router.web.access import pages
from router.web.access.arrival import Arrival, RefusedError, arrived, is_link_of_another_site, raw_path
from router.web.access.limits import Tries
from router.web.access.login import ONWARD, Login
from router.web.access.people import lacking, needed_by
from router.web.access.sessions import VISIT, cookie, is_csrf
from router.web.access.visitors import Visitor, Visitors
from router.web.access.wire import LONGEST_FORM, LONGEST_LOGIN, body_of, fields_in, with_body, with_cookie

STATIC = re.compile(r"/static(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+")
"""Style sheets, scripts and icons, which everybody may have."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the gate goes by."""

    settings: WebSettings
    spool: Spool
    tries: Tries = field(default_factory=Tries)


def protected(app: ASGIApp, access: Access) -> ASGIApp:
    """The application behind the gate. If the page is off, the log says why, once, and so does every answer.

    Raises ValueError if an endpoint of a Starlette application does not say what it needs.
    """
    if isinstance(app, Starlette) and (open_ones := list(_without_needs(app.routes))):
        raise ValueError(f"say with @needs what these take: {', '.join(open_ones)}")
    if why := access.settings.why_no_page:
        if access.settings.page is not False:
            log.warning("page is off", why=why)
        return _off(why)
    return Gate(app, access)


def _without_needs(routes: Iterable[BaseRoute]) -> Iterator[str]:
    for route in routes:
        if isinstance(route, Mount) and route.path != "/static":
            yield from _without_needs(route.routes)
        elif isinstance(route, Route) and needed_by(route.endpoint) is None:
            yield route.path


def _off(why: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = pages.refused(404, f"The page is off: {why}.")
        await answer(scope, receive, pages.guarded(send, may_be_kept=False))

    return app


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._settings = app, access.settings
        self._visitors = Visitors(access.settings, access.spool.users)
        self._door = Login(access.spool, self._visitors, access.tries)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        is_static = scope["method"] != "POST" and bool(STATIC.fullmatch(scope["path"]))
        is_style = scope["path"] == pages.STYLE
        send = pages.guarded(send, may_be_kept=is_static or is_style)
        answer: ASGIApp
        try:
            arrival = arrived(scope, request.headers, self._settings)
            answer = self._app if is_static else pages.style() if is_style else await self._answer(request, arrival)
        except RefusedError as refusal:
            answer = pages.refused(refusal.status, refusal.why, refusal.headers)
        except SpoolError as error:
            log.warning("page", reason=str(error))
            answer = pages.refused(503, "The node's database does not answer now.")
        except ClientDisconnect:
            return
        except Exception as error:  # what fails here must not end in silence
            log.error("page failed", error=where(error))
            answer = pages.refused(500, "The page failed. The log of the node says where.")
        await answer(scope, receive, send)

    async def _answer(self, request: Request, arrival: Arrival) -> ASGIApp:
        """What answers: a page of the gate's own, or the application."""
        visitor = await self._visitors.of(request, arrival)
        answer = await self._of(visitor, request, arrival)
        if visitor.has_new_secret:
            return with_cookie(answer, cookie(VISIT, visitor.secret, secure=arrival.secure))
        return answer

    async def _of(self, visitor: Visitor, request: Request, arrival: Arrival) -> ASGIApp:
        path, is_post = request.scope["path"], request.method == "POST"
        body = await body_of(request, LONGEST_FORM if visitor.person else LONGEST_LOGIN) if is_post else b""
        form = fields_in(request, body)
        if is_post and (visitor.person or path == "/login"):
            sent = request.headers.get("x-csrf-token") or form.get("csrf", [""])[-1]
            if not is_csrf(sent, visitor.secret, visitor.name):
                raise RefusedError(403, "This form is too old, or is not from here. Open its page again.")
        if path == "/login":
            return await self._door.login(visitor, request, arrival, form)
        if visitor.person is None:
            return _to_login(visitor, request)
        if path == "/logout":
            return await self._door.logout(visitor, request, arrival)
        if Role.VIEW not in visitor.person.roles:
            return lacking(visitor.person, Role.VIEW)
        state: dict[str, Any] = request.scope.setdefault("state", {})
        state.update(person=visitor.person, csrf=visitor.csrf, form=form)
        return with_body(self._app, body) if is_post else self._app


def _to_login(visitor: Visitor, request: Request) -> Response:
    """What somebody gets who is not known. Raises RefusedError."""
    if not visitor.any_users:
        why = "There are no users yet. Add one on the node: dicom-router user add NAME --role admin"
        raise RefusedError(403, why)
    if "hx-request" in request.headers:
        return Response(status_code=401, headers={"HX-Redirect": pages.login_path(_shown(request))})
    if request.method == "POST":
        raise RefusedError(403, "You are logged out. Log in, and do it again.")
    query = request.scope["query_string"].decode("ascii", "replace")
    onward = raw_path(request.scope).decode("ascii") + (f"?{query}" if query else "")
    if is_link_of_another_site(request.scope, request.headers) and ONWARD.fullmatch(onward):
        return pages.once_more(onward)
    return RedirectResponse(pages.login_path(onward), 303)


def _shown(request: Request) -> str:
    """The path of the page that a script of it asks from."""
    try:
        url = urlsplit(request.headers.get("hx-current-url", ""))
    except ValueError:  # no browser has written it
        return "/"
    return (url.path or "/") + (f"?{url.query}" if url.query else "")
