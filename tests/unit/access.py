"""What the tests of access share: an application behind the gate, browsers that ask it, users."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

import httpx
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from router.config.settings import SignOn, WebSettings, WebTls
from router.flow import Role
from router.spool import Spool
from router.web.access import Access, csrf_of, form_of, needs, protected
from router.web.access.limits import Tries

PASSWORD = "several good words"
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
LOOPBACK = WebSettings()
PROXIED = WebSettings(address="0.0.0.0", behind_proxy=(ip_network("10.0.0.5"),))
SIGNED_ON = WebSettings(address="0.0.0.0", sign_on=SignOn("x-remote-user", (ip_network("10.0.0.5"),), "x-remote-roles"))
OWN_ROLES = WebSettings(address="0.0.0.0", sign_on=SignOn("x-remote-user", (ip_network("10.0.0.5"),)))


@needs(Role.VIEW)
async def see(request: Request) -> Response:
    return PlainTextResponse(f"{request.state.person.name} sees {request.url.path} {csrf_of(request)}")


@needs(Role.IMAGES)
def image(request: Request) -> Response:
    return PlainTextResponse("an image")


@needs(Role.OPERATE)
async def pause(request: Request) -> Response:
    body = await request.body()
    return PlainTextResponse(f"{request.state.person.name} pauses {form_of(request).get('to')} {len(body)}")


async def style(_: Request) -> Response:
    return Response("a {}", media_type="text/css", headers={"Cache-Control": "max-age=9"})


def example() -> Starlette:
    """The kind of application that the page is."""
    return Starlette(
        routes=[
            Mount("/static", routes=[Route("/page.css", style)]),
            Route("/image", image), Route("/pause", pause, methods=["POST"]), Route("/{path:path}", see),
        ]
    )  # fmt: skip


class Browser:
    """Keeps cookies, follows no redirects, and asks in its own way: each request in a loop of its own."""

    def __init__(self, app: Any, address: str, url: str, headers: dict[str, str]) -> None:
        self._app, self._address, self._url, self._headers = app, address, url, headers
        self.cookies = httpx.Cookies()

    def keep(self, name: str, value: str) -> None:
        """A cookie in place of the one that the site set."""
        self.cookies = httpx.Cookies()
        self.cookies.set(name, value, domain="127.0.0.1")

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=(self._address, 50000))
            client = httpx.AsyncClient(
                transport=transport, base_url=self._url, headers=self._headers, cookies=self.cookies
            )
            async with client:
                answer = await client.request(method, path, **more)
                self.cookies = client.cookies
                return answer

        return asyncio.run(ask())


@dataclass(frozen=True)
class Site:
    """The example behind the gate of a node."""

    app: Any
    access: Access

    def browser(self, address: str = "127.0.0.1", url: str = "http://127.0.0.1:8080", **headers: str) -> Browser:
        """Somebody who asks from an address."""
        plain = {name.replace("_", "-"): value for name, value in headers.items()}
        return Browser(self.app, address, url, plain)


def site(spool: Spool, settings: WebSettings = LOOPBACK, tries: Tries | None = None) -> Site:
    access = Access(settings, spool, Tries() if tries is None else tries)
    return Site(protected(example(), access), access)


def add_user(spool: Spool, name: str = "ann", *roles: Role, password: str | None = PASSWORD) -> None:
    spool.users.add(name, None if password is None else QUICK.hash(password), roles or (Role.VIEW,), "a test")


def csrf_in(text: str) -> str:
    found = re.search(r"\b[0-9a-f]{64}\b", text)
    assert found, text
    return found[0]


def log_in(browser: Browser, name: str = "ann", password: str = PASSWORD, onward: str = "/x") -> Any:
    """The answer to a login as a browser makes it: get the form, send it back."""
    form = csrf_in(browser.get("/login").text)
    return browser.post("/login", data={"csrf": form, "name": name, "password": password, "next": onward})


def over_tls(settings: WebSettings, tmp_path: Any) -> WebSettings:
    return replace(settings, tls=WebTls(tmp_path / "web.crt", tmp_path / "web.key"))
