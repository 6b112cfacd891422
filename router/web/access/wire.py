"""Reading a request's body within bounds, and giving an application what the gate has read or added."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.web.access.arrival import RefusedError

LONGEST_FORM, LONGEST_LOGIN = 1 << 20, 1 << 13
"""Bytes of a request's body: of a known person, and to log in."""
MOST_FIELDS = 10_000
FORM = "application/x-www-form-urlencoded"


async def body_of(request: Request, most: int) -> bytes:
    """Raises RefusedError where it is longer than `most` bytes."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise RefusedError(413, f"A request has at most {most} bytes.")
    return bytes(body)


def fields_in(request: Request, body: bytes) -> dict[str, list[str]]:
    """The fields; none where the body is not a form. Raises RefusedError for more than MOST_FIELDS."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM:
        return {}
    try:
        return parse_qs(body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise RefusedError(413, f"A form has at most {MOST_FIELDS} fields.") from error


def with_body(app: ASGIApp, body: bytes) -> ASGIApp:
    """The application, which can read again what the gate has read."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        await app(scope, again, send)

    return answer


def with_cookie(app: ASGIApp, line: str) -> ASGIApp:
    """The application, whose answer also has this Set-Cookie header."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def added(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"set-cookie", line.encode())]
            await send(message)

        await app(scope, receive, added)

    return answer
