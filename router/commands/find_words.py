"""The words that `find` and the page's search box understand, as a filter on instances."""

from __future__ import annotations

import re
from datetime import datetime
from ipaddress import ip_address

from router.spool.find import Filter, Result, State

SPANS = "write a span (90s, 30m, 2h, 3d, 1w) or a date (2026-11-01, 2026-11-01T08:30)"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"([0-9]{1,6})([smhdw])")


def moment(text: str, now: float) -> float | None:
    """Unix time of an ISO date or time (this machine's zone where it names none), or of a span before now.

    None for an empty text. Raises ValueError for any other.
    """
    if not text:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        return now - int(ago[1]) * UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(SPANS) from None


def filter_of(
    text: str = "", since: float | None = None, until: float | None = None, class_name: str = "", rule: str = "",
    to: str = "", caller: str = "", state: str = "", result: str = "",
) -> Filter:  # fmt: skip
    """`caller` is an AE title or an address. Raises ValueError for an unknown state or result."""
    is_address = _is_address(caller)
    return Filter(
        text=text, since=since, until=until, class_name=class_name, rule=rule, to=to,
        calling_ae="" if is_address else caller, peer=caller if is_address else "",
        state=State(state) if state else None, result=Result(result) if result else None,
    )  # fmt: skip


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
