"""Times of the week by the clock on the wall of a time zone: `18:00-07:00 Mon-Fri Europe/Berlin`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
WEEK = frozenset(range(len(DAYS)))
MINUTES = 24 * 60
"""The minutes of a day."""


@dataclass(frozen=True, slots=True)
class Hours:
    """From `begin` until `end`, in minutes since midnight, on each of `days` (0: Monday).

    If `end` is not later than `begin`, they end on the next day: those of Friday may end on Saturday. `zone` is an IANA
    time zone; None: this machine's.
    """

    written: str
    begin: int
    end: int
    days: frozenset[int] = WEEK
    zone: str | None = None

    def holds(self, at: float) -> bool:
        """Whether a Unix time lies in them."""
        local = self.local(at)
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        yesterday = (day - 1) % len(DAYS)
        return (day in self.days and minute >= self.begin) or (yesterday in self.days and minute < self.end)

    def next_begin(self, after: float) -> float:
        """The Unix time at which they begin next. Where the clock is put forward over it: at that moment."""
        today = self.local(after).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        for days in range(len(DAYS) + 2):
            day = today + timedelta(days=days)  # by the clock on the wall: a day may have 23 hours
            begin = day.replace(hour=self.begin // 60, minute=self.begin % 60).timestamp()
            if day.weekday() in self.days and begin > after:
                return begin
        raise AssertionError("a week has each day")

    def local(self, at: float) -> datetime:
        """What the clock on the wall says."""
        return datetime.fromtimestamp(at, ZoneInfo(self.zone)) if self.zone else datetime.fromtimestamp(at)
