"""What is told of what holds, and when: once that it began, seldom that it goes on, once that it is over. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from router.config.settings import MINUTE, Quiet
from router.notify.conditions import Trouble, span
from router.spool.notices import EVERYTHING, Notice

OVER_AFTER = 5 * MINUTE
"""What has not held for so long is over: what comes and goes is told once."""
SEEN_EVERY = MINUTE
"""Seconds after which it is noted again that something still holds."""
BEGAN, GOES_ON, IS_OVER, TEST = "began", "goes on", "is over", "test"


@dataclass(frozen=True, slots=True)
class Message:
    """What people are told."""

    event: str
    """`began`, `goes on`, `is over` or `test`."""
    condition: str
    about: str
    text: str
    at: float
    """Unix time in seconds."""
    since: float


def settle(
    notices: Sequence[Notice], found: Iterable[Trouble], origin: str, now: float, remind: float,
    held: Callable[[str], bool],
) -> tuple[list[Notice], list[Message]]:  # fmt: skip
    """The notices from now on, and what is told. Of a condition that is `held` nothing is told now, but later."""
    known = {one.key: one for one in notices}
    kept: list[Notice] = []
    messages: list[Message] = []
    for trouble in found:
        key = trouble.condition, trouble.about, origin if trouble.local else ""
        notice = known.pop(key, None) or Notice(*key, trouble.text, now, now, 0.0)
        if now - notice.seen_at >= SEEN_EVERY or not notice.told_at:
            notice = replace(notice, seen_at=now, text=trouble.text)
        is_new = not notice.told_at
        if not held(notice.condition) and (is_new or now - notice.told_at >= remind):
            messages.append(_message(BEGAN if is_new else GOES_ON, notice, now, trouble.text))
            notice = replace(notice, told_at=now, seen_at=now, text=trouble.text)
        kept.append(notice)
    for notice in known.values():
        if now - notice.seen_at < OVER_AFTER or (notice.told_at and held(notice.condition)):
            kept.append(notice)
        elif notice.told_at:
            lasted = f"{notice.text} (over after {span(max(0.0, notice.seen_at - notice.began_at))})"
            messages.append(_message(IS_OVER, notice, now, lasted))
    return kept, messages


def _message(event: str, notice: Notice, now: float, text: str) -> Message:
    return Message(event, notice.condition, notice.about, text, now, notice.began_at)


def holding(quiet: Quiet | None, silences: Mapping[str, float], now: float) -> Callable[[str], bool]:
    """Whether nothing is told of a condition now."""
    sleeps = quiet is not None and is_within(quiet, now)
    loud = quiet.but if quiet else ()

    def held(condition: str) -> bool:
        silent = max(silences.get(EVERYTHING, 0.0), silences.get(condition, 0.0)) > now
        return silent or (sleeps and condition not in loud)

    return held


def is_within(quiet: Quiet, at: float) -> bool:
    """Whether a Unix time is in the quiet hours, by the clock on the wall of their zone."""
    local = datetime.fromtimestamp(at, ZoneInfo(quiet.zone)) if quiet.zone else datetime.fromtimestamp(at)
    minute = 60 * local.hour + local.minute
    if quiet.begin <= quiet.end:
        return quiet.begin <= minute < quiet.end
    return minute >= quiet.begin or minute < quiet.end
