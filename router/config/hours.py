"""`18:00-07:00 Mon-Fri Europe/Berlin` to `Hours`."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

from router.config.values import WrongError
from router.decide.hours import DAYS, MINUTES, WEEK, Hours

_WRITTEN = re.compile(
    r"([0-9]{1,2}):([0-9]{2}) *- *([0-9]{1,2}):([0-9]{2})((?: +[A-Z][a-z]{2}(?:[-,] ?[A-Z][a-z]{2})*)?)((?: +\S+)?)"
)
EXAMPLE = 'write for instance "18:00-07:00 Mon-Fri", or "08:00-18:00 Mon-Fri,Sun Europe/Berlin"'


def hours(value: str) -> Hours:
    """Times of day, then days (left out: every day), then an IANA time zone (left out: this machine's)."""
    found = _WRITTEN.fullmatch(value.strip())
    if found is None:
        raise WrongError(f"'{value}' are no hours", EXAMPLE)
    begin, end = (_minute(value, *found.group(at, at + 1)) for at in (1, 3))
    if begin == MINUTES:
        raise WrongError(f"'{value}' begins at 24:00", "write 00:00")
    return Hours(value.strip(), begin, end, _days(value, found[5].strip()), _zone(found[6].strip()))


def _minute(value: str, hour: str, minute: str) -> int:
    at = 60 * int(hour) + int(minute)
    if int(minute) > 59 or at > MINUTES:
        raise WrongError(f"'{value}': {hour}:{minute} is not a time of day", EXAMPLE)
    return at


def _days(value: str, written: str) -> frozenset[int]:
    days: set[int] = set()
    for part in written.split(",") if written else ():
        first, _, last = part.strip().partition("-")
        for name in (first, last or first):
            if name not in DAYS:
                raise WrongError(f"'{value}': '{name}' is not a day", f"use {', '.join(DAYS)}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days |= {day % len(DAYS) for day in range(begin, end + 1 if end >= begin else end + 1 + len(DAYS))}
    return frozenset(days) if written else WEEK


def _zone(written: str) -> str | None:
    if not written:
        return None
    try:
        return ZoneInfo(written).key
    except (ValueError, OSError, LookupError):
        raise WrongError(f"'{written}' is not a time zone", "write for instance Europe/Berlin") from None
