"""The pages of access: log in, log out, refused; and the headers of every answer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import Message, Send

from router.templates import fill

FOLDER = Path(__file__).parent
STYLE = "/access.css"
"""The path of the style sheet of these pages, which is there before anybody has logged in."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: under that a browser posts a form without saying where it comes from.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
TITLES = {
    400: "This request cannot be read", 401: "Log in", 403: "Not allowed", 405: "Not allowed",
    404: "There is no such page", 413: "Too much at once", 429: "Too many tries", 500: "That did not work",
    503: "Try again",
}  # fmt: skip


def guarded(send: Send, *, may_be_kept: bool) -> Send:
    """A `send` that adds the headers. Only what everybody may see is kept by browsers, as the application says."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if not may_be_kept:
                headers["Cache-Control"] = "no-store"
        await send(message)

    return with_headers


def refused(status: int, why: str, headers: dict[str, str] | None = None) -> Response:
    """A page that says why a request is refused."""
    page = fill(FOLDER / "refused.html.j2", title=TITLES[status], why=why, style=STYLE)
    return HTMLResponse(page, status, headers)


def login_page(
    csrf: str, onward: str, why: str = "", status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """The form to log in, which then leads `onward`."""
    page = fill(FOLDER / "login.html.j2", csrf=csrf, onward=onward, why=why, style=STYLE)
    return HTMLResponse(page, status, headers)


def logout_page(csrf: str, name: str, *, has_session: bool) -> Response:
    """The question whether to log out."""
    return HTMLResponse(fill(FOLDER / "logout.html.j2", csrf=csrf, name=name, has_session=has_session, style=STYLE))


def once_more(onward: str) -> Response:
    """Opens the same page from here: a browser that follows a link of another site leaves the cookie at home."""
    return HTMLResponse(fill(FOLDER / "onward.html.j2", onward=onward, style=STYLE))


def style() -> Response:
    return Response(_style(), media_type="text/css", headers={"Cache-Control": "max-age=3600"})


@cache
def _style() -> bytes:
    return (FOLDER / "access.css").read_bytes()


def login_path(onward: str) -> str:
    return f"/login?next={quote(onward, safe='/')}"
