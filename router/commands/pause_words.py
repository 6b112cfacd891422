"""Until when a pause lasts, as people write it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from router.commands.find_words import UNITS

WORDS = "write a span (30m, 2h, 3d), a time of day (07:00), or a date and time (2026-11-01T08:30) that is still to come"
_SPAN = re.compile(r"([0-9]{1,6})([smhdw])")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


def pause_end(text: str, now: float) -> float:
    """Unix time; 0 for an empty text: no end. A time of day is the next one, in this machine's zone.

    Raises ValueError for any other text, and for a time that is over.
    """
    text = text.strip()
    if not text:
        return 0.0
    try:
        if span := _SPAN.fullmatch(text):
            end = now + int(span[1]) * UNITS[span[2]]
        elif clock := _CLOCK.fullmatch(text):
            end = _next(int(clock[1]), int(clock[2]), now)
        else:
            end = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(WORDS) from None
    if end <= now:
        raise ValueError(WORDS)
    return end


def _next(hour: int, minute: int, now: float) -> float:
    today = datetime.fromtimestamp(now).replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today.timestamp() if today.timestamp() > now else (today + timedelta(days=1)).timestamp()


def in_words(until: float) -> str:
    """` until 2026-11-01 08:30`, in this machine's zone; empty for 0."""
    return f" until {datetime.fromtimestamp(until):%Y-%m-%d %H:%M}" if until else ""
