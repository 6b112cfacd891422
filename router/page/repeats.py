"""Hidden repeats: now and then Review shows an image that the same person has labelled, and does not say so. Pure.

Which image is repeated follows from ids alone. So a reload shows the same, and an answered repeat does not come back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

ONE_IN = 20
"""Of so many images one is preceded by a repeat."""
RECENT = 10
"""Other images that must have been labelled since, so that no one remembers; and so a correction is no repeat."""


@dataclass(frozen=True, slots=True)
class Given:
    """A label that a person gave."""

    who: str
    instance_id: str
    label: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many of `n` images that one person labelled twice got the same label again."""

    same: int
    n: int


def repeat_before(instance_id: str, who: str, given: Sequence[Given]) -> str | None:
    """The instance to show before this one once more; None for nearly all. `given` is in order of time."""
    if _number(instance_id) % ONE_IN:
        return None
    mine = [one.instance_id for one in given if one.who == who]
    firsts = list(dict.fromkeys(mine))[:-RECENT]
    if not firsts:
        return None
    chosen = min(firsts, key=lambda one: _number(instance_id + one))
    return chosen if mine.count(chosen) == 1 else None


def agreement(given: Sequence[Given], who: str | None = None) -> Agreement:
    """Of one person, or of all: each label against the one that the same person gave the same image before.

    It counts only where at least RECENT other labels of that person lie between the two.
    """
    last: dict[tuple[str, str], tuple[int, str]] = {}
    counts: dict[str, int] = {}
    same = n = 0
    for one in given:
        place = counts[one.who] = counts.get(one.who, 0) + 1
        at, label = last.get((one.who, one.instance_id), (place, ""))
        if place - at > RECENT and who in (None, one.who):
            n += 1
            same += label == one.label
        last[one.who, one.instance_id] = place, one.label
    return Agreement(same, n)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
