"""What the browser keeps: the token of a session, or of a visit without one; and the proof that a form is ours."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from starlette.requests import Request

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
SESSION, VISIT = "dicom_router_session", "dicom_router_visit"
"""Names of cookies. A visit has no rights: its secret only ties forms to the browser that asked for them."""


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def token_in(request: Request, name: str, *, secure: bool) -> str:
    """The token of a cookie; empty if there is none."""
    token = request.cookies.get(_full(name, secure=secure), "")
    return token if _TOKEN.fullmatch(token) else ""


def kept_of(token: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest() if token else ""


def cookie(name: str, token: str, *, secure: bool) -> str:
    """A Set-Cookie header; an empty token takes the cookie away. It ends with the browser, and with the session."""
    words = [f"{_full(name, secure=secure)}={token}", "Path=/", "HttpOnly", "SameSite=Strict"]
    return "; ".join(words + ["Secure"] * secure + ["Max-Age=0"] * (not token))


def csrf(secret: str, who: str) -> str:
    """What a form of this session or visit carries."""
    return hmac.new(secret.encode(), f"csrf of {who}".encode(), hashlib.sha256).hexdigest()


def is_csrf(sent: str, secret: str, who: str) -> bool:
    return bool(secret) and hmac.compare_digest(sent.encode("utf-8", "replace"), csrf(secret, who).encode())


def _full(name: str, *, secure: bool) -> str:
    """With this beginning a browser takes a cookie only from this host itself, by HTTPS."""
    return f"__Host-{name}" if secure else name
