"""Text to values: durations, sizes, ports, names. Each raises WrongError with what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeVar
from urllib.parse import unquote, unquote_plus

from router.config.problems import nearest
from router.config.settings import ROLES

T = TypeVar("T")

_DURATIONS = {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) *([A-Za-z/]*)")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class WrongError(ValueError):
    """A value that cannot be: the message, and the fix as the second argument."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


def text(value: str) -> str:
    if not value.strip():
        raise WrongError("is empty", "write a value")
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise WrongError("contains a control character", "write it on one line")
    return value.strip()


def boolean(value: str) -> bool:
    answer = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(value.lower())
    if answer is None:
        raise WrongError(f"'{value}' is not true or false", "write true or false")
    return answer


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number in a range."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", value) or not least <= int(value) <= most:
            raise WrongError(f"'{value}' is not a whole number from {least} to {most}", f"write for instance {least}")
        return int(value)

    return parse


def port(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
        raise WrongError(f"'{value}' is not a port", "write a number from 1 to 65535; DICOM often uses 104 or 11112")
    return int(value)


def duration(value: str) -> float:
    """Seconds, from `500ms`, `2s`, `15min`, `24h` or `365d`."""
    number, unit = _quantity(value, "duration", "2s, 15min, 24h or 365d")
    if unit not in _DURATIONS:
        raise WrongError(f"'{value}' has no unit of time", f"write for instance {number}s; units are ms, s, min, h, d")
    seconds = float(number * _DURATIONS[unit])
    if not 0 < seconds <= 100 * 366 * 86400:
        raise WrongError(f"'{value}' is not a duration", "write a duration above 0 and of at most a hundred years")
    return seconds


def duration_or_zero(value: str) -> float:
    """The same, or 0 from `0s`."""
    return 0.0 if re.fullmatch(r"0 *[a-z]*", value.strip()) else duration(value)


def size(value: str) -> int:
    """Bytes, from `50 GB` (powers of ten) or `512 MiB` (powers of two)."""
    number, unit = _quantity(value, "size", "50 GB or 512 MiB")
    if unit not in _SIZES:
        raise WrongError(
            f"'{value}' has no unit of size", f"write for instance {number} GB; units are {', '.join(_SIZES)}"
        )
    found = int(number * _SIZES[unit])
    if not 0 < found < 2**63:
        raise WrongError(f"'{value}' is not a size", "write a size above 0 and below 8 EiB")
    return found


def rate(value: str) -> int:
    """Bytes per second, from `50 kB/s`."""
    number, unit = _quantity(value, "rate", "50 kB/s")
    if not unit.endswith("/s") or unit[:-2] not in _SIZES:
        raise WrongError(f"'{value}' has no unit of bytes per second", f"write for instance {number} kB/s")
    return size(f"{number} {unit[:-2]}")


def how_often(value: str) -> float:
    """Times in a second, from `60/min`."""
    number, _, unit = value.partition("/")
    seconds = _DURATIONS.get(unit.strip(), Decimal(0))
    if not number.strip().isdecimal() or not 0 < int(number) <= 10**6 or seconds < 1:
        raise WrongError(f"'{value}' is not a rate", "write for instance 60/min; units are s, min, h, d")
    return int(number) / float(seconds)


def _quantity(value: str, what: str, example: str) -> tuple[Decimal, str]:
    match = _QUANTITY.fullmatch(value.strip())
    if match is None:
        raise WrongError(f"'{value}' is not a {what}", f"write for instance {example}")
    return Decimal(match[1]), match[2]


def ae_title(value: str) -> str:
    """VR AE (PS3.5 §6.2): at most 16 characters of the default repertoire, no backslash, no control character."""
    title = value.strip()
    if not title:
        raise WrongError("an AE title is empty", "write 1 to 16 characters")
    if len(title) > 16:
        raise WrongError(f"the AE title '{title}' has {len(title)} characters", "at most 16 are allowed")
    if any(not 32 <= ord(c) < 127 or c == "\\" for c in title):
        raise WrongError(
            "an AE title contains a backslash, a control or a non-ASCII character", "use A-Z, 0-9, _ and -"
        )
    return title


def host(value: str) -> str:
    """An IP address or a host name (RFC 1123, underscores tolerated)."""
    name = value.strip()
    try:
        return str(ip_address(name.strip("[]")))
    except ValueError:
        pass
    if "://" in name or "/" in name:
        raise WrongError(f"'{value}' is not a host", "write only the name or address, without scheme or path")
    if re.fullmatch(r".+:[0-9]+", name):
        before, _, after = name.rpartition(":")
        raise WrongError(f"'{value}' is not a host", f"write host: {before} and port: {after}")
    labels = name.removesuffix(".").split(".")
    if not name or len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or re.fullmatch(r"[0-9.]+", name):
        raise WrongError(
            f"'{value}' is not a host", "write a name such as pacs.example.org, or an address such as 10.1.0.21"
        )
    return name


def address(value: str) -> str:
    """An address of this machine to listen on."""
    try:
        return str(ip_address(value.strip()))
    except ValueError:
        if value.strip() == "localhost":
            return "localhost"
        raise WrongError(f"'{value}' is not an address", "write 0.0.0.0 for every interface, or 127.0.0.1") from None


def network(value: str) -> IPv4Network | IPv6Network:
    """An address or a network such as 10.1.0.0/16."""
    try:
        return ip_network(value.strip())
    except ValueError:
        pass
    try:
        meant = f"write {ip_network(value.strip(), strict=False)}"
    except ValueError:
        meant = "write an address such as 10.1.0.21, or a network such as 10.1.0.0/16"
    raise WrongError(f"'{value}' is not a network", meant)


def proxy(value: str) -> IPv4Network | IPv6Network:
    """A network that does not contain everybody."""
    found = network(value)
    if found.prefixlen == 0:
        raise WrongError(f"'{value}' is every address", "write only the proxy's own address")
    return found


def header_name(value: str) -> str:
    """The name of an HTTP header (RFC 9110) that no browser sends by itself."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", value):
        raise WrongError(f"'{value}' is not the name of a header", "write for instance X-Remote-User")
    if value.lower() in ("host", "cookie", "origin", "referer", "user-agent", "accept", "authorization"):
        raise WrongError(f"a browser itself sends the header {value}", "write for instance X-Remote-User")
    return value.lower()


def one_of(*choices: str) -> Callable[[str], str]:
    """One word of a few."""

    def parse(value: str) -> str:
        if value not in choices:
            few = "use one of: " + ", ".join(choices)
            raise WrongError(f"'{value}' is not allowed", few if len(choices) <= 4 else nearest(value, choices))
        return value

    return parse


DATABASE_URL = re.compile(
    r"postgresql(?:\+psycopg)?://"
    r"(?:[^:@/?#\s]*(?::(?P<password>[^:@/?#\s]*))?@)?"
    r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"
    r"(?:/[^:@/?#\s]*)?(?:\?(?P<query>[^@?#\s]*))?"
)
"""A URL that can be read in one way only. In a password, characters that end a part of a URL must be percent-encoded.
Otherwise the rest of the password would be taken for the host, and shown in the error that the host is unknown."""


def database(value: str) -> str:
    """`sqlite`, or a PostgreSQL URL. The value may hold a password, so no message repeats it."""
    if value == "sqlite" or DATABASE_URL.fullmatch(value):
        return value
    if not re.match(r"postgresql(\+psycopg)?://", value):
        raise WrongError("is neither sqlite nor a PostgreSQL URL", "write sqlite, or postgresql://host/database")
    raise WrongError(
        "is not a PostgreSQL URL with exactly one meaning",
        "write postgresql://user:password@host:5432/database, and in the password %40 for @, %3A for :, %2F for /, "
        "%3F for ?, %23 for #, %25 for %",
    )


def hidden_password(text: str, database: str) -> str:
    """A text from the driver, with the password of the database's URL removed."""
    if not database.startswith("postgresql"):
        return text
    found = DATABASE_URL.fullmatch(database)
    if found is None:
        return "the driver's message is not shown, because it may contain a password"
    written = [found["password"] or "", *re.findall(r"(?:^|&)password=([^&]*)", found["query"] or "")]
    for password in (form for one in written for form in (one, unquote(one), unquote_plus(one)) if form):
        if len(password) < SHORT_PASSWORD and password in text:
            return "the driver's message is not shown, because it may contain the password"
        text = text.replace(password, "***")
    return text


SHORT_PASSWORD = 4
"""Characters. Shorter passwords occur in many words by chance."""


def roles(value: str) -> tuple[str, ...]:
    """What a node does: one word, or several with commas."""
    return in_order(one_of(*ROLES)(word.strip()) for word in value.split(","))


def in_order(some: Iterable[str]) -> tuple[str, ...]:
    """Roles without repetition, in the order of ROLES."""
    found = set(some)
    return tuple(role for role in ROLES if role in found)


def node_name(value: str) -> str:
    """The name stands in lists of nodes and in the log."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise WrongError(f"'{value}' cannot be the name of a node", "use letters, digits, '.', - and _")
    return value


def destination_name(value: str) -> str:
    """The name stands in rules, commands and metrics."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise WrongError(f"'{value}' cannot be the name of a destination", "use letters, digits, - and _")
    return value
