"""What a destination for STOW-RS has of its own: an address, and how the node identifies itself there.

Secrets have no place in the file. It says in which environment variable or in which file each of them is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from router.config import values
from router.config.document import Node
from router.config.fields import Context, Parser, Skip, as_table, fields, scalar
from router.config.secret_files import authorities, secret_file
from router.config.settings import ClientTls, HttpAuth, HttpProxy, Secret
from router.config.values import WrongError

EXAMPLE = "write for instance https://pacs.example.org/dicom-web/studies"
LONGEST_ADDRESS = 2000
PORTS = {"http": 80, "https": 443}
_TARGET = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
KINDS = "write one of: {bearer: …}, {user: …, password: …}, {token_url: …, client_id: …, client_secret: …}"
WHERE_SECRETS_ARE = "write {env: NAME} for an environment variable, or {file: path} for a file"


def web_address(value: str) -> str:
    """An address by http or https. Messages repeat none of it: somebody may have written a password into it."""
    try:
        parts = urlsplit(value.strip())
        host, _ = values.host(parts.hostname or ""), parts.port
    except (ValueError, WrongError):
        raise WrongError("is not an address of a web server", EXAMPLE) from None
    if parts.scheme not in PORTS or not host or parts.port == 0:
        raise WrongError("is not an address of a web server", EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise WrongError("has a user or a password in it", "write auth: {user: …, password: {env: NAME}} instead")
    target = parts.path + ("?" + parts.query if parts.query else "")
    if parts.fragment or not _TARGET.fullmatch(target) or len(value) > LONGEST_ADDRESS:
        raise WrongError("has characters that an address cannot have", EXAMPLE)
    return value.strip()


def proxy_address(value: str) -> HttpProxy:
    """`http://host:port`. Messages repeat none of it."""
    example = "write for instance http://proxy.example.org:3128"
    try:
        parts = urlsplit(value.strip())
        host, port = values.host(parts.hostname or ""), parts.port
    except (ValueError, WrongError):
        raise WrongError("is not the address of a proxy", example) from None
    if parts.username is not None or parts.password is not None:
        fix = "let the proxy know this node by its address: credentials for a proxy are not supported"
        raise WrongError("has a user or a password in it", fix)
    if parts.scheme != "http" or not host or not port or parts.path.strip("/") or parts.query or parts.fragment:
        raise WrongError("is not the address of a proxy, with its port", example)
    return HttpProxy(host, port)


def of_address(address: str) -> dict[str, Any]:
    """Host, port and TLS of an address, and no AE title, as far as the settings do not say otherwise."""
    parts = urlsplit(address)
    found: dict[str, Any] = {"ae_title": "", "host": values.host(parts.hostname or "")}
    found["port"] = parts.port or PORTS[parts.scheme]
    return found | ({"tls": ClientTls()} if parts.scheme == "https" else {})


def is_open_to_others(address: str) -> bool:
    """Whether the way there is unencrypted and leaves this machine."""
    parts = urlsplit(address)
    try:
        return parts.scheme == "http" and not ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.scheme == "http" and parts.hostname != "localhost"


def check_stow(where: str, node: Node, found: dict[str, Any], context: Context) -> None:
    """Refuse what contradicts the kind of a destination. Raises Skip."""
    there = as_table(where, node, context).entries
    if "stow" not in there:
        for name in ("auth", "allow_http", "proxy"):
            if name in there:
                context.wrong(there[name], f"{where}.{name} is only for a destination with stow", "remove it")
                raise Skip
        return
    if "stow" not in found or ("auth" in there and "auth" not in found) or ("tls" in there and "tls" not in found):
        raise Skip  # its mistake is reported already
    wrong: list[tuple[str, str, str]] = [
        (name, f"has stow, so its {name} is that of the address", f"remove {name}")
        for name in ("host", "port") if name in there
    ]  # fmt: skip
    if "calling_ae_title" in there:
        wrong.append(("calling_ae_title", "has stow, which has no calling AE title", "remove calling_ae_title"))
    if found.get("archive"):
        wrong.append(("archive", "has stow, which has no storage commitment", "remove archive"))
    if "tls" in there and found["stow"].startswith("http:"):
        wrong.append(("tls", "has tls and an address that begins with http:", "write https://"))
    auth: HttpAuth | None = found.get("auth")
    for name, address in (("stow", found["stow"]), ("auth", (auth and auth.token_url) or "")):
        leaves = is_open_to_others(address) or (address.startswith("http:") and "proxy" in found)
        if leaves and not found.get("allow_http"):
            fix = "write https://, or add allow_http: true where the network between is your own"
            wrong.append((name, f"{name} would send unencrypted", fix))
    for name, words, fix in wrong:
        context.wrong(there[name], f"{where} {words}", fix)
    if wrong:
        raise Skip


def _variable(value: str) -> str:
    if not _VARIABLE.fullmatch(value):
        raise WrongError("is not the name of an environment variable", WHERE_SECRETS_ARE)
    return value


def _secret(where: str, node: Node, context: Context) -> Secret:
    there = as_table(where, node, context).entries
    found = fields(where, node, {"env": scalar(_variable), "file": secret_file}, context)
    if len(there) != 1:
        context.wrong(node, f"{where} must say where the secret is", WHERE_SECRETS_ARE)
    if len(found) != 1 or len(there) != 1:
        raise Skip
    return Secret(**found)


def _printable(most: int, *, spaces: bool = False, but: str = "") -> Callable[[str], str]:
    def parse(value: str) -> str:
        allowed = all((" " if spaces else "!") <= one <= "~" and one not in but for one in value)
        if not value or len(value) > most or not allowed:
            raise WrongError("is empty, too long, or has characters that it cannot have", "use printable ASCII")
        return value

    return parse


_AUTH: dict[str, Parser] = {
    "bearer": _secret,
    "user": scalar(_printable(200, spaces=True, but=":")),
    "password": _secret,
    "token_url": scalar(web_address),
    "client_id": scalar(_printable(500, spaces=True)),
    "client_secret": _secret,
    "scope": scalar(_printable(2000, spaces=True)),
    "ca": authorities,
}
_TOGETHER = ({"bearer"}, {"user", "password"}, {"token_url", "client_id", "client_secret"})


def http_auth(where: str, node: Node, context: Context) -> HttpAuth:
    """A parser of `auth`: one of its kinds, whole."""
    there = set(as_table(where, node, context).entries)
    found = fields(where, node, _AUTH, context)
    oauth = _TOGETHER[-1] <= there
    if there - ({"scope", "ca"} if oauth else set()) not in _TOGETHER:
        context.wrong(node, f"{where} is not whole, or is of several kinds", KINDS)
        raise Skip
    if set(found) != there:
        raise Skip
    return HttpAuth(**found)
