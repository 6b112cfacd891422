"""What can be said of a request before anybody is known: where it comes from, and whether it is a trick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from router.config.settings import Networks, WebSettings

METHODS = ("GET", "HEAD", "POST")
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
"""A proxy that nobody declared adds one of these."""
_PLAIN = re.compile(rb"(?:[!$&-;=@A-Z_a-z~]|%(?!2[EF5]|5C|[01]|7F)[0-9A-F]{2})+", re.IGNORECASE)
"""Percent signs are good for spaces and letters; not for a dot, slash, backslash, percent sign or control character."""


class RefusedError(Exception):
    """This request is not answered: the status, and why."""

    def __init__(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers


@dataclass(frozen=True, slots=True)
class Arrival:
    """`peer`: who connected. `client`: the person's address, which a proxy has told. Both empty if unknown.

    `secure`: the person's browser speaks HTTPS. `is_local`: somebody on this machine, with no proxy between.
    """

    peer: str
    client: str
    secure: bool
    is_local: bool
    by_proxy: bool


def arrived(scope: Scope, headers: Headers, settings: WebSettings) -> Arrival:
    """Raises RefusedError where the request must not be answered, whoever sent it."""
    _check_path(scope)
    if scope["method"] not in METHODS:
        raise RefusedError(405, f"Use {', '.join(METHODS)}.", {"Allow": ", ".join(METHODS)})
    peer = scope["client"][0] if scope.get("client") else ""
    by_proxy = inside(peer, settings.proxies)
    if not by_proxy and settings.proxies and not settings.tls:
        raise RefusedError(403, "This page is shown through its proxy only.")
    if by_proxy and not settings.tls and headers.get("x-forwarded-proto", "https").lower() != "https":
        raise RefusedError(403, "The proxy must be asked by HTTPS.")
    only_loopback = settings.is_loopback and not settings.proxies
    if only_loopback and not _is_loopback_name(headers.get("host", "")):
        raise RefusedError(403, "This page is on the loopback address: open it as http://127.0.0.1 or localhost.")
    if only_loopback and any(name in headers for name in _FORWARDED):
        raise RefusedError(403, "A proxy has forwarded this. Declare it in web.behind_proxy of routing.yaml.")
    secure = settings.tls is not None or by_proxy
    _check_origin(scope, headers, secure=secure, by_proxy=by_proxy)
    client = _told(headers, settings.proxies) if by_proxy else peer
    return Arrival(peer, client or peer, secure, only_loopback and _is_loopback(peer), by_proxy)


def inside(address: str, networks: Networks) -> bool:
    found = _address(address)
    return found is not None and any(found in network for network in networks)


def raw_path(scope: Scope) -> bytes:
    """The path as it came, without the query."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.split(b"?", 1)[0]


def _check_path(scope: Scope) -> None:
    """No path that two programs could read in two ways."""
    path = str(scope["path"])
    parts = path.split("/")[1:]
    is_plain = path.startswith("/") and "\ufffd" not in path and _PLAIN.fullmatch(raw_path(scope))
    if not is_plain or "" in parts[:-1] or {".", ".."} & set(parts):
        raise RefusedError(400, "The address of this page is not written plainly.")


def _check_origin(scope: Scope, headers: Headers, *, secure: bool, by_proxy: bool) -> None:
    """Another site may lead here by a link, and do nothing else."""
    safe = scope["method"] != "POST"
    site = headers.get("sec-fetch-site")
    if site is not None:  # no script can write this header; browsers send it by HTTPS and to loopback addresses
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site not in ("same-origin", "none") and not (safe and is_link):
            raise RefusedError(403, "Another site has sent this.")
        return
    origin = headers.get("origin")
    if safe or origin is None:  # without an origin it is no browser, and the form's proof decides
        return
    host = headers.get("x-forwarded-host" if by_proxy and "x-forwarded-host" in headers else "host", "")
    if origin.lower() != f"{'https' if secure else 'http'}://{host}".lower():
        raise RefusedError(403, "Another site has sent this.")


def is_link_of_another_site(scope: Scope, headers: Headers) -> bool:
    """A browser then sends no cookie that is bound to this site (SameSite=Strict)."""
    return scope["method"] == "GET" and headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


def _is_loopback_name(host: str) -> bool:
    """Else a page of any site could let its own name lead here (DNS rebinding), and read along."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    found = _address(address)
    return found is not None and found.is_loopback


def _told(headers: Headers, proxies: Networks) -> str:
    """The last address in X-Forwarded-For that is no proxy's; what stands before it anybody may have written."""
    told = [part.strip() for line in headers.getlist("x-forwarded-for") for part in line.split(",")]
    others = [part for part in told if not inside(part, proxies)]
    return others[-1] if others and _address(others[-1]) else ""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found
