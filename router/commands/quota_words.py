"""Whether a destination's `limit_rate` is what a delivery waits for, in words."""

from __future__ import annotations

from router.config.settings import DAY, HOUR, MINUTE, DestinationSettings
from router.spool import DestinationState
from router.spool.gathering import WAITS
from router.spool.rates import seconds_left

UNITS = ((MINUTE, "a minute"), (HOUR, "an hour"), (DAY, "a day"))


def waits_for_quota(
    destination: DestinationSettings | None, state: DestinationState | None, *, tries: int, reason: str | None
) -> str:
    """`waits for its quota: 60 in a minute` of an open delivery that nobody sends now; empty if it waits for something
    else, or for nothing."""
    if destination is None or state is None or destination.limit_rate is None:
        return ""
    if tries or reason == WAITS or state.paused or state.closed_until or state.circuit_until:
        return ""
    if seconds_left(state.quota_ahead, destination.limit_rate) <= 0:
        return ""
    return f"waits for its quota: {in_words(destination.limit_rate)}"


def in_words(rate: float) -> str:
    """`60 in a minute`. `rate`: so many in a second."""
    if rate >= 2 and abs(rate - round(rate)) < 1e-9:
        return f"{round(rate)} in a second"
    for seconds, unit in UNITS:
        count = rate * seconds
        if count >= 1 - 1e-9 and abs(count - round(count)) < 1e-6:
            return f"{round(count)} in {unit}"
    return f"{rate * DAY:.1f} in a day"
