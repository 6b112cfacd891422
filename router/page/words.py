"""How pages write times, spans, numbers and addresses. Templates get this module as `words`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from router.commands.status import span
from router.config.settings import GB, MIB
from router.spool.states import in_words

DAY = 86400.0


def ago(at: float | None, now: float | None = None) -> str:
    """How long ago a Unix time was."""
    return "never" if not at else f"{span(max(0.0, (now or time.time()) - at))} ago"


def clock(at: float | None) -> str:
    """A Unix time in this machine's zone: without the date where it is today."""
    if not at:
        return "–"
    then, today = datetime.fromtimestamp(at).astimezone(), datetime.now().astimezone()
    return f"{then:%H:%M:%S}" if then.date() == today.date() else f"{then:%Y-%m-%d %H:%M}"


def exact(at: float | None) -> str:
    """A Unix time with its zone, as ISO 8601."""
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds") if at else ""


def lasting(seconds: float | None) -> str:
    return "–" if seconds is None else span(seconds)


def number(n: float) -> str:
    return f"{n:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def plural(n: int, one: str, many: str = "") -> str:
    """`3 instances`."""
    return f"{number(n)} {one if n == 1 else many or one + 's'}"


def size(n: float) -> str:
    """Bytes."""
    return f"{n / GB:.1f} GB" if n >= GB else f"{n / MIB:.1f} MiB" if n >= MIB else f"{n / 1024:.0f} KiB"


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def found(**wanted: Any) -> str:
    """The address of the instances with these words of `find`."""
    return address("/instances", wanted)


def address(path: str, query: Mapping[str, Any]) -> str:
    """A path with those values that are not empty."""
    pairs = {name.rstrip("_"): str(value) for name, value in query.items() if value not in ("", None)}
    return f"{path}?{urlencode(pairs)}" if pairs else path


def changed(href: str, **changes: Any) -> str:
    """An address with other values in its query; empty ones go."""
    parts = urlsplit(href)
    query = dict(parse_qsl(parts.query)) | {name.rstrip("_"): value for name, value in changes.items()}
    return address(parts.path, query)


def moment(at: float) -> str:
    """A Unix time as an address has it: `find` understands it."""
    return datetime.fromtimestamp(at).isoformat(timespec="seconds")


def from_nanosecond(at: int) -> str:
    """A moment in nanoseconds as `find` understands it: the microsecond before it, which leaves nothing out."""
    return datetime.fromtimestamp((at - 1000) / 1e9).astimezone().isoformat(timespec="microseconds")


def bar(value: float, most: float, length: float = 100.0) -> str:
    """The length of a bar, for SVG."""
    return f"{length * min(1.0, max(0.0, value / most)) if most else 0.0:.2f}"


def delivery(state: str, reason: str | None) -> str:
    """The state of a delivery."""
    return in_words(state, reason)


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "nowhere"
