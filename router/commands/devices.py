"""What devices write into the header against what their pictures show, by calling AE title and station. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from router.decide.conditions.prediction import CHESTS
from router.decide.header_words import CHEST, UNKNOWN, Vocabulary
from router.flow import UNCERTAIN
from router.spool.devices import Taken

STATION, MAKER, MODEL = 0x00081010, 0x00080070, 0x00081090
MOST_SENDERS = 40
"""Senders that are looked at, those seen last."""
LONGEST = 64
"""Characters of a name that is shown."""
MOST_STATIONS = 12
"""Of one calling AE title; what more there are is one row together."""
OTHERS = "other stations"
ENOUGH = 50
"""Images on either side, from which two shares are compared."""
CLEAR = 3.0
"""Standard errors, and LEAST, from which a difference is a drift and not chance."""
LEAST = 0.05

_Judged = tuple[Taken, str]
"""An instance, and what its header says of it."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How many of some instances are what. `agrees`, `missing`, `contradicts`: of pictures with a certain class.

    `not_known`: certain pictures of which the header's words were not kept.
    """

    looked_at: int
    pictures: int
    doubt: int
    agrees: int
    missing: int
    contradicts: int
    not_known: int
    inverted: int
    without_picture: int
    classes: dict[str, int]

    @property
    def compared(self) -> int:
        return self.agrees + self.missing + self.contradicts


@dataclass(frozen=True, slots=True)
class Drift:
    """A share of the last day that differs from the week before by more than chance."""

    what: str
    before: float
    now: float


@dataclass(frozen=True, slots=True)
class Group:
    """The instances of a calling AE title, or of one of its stations."""

    station: str
    shares: Shares
    drifts: tuple[Drift, ...]


@dataclass(frozen=True, slots=True)
class Device:
    """A calling AE title: all of it, and its stations, the one with most images first. `since`: nanoseconds."""

    calling_ae: str
    since: int
    whole: Group
    stations: tuple[Group, ...]


def devices_of(taken: Iterable[Taken], words: Vocabulary) -> dict[str, Device]:
    """By calling AE title."""
    by_ae: dict[str, list[Taken]] = {}
    for one in taken:
        by_ae.setdefault(one.calling_ae, []).append(one)
    return {ae: _device(ae, some, words) for ae, some in by_ae.items()}


def _device(calling_ae: str, taken: Sequence[Taken], words: Vocabulary) -> Device:
    judged = [(one, _said(one, words)) for one in taken]
    names = [_station(one) for one in taken]
    shown = {name for name, _ in Counter(names).most_common(MOST_STATIONS)}
    by_station: dict[str, list[_Judged]] = {}
    for name, one in zip(names, judged, strict=True):
        by_station.setdefault(name if name in shown else OTHERS, []).append(one)
    groups = [_group(name, some) for name, some in by_station.items()]
    groups.sort(key=lambda one: (one.station == OTHERS, -one.shares.looked_at, one.station))
    since = min((int(one.id[:16], 16) for one in taken if one.is_latest), default=0)
    return Device(calling_ae, since, _group("", judged), tuple(groups))


def _station(one: Taken) -> str:
    """The station's name, and the maker's with the model; what the header does not say is left out."""
    header = one.facts.values if one.facts else {}
    station, maker, model = (" ".join(header.get(tag) or ())[:LONGEST].strip() for tag in (STATION, MAKER, MODEL))
    return ", ".join(part for part in (station, f"{maker} {model}".strip()) if part)


def _group(station: str, judged: Sequence[_Judged]) -> Group:
    day = _shares([one for one in judged if one[0].is_late])
    before = _shares([one for one in judged if one[0].is_before])
    compared = (
        ("doubt", before.doubt, before.pictures, day.doubt, day.pictures),
        ("contradiction", before.contradicts, before.compared, day.contradicts, day.compared),
    )
    drifts = tuple(Drift(what, a / n, b / m) for what, a, n, b, m in compared if is_drift(a, n, b, m))
    return Group(station, _shares([one for one in judged if one[0].is_latest]), drifts)


def is_drift(before: int, of_before: int, now: int, of_now: int) -> bool:
    """Whether two shares differ by more than chance (two proportions, pooled), and by enough to matter."""
    if min(of_before, of_now) < ENOUGH:
        return False
    difference = abs(now / of_now - before / of_before)
    pooled = (before + now) / (of_before + of_now)
    error = (pooled * (1 - pooled) * (1 / of_before + 1 / of_now)) ** 0.5
    return difference >= LEAST and difference > CLEAR * error


def _shares(judged: Sequence[_Judged]) -> Shares:
    found = Counter(said for _, said in judged)
    taken = [one for one, _ in judged]
    pictures = [one for one in taken if one.top is not None]
    return Shares(
        len(taken), len(pictures), found["doubt"], found["agrees"], found["missing"], found["contradicts"],
        found["not known"], sum(one.inverted for one in pictures), found["none"],
        dict(Counter(one.class_name for one in taken if one.class_name)),
    )  # fmt: skip


def _said(one: Taken, words: Vocabulary) -> str:
    """What the header says of a picture. A class that is not certain says nothing of the header."""
    if one.top is None:
        return "none" if one.pixels else "waits"
    if one.class_name == UNCERTAIN:
        return "doubt"
    if one.facts is None:
        return "not known"
    part = words.part(one.facts.values)
    if part == UNKNOWN:
        return "missing" if one.facts.whole else "not known"
    return "agrees" if part == (CHEST if one.top in CHESTS else one.top) else "contradicts"
