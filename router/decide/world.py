"""For `unreachable`: what is still possible for an instance if some conditions are assumed and others denied.

What is in doubt counts as possible. A condition of an unknown kind narrows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from router.decide.age import PER_YEAR
from router.decide.conditions import (
    ANY,
    AgeIs,
    ClassIs,
    Condition,
    Confidence,
    Equal,
    Exists,
    Frames,
    FromAe,
    HeaderPart,
    HeaderView,
    Matcher,
    Novel,
    PartConfidence,
    PeerIn,
    PixelsAre,
    PrivateExists,
    PrivateText,
    Probability,
    ResultOf,
    SopClass,
    Text,
    TopIs,
    ViewIs,
    glob,
)
from router.decide.header_words import UNKNOWN
from router.decide.intervals import ALL, Intervals, both, networks, outside, where, whole, within
from router.flow import CLASSES, UNCERTAIN

_Chance = Confidence | Probability | PartConfidence
_Number = _Chance | Frames | PeerIn

Key = Hashable
"""What is asked about: one value of an instance."""

State = tuple[str, str, bool] | None
STATES: frozenset[State] = frozenset(
    state for top in CLASSES for state in (None, (top, top, False), (UNCERTAIN, top, False), (UNCERTAIN, top, True))
)
"""(class, top, novel) of a prediction, or none. The class is the top or uncertain; a novel picture is uncertain."""
UNPARSEABLE = "unparseable"
PIXELS = frozenset({"decoded", "none", "undecodable", UNPARSEABLE, "failed"})
ANYTHING = glob("*")
ONE_FRAME: Intervals = (((1, 0), (math.inf, 1)),)
MARGIN = 1e-3
"""Years. Ages in different units that are closer count as equal."""
NO_WORD = Equal(frozenset({UNKNOWN}))
"""The values of a header that names neither part nor view."""
OPPOSITE = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}


class Impossible(Exception):  # noqa: N818 - not an error: an answer
    """No case is left."""


class Spent(Exception):  # noqa: N818 - not an error: the search ends
    """The budget is used up."""


@dataclass(slots=True)
class Budget:
    """What a search may cost: questions that are left. A long list of words or networks counts as several."""

    left: int

    def spend(self, questions: int) -> None:
        self.left -= questions
        if self.left < 0:
            raise Spent


PER_QUESTION = 64
"""Words of a list that cost as much as one question."""
_PER_SPAN = 16
"""Words that cost as much as one interval or network."""


@dataclass(slots=True)
class _Words:
    """One text or several. They have a value from each set of `musts`, and none from `banned`."""

    known: bool = False
    single: bool = False
    musts: list[set[str]] = field(default_factory=list)
    """What is left of them: without what is banned."""
    banned: set[str] = field(default_factory=set)
    wanted: set[Matcher] = field(default_factory=set)
    unwanted: set[Matcher] = field(default_factory=set)

    def want(self, matcher: Matcher, answer: bool) -> bool:
        """Assume that the matcher has this answer. Returns whether that is news. Raises Impossible."""
        before = len(self.musts), len(self.banned), len(self.wanted), len(self.unwanted), *map(len, self.musts)
        if not isinstance(matcher, Equal):
            (self.wanted if answer else self.unwanted).add(matcher)
        elif not answer:
            self.banned |= matcher.words
            for must in self.musts:
                must -= matcher.words
        elif self.single and self.musts:
            self.musts[0] &= matcher.words
        elif (must := set(matcher.words - self.banned)) not in self.musts:
            self.musts.append(must)
        if not all(self.musts) or self.wanted & self.unwanted or ANYTHING in self.unwanted:
            raise Impossible
        return before != (
            len(self.musts), len(self.banned), len(self.wanted), len(self.unwanted), *map(len, self.musts)
        )  # fmt: skip

    def sure(self, matcher: Matcher, answer: bool) -> bool:
        if not self.known:
            return False
        if not isinstance(matcher, Equal):
            return matcher in (self.wanted if answer else self.unwanted) or (answer and matcher == ANYTHING)
        if answer:
            return any(must <= matcher.words for must in self.musts)
        apart = self.single and any(must.isdisjoint(matcher.words) for must in self.musts)
        return apart or matcher.words <= self.banned


@dataclass(slots=True)
class _Results:
    """The destinations whose result an instance is: one of each of `musts`, none of `banned`, some or none at all."""

    musts: set[frozenset[str]] = field(default_factory=set)
    banned: set[str] = field(default_factory=set)
    some: bool = False
    none: bool = False

    def assume(self, names: frozenset[str], answer: bool) -> bool:
        """Returns whether that is news. Raises Impossible."""
        before = len(self.musts), len(self.banned), self.some, self.none
        if ANY in names:
            self.some, self.none = self.some or answer, self.none or not answer
        elif answer:
            self.musts.add(names)
        else:
            self.banned |= names
        if (self.none and (self.some or self.musts)) or any(must <= self.banned for must in self.musts):
            raise Impossible
        return before != (len(self.musts), len(self.banned), self.some, self.none)

    def sure(self, names: frozenset[str], answer: bool) -> bool:
        if not answer:
            return self.none or (ANY not in names and names <= self.banned)
        if ANY in names:
            return self.some or bool(self.musts)
        return any(must - self.banned <= names for must in self.musts)


@dataclass(slots=True)
class _Age:
    """Where the whole span of an age lies: in completed units, and in years."""

    units: dict[str, Intervals] = field(default_factory=dict)
    years: Intervals = ALL
    known: bool = False

    def assume(self, sign: str, limit: int, unit: str) -> None:
        self.known = True
        self.units[unit] = whole(both(self.units.get(unit, ALL), where(sign, limit)))
        self.years = both(self.years, _years(sign, limit, unit, MARGIN))
        if not (self.units[unit] and self.years):
            raise Impossible

    def sure(self, sign: str, limit: int, unit: str) -> bool:
        same = within(self.units.get(unit, ALL), whole(where(sign, limit)))
        return self.known and (same or within(self.years, _years(sign, limit, unit, -MARGIN)))


def _years(sign: str, limit: int, unit: str, wider: float) -> Intervals:
    """The years for which a comparison of completed units holds, made wider or narrower by a margin."""
    least, below = limit / PER_YEAR[unit], (limit + 1) / PER_YEAR[unit]
    low, high = (least - wider, 0), (below + wider, 0)
    spans = {
        "<": ((ALL[0][0], (least + wider, 0)),),
        "<=": ((ALL[0][0], high),),
        ">": (((below - wider, 0), ALL[0][1]),),
        ">=": ((low, ALL[0][1]),),
        "==": ((low, high),),
        "!=": ALL if wider > 0 else ((ALL[0][0], (least + wider, 0)), ((below - wider, 0), ALL[0][1])),
    }
    return both(spans[sign], ALL)


class World:
    """The cases that are left. `changes` counts what was learnt. `keys` are the values of which something is known.

    Each question is paid from the budget. Raises Spent.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.changes = 0
        self.keys: set[Key] = set()
        self._states = STATES
        self._pixels = PIXELS
        self._numbers: dict[Key, tuple[Intervals, bool]] = {}
        """Where a number lies, and whether it may be unknown."""
        self._words: dict[Key, _Words] = {}
        self._there: dict[Key, bool] = {}
        self._age = _Age()
        self._results = _Results()

    def certain_words(self) -> Iterator[tuple[Key, str]]:
        """For each text that must have one of some words: one of these words."""
        for key, text in self._words.items():
            for must in text.musts:
                self._budget.spend(1 + len(must) // PER_QUESTION)
                yield key, min(must)

    def assume(self, condition: Condition, answer: bool) -> None:
        """Assume that the condition has this answer. Raises Impossible."""
        self._pay(condition)
        self.keys.update(key_of(condition))
        if isinstance(condition, _Chance):
            self._narrow_states(frozenset(self._states - {None}))
        if isinstance(condition, AgeIs):
            self._age.assume(*_compared(condition, answer))
        elif isinstance(condition, ResultOf):
            self._results.assume(condition.names, answer)
        elif isinstance(condition, Exists | PrivateExists):
            self._narrow_pixels(self._pixels - {UNPARSEABLE})
            self._is_there(_place(condition), condition.expected is answer)
        elif asked := words_asked(condition):
            key, matcher = asked
            self._text(condition).known = True
            self._words[key].want(matcher, answer)
            if not answer and _needs_a_word(condition):
                self._words[key].want(NO_WORD, False)
            if isinstance(condition, Text | PrivateText):
                self._is_there(_place(condition), True)
        else:
            self._narrow(condition, answer, unknown=False)

    def deny(self, condition: Condition, answer: bool) -> None:
        """Assume that the condition has another answer, or none. Raises Impossible."""
        self._pay(condition)
        if isinstance(condition, AgeIs):
            if self._age.sure(*_compared(condition, answer)):
                raise Impossible
        elif isinstance(condition, ResultOf):
            self.changes += self._results.assume(condition.names, not answer)
        elif isinstance(condition, Exists | PrivateExists):
            self._deny_there(condition, answer)
        elif asked := words_asked(condition):
            text = self._text(condition)
            if self.sure(condition, answer):
                raise Impossible
            if text.known and (answer or not _needs_a_word(condition)):
                self.changes += text.want(asked[1], not answer)
        else:
            self._narrow(condition, not answer, unknown=True)

    def sure(self, condition: Condition, answer: bool) -> bool:
        """Whether the condition has this answer in every case that is left."""
        self._pay(condition)
        if isinstance(condition, ClassIs | TopIs | Novel):
            return all(_of_state(condition, state) is answer for state in self._states)
        if isinstance(condition, PixelsAre):
            return all((pixels in condition.states) is answer for pixels in self._pixels)
        if isinstance(condition, AgeIs):
            return self._age.sure(*_compared(condition, answer))
        if isinstance(condition, ResultOf):
            return self._results.sure(condition.names, answer)
        if isinstance(condition, Exists | PrivateExists):
            there = self._there.get(_place(condition))
            return UNPARSEABLE not in self._pixels and there is not None and (there is condition.expected) is answer
        if asked := words_asked(condition):
            text = self._text(condition)
            has_a_word = answer or not _needs_a_word(condition) or text.sure(NO_WORD, False)
            return has_a_word and text.sure(asked[1], answer)
        if isinstance(condition, _Number):
            key, asked_for, base = _number(condition)
            lies, unknown = self._numbers.get(key, (base, True))
            return not unknown and within(lies, asked_for if answer else _complement(condition, asked_for))
        return False

    def _pay(self, condition: Condition) -> None:
        """Pay for one question: for what it lists, and for what is known of the same value."""
        known = 0
        if asked := words_asked(condition):
            text = self._words.get(asked[0])
            known = len(text.musts) if text else 0
        elif isinstance(condition, AgeIs):
            known = _PER_SPAN * (len(self._age.units.get(condition.unit, ())) + len(self._age.years))
        elif isinstance(condition, _Number):
            known = _PER_SPAN * len(self._numbers.get(key_of(condition)[0], ((), True))[0])
        self._budget.spend(1 + (known + listed(condition)) // PER_QUESTION)

    def _narrow(self, condition: Condition, answer: bool, *, unknown: bool) -> None:
        """Assume that the condition has this answer, or with `unknown` perhaps none."""
        if isinstance(condition, ClassIs | TopIs | Novel):
            fits = (answer, None) if unknown else (answer,)
            self._narrow_states(frozenset(s for s in self._states if _of_state(condition, s) in fits))
        elif isinstance(condition, PixelsAre):
            self._narrow_pixels(frozenset(p for p in self._pixels if (p in condition.states) is answer))
        elif isinstance(condition, _Number):
            key, asked, base = _number(condition)
            lies, maybe = self._numbers.get(key, (base, True))
            narrower = both(lies, asked if answer else _complement(condition, asked))
            narrower = narrower if isinstance(condition, _Chance) else whole(narrower)
            if not narrower and not (maybe and unknown):
                raise Impossible
            self.changes += (narrower, maybe and unknown) != (lies, maybe)
            self._numbers[key] = narrower, maybe and unknown

    def _narrow_states(self, states: frozenset[State]) -> None:
        self.changes += states != self._states
        self._states = states
        if not states:
            raise Impossible

    def _narrow_pixels(self, pixels: frozenset[str]) -> None:
        self.changes += pixels != self._pixels
        self._pixels = pixels
        if not pixels:
            raise Impossible

    def _is_there(self, place: Key, there: bool) -> None:
        if self._there.setdefault(place, there) is not there:
            raise Impossible

    def _deny_there(self, condition: Exists | PrivateExists, answer: bool) -> None:
        """Assume another answer, or none. There is none if the data set is unparseable."""
        there = self._there.get(_place(condition))
        if there is not None and (there is condition.expected) is answer:
            self._narrow_pixels(self._pixels & {UNPARSEABLE})
        elif there is None and UNPARSEABLE not in self._pixels and isinstance(condition, Exists):
            self.changes += 1
            self._there[_place(condition)] = condition.expected is not answer

    def _text(self, condition: Condition) -> _Words:
        asked = words_asked(condition)
        key = asked[0] if asked else condition.subject
        always = isinstance(condition, FromAe | SopClass | HeaderPart | HeaderView)
        single = always or isinstance(condition, ViewIs) or (isinstance(condition, Text) and condition.single)
        return self._words.setdefault(key, _Words(known=always, single=single))


def key_of(condition: Condition) -> tuple[Key, ...]:
    """What a condition asks about. Empty for a condition that every instance meets."""
    asked = words_asked(condition)
    if asked is not None:
        return () if isinstance(condition, FromAe | SopClass) and asked[1] == ANYTHING else (asked[0],)
    if isinstance(condition, ClassIs | TopIs | Novel):
        return ("prediction",)
    if isinstance(condition, Probability):
        return (("probability", condition.classes),)
    return (condition.subject,)


def words_asked(condition: Condition) -> tuple[Key, Matcher] | None:
    """The text that a condition asks about, and how. None for any other condition."""
    if isinstance(condition, Text):
        return ("text", condition.tag, condition.single), condition.matcher
    if isinstance(condition, PrivateText):
        return ("text", condition.place), condition.matcher
    if isinstance(condition, FromAe | SopClass):
        return ("text", condition.subject), condition.matcher
    if isinstance(condition, HeaderPart | HeaderView | ViewIs):
        return ("text", condition.subject), Equal(condition.names)
    return None


def listed(condition: Condition) -> int:
    """The length of the list that a condition has, in words."""
    if isinstance(condition, PeerIn):
        return _PER_SPAN * len(condition.networks)
    asked = words_asked(condition)
    return len(asked[1].words) if asked and isinstance(asked[1], Equal) else 0


def _needs_a_word(condition: Condition) -> bool:
    """Whether the condition is unknown, and not false, if the header names no part or view."""
    return isinstance(condition, HeaderPart | HeaderView) and UNKNOWN not in condition.names


def _place(condition: Text | PrivateText | Exists | PrivateExists) -> Key:
    return condition.place if isinstance(condition, PrivateText | PrivateExists) else condition.tag


def _of_state(condition: ClassIs | TopIs | Novel, state: State) -> bool | None:
    if state is None:
        return None
    if isinstance(condition, Novel):
        return state[2] is condition.expected
    return state[0 if isinstance(condition, ClassIs) else 1] in condition.names


def _compared(condition: AgeIs, answer: bool) -> tuple[str, int, str]:
    sign = condition.operator if answer else OPPOSITE[condition.operator]
    return sign, condition.limit, condition.unit


def _number(condition: _Number) -> tuple[Key, Intervals, Intervals]:
    """The number that a condition asks about, where the condition holds, and where the number can lie at all."""
    (key,) = key_of(condition)
    if isinstance(condition, PeerIn):
        return key, networks(condition.networks), whole(ALL)
    asked = where(condition.comparison.operator, condition.comparison.limit)
    return (key, whole(asked), ONE_FRAME) if isinstance(condition, Frames) else (key, asked, ALL)


def _complement(condition: _Number, asked: Intervals) -> Intervals:
    rest = outside(asked)
    return rest if isinstance(condition, _Chance) else whole(rest)
