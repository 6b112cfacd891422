"""What a rule can ask of an instance: small frozen values with three answers.

`holds(facts)` is True, False, or None for unknown: there is no prediction, or the element is absent, empty,
unreadable or implausible. Only True makes a rule fire (DESIGN §8). Nothing here raises on received values,
and `subject` names what is asked and never the value that was found.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal, Protocol

import re2

from router.decide.age import PER_YEAR, age_at_study
from router.decide.age import TAGS as AGE_TAGS
from router.decide.header_words import CHEST, PART_TAGS, UNKNOWN, VIEW_TAGS, Vocabulary
from router.flow import CLASSES, Header, Instance, Prediction, Seen

NUMBER_OF_FRAMES = 0x00280008
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
CallerField = Literal["calling_ae", "called_ae"]
CHESTS = frozenset({"adult_chest", "pediatric_chest"})


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a condition may look at."""

    instance: Instance
    seen: Seen


class Condition(Protocol):
    """One question about an instance."""

    @property
    def subject(self) -> str:
        """What is asked, in the words of routing.yaml."""
        ...

    @property
    def tags(self) -> frozenset[int]:
        """The header elements that the answer needs."""
        ...

    def holds(self, facts: Facts) -> bool | None:
        """True, False, or None for unknown."""
        ...


class _NoTags:
    """For the conditions that ask nothing of the header."""

    __slots__ = ()

    @property
    def tags(self) -> frozenset[int]:
        return frozenset()


@dataclass(frozen=True, slots=True)
class Comparison:
    """`">= 0.90"`: an operator and a limit. NaN is unknown."""

    operator: str
    limit: float

    def holds(self, value: float) -> bool | None:
        return None if math.isnan(value) else OPERATORS[self.operator](value, self.limit)


@dataclass(frozen=True, slots=True)
class ClassIs(_NoTags):
    """The prediction's class: one of the five, or `uncertain`."""

    names: frozenset[str]
    subject: str = "class"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else prediction.class_name in self.names


@dataclass(frozen=True, slots=True)
class TopIs(_NoTags):
    """The most probable class, whether or not the card trusts it."""

    names: frozenset[str]
    subject: str = "top"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else prediction.top in self.names


@dataclass(frozen=True, slots=True)
class ViewIs(_NoTags):
    """The view that the model sees: one of three, or `uncertain`. Unknown if the model has no views."""

    names: frozenset[str]
    subject: str = "view"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None or not prediction.view else prediction.view in self.names


@dataclass(frozen=True, slots=True)
class Inverted(_NoTags):
    """Whether the picture came with the wrong polarity."""

    expected: bool
    subject: str = "inverted"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else prediction.inverted is self.expected


@dataclass(frozen=True, slots=True)
class Confidence(_NoTags):
    """The probability of `top`."""

    comparison: Comparison
    subject: str = "confidence"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else self.comparison.holds(prediction.confidence)


@dataclass(frozen=True, slots=True)
class Probability(_NoTags):
    """The summed probability of some classes; `probability.chest` is that of both chests."""

    classes: frozenset[str]
    comparison: Comparison

    @property
    def subject(self) -> str:
        return "probability." + ("chest" if self.classes == CHESTS else "+".join(sorted(self.classes)))

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else self.comparison.holds(_summed(prediction, self.classes))


@dataclass(frozen=True, slots=True)
class PartConfidence(_NoTags):
    """The probability of the body part that `top` shows: both chests are one part."""

    comparison: Comparison
    subject: str = "part_confidence"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        if prediction is None:
            return None
        classes = CHESTS if prediction.top in CHESTS else frozenset({prediction.top})
        return self.comparison.holds(_summed(prediction, classes))


def _summed(prediction: Prediction, classes: frozenset[str]) -> float:
    """NaN if the prediction has other classes than CLASSES."""
    if len(prediction.probabilities) != len(CLASSES):
        return math.nan
    pairs = zip(CLASSES, prediction.probabilities, strict=True)
    return sum(chance for name, chance in pairs if name in classes)


@dataclass(frozen=True, slots=True)
class HeaderPart:
    """The body part that the header names. An unknown part makes the answer unknown, unless it is asked for."""

    names: frozenset[str]
    vocabulary: Vocabulary
    subject: str = "header_part"
    tags: frozenset[int] = PART_TAGS

    def holds(self, facts: Facts) -> bool | None:
        return _said(self.vocabulary.part(facts.seen.header), self.names)


@dataclass(frozen=True, slots=True)
class HeaderView:
    """The view that the header names; as `HeaderPart`."""

    names: frozenset[str]
    vocabulary: Vocabulary
    subject: str = "header_view"
    tags: frozenset[int] = VIEW_TAGS

    def holds(self, facts: Facts) -> bool | None:
        return _said(self.vocabulary.view(facts.seen.header), self.names)


def _said(found: str, names: frozenset[str]) -> bool | None:
    return None if found == UNKNOWN and UNKNOWN not in names else found in names


@dataclass(frozen=True, slots=True)
class HeaderAgrees:
    """Whether the header names the part that `top` shows; a header that contradicts itself agrees with nothing."""

    expected: bool
    vocabulary: Vocabulary
    subject: str = "header_agrees"
    tags: frozenset[int] = PART_TAGS

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        part = self.vocabulary.part(facts.seen.header)
        if prediction is None or part == UNKNOWN:
            return None
        seen = CHEST if prediction.top in CHESTS else prediction.top
        return (part == seen) is self.expected


@dataclass(frozen=True, slots=True)
class Novel(_NoTags):
    """Whether the picture is beyond the card's limit of novelty."""

    expected: bool
    subject: str = "novel"

    def holds(self, facts: Facts) -> bool | None:
        prediction = facts.seen.prediction
        return None if prediction is None else prediction.novel is self.expected


@dataclass(frozen=True, slots=True)
class PixelsAre(_NoTags):
    """Whether there are pixels that could be looked at; never unknown."""

    states: frozenset[str]
    subject: str = "pixels"

    def holds(self, facts: Facts) -> bool | None:
        return facts.seen.pixels in self.states


@dataclass(frozen=True, slots=True)
class Frames:
    """The number of frames: what was decoded, else what NumberOfFrames (0028,0008) says."""

    comparison: Comparison
    subject: str = "frames"
    tags: frozenset[int] = frozenset({NUMBER_OF_FRAMES})

    def holds(self, facts: Facts) -> bool | None:
        if facts.seen.facts.frames > 0:
            return self.comparison.holds(facts.seen.facts.frames)
        values = facts.seen.header.get(NUMBER_OF_FRAMES) or ()
        stated = values[0].strip() if len(values) == 1 else ""
        plausible = stated.isascii() and stated.isdigit() and len(stated) <= 9
        return self.comparison.holds(max(1, int(stated))) if plausible else None


@dataclass(frozen=True, slots=True)
class AgeIs:
    """The age at the study in completed `unit`s (D, W, M, Y); unknown where the header allows both answers."""

    operator: str
    limit: int
    unit: str
    subject: str = "age"
    tags: frozenset[int] = AGE_TAGS

    def __post_init__(self) -> None:
        if self.unit not in PER_YEAR:
            raise ValueError("the unit of an age is D, W, M or Y")

    def holds(self, facts: Facts) -> bool | None:
        age = age_at_study(facts.seen.header)
        if age is None:
            return None
        fewest, most = age.completed(self.unit)
        holds = OPERATORS[self.operator]
        answers = {holds(n, self.limit) for n in (fewest, most, min(max(self.limit, fewest), most))}
        return answers.pop() if len(answers) == 1 else None


class Matcher(Protocol):
    """A test of one text value."""

    def matches(self, value: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Equal:
    """The value is one of these after trimming; case does not count (`words` are casefolded)."""

    words: frozenset[str]

    @classmethod
    def to(cls, words: Iterable[str]) -> Equal:
        return cls(frozenset(word.strip().casefold() for word in words))

    def matches(self, value: str) -> bool:
        return value.strip().casefold() in self.words


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole value matches a google-re2 expression (linear time); case does not count. `re2.error` if it is none."""

    pattern: str

    def __post_init__(self) -> None:
        _compiled(self.pattern)

    def matches(self, value: str) -> bool:
        # A lone surrogate cannot be encoded, and received text may hold one.
        clean = value.strip().encode("utf-8", "replace").decode("utf-8")
        return _compiled(self.pattern).fullmatch(clean) is not None


def glob(text: str) -> Regex:
    """A pattern with `*` (any characters) and `?` (one) as a regular expression."""
    return Regex("".join({"*": "(?s:.*)", "?": "(?s:.)"}.get(c) or re2.escape(c) for c in text))


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re2._Regexp[str]:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return re2.compile(pattern, options)


NO_TEXT = ("",)
"""The value that flow.Header has for a sequence or a binary element."""


@dataclass(frozen=True, slots=True)
class Text:
    """A header element as text; of several values, any may match.

    `single`: the standard allows one value. If such an element has several, the answer is unknown.
    """

    tag: int
    keyword: str
    matcher: Matcher
    single: bool = field(default=False, compare=False)

    @property
    def subject(self) -> str:
        return self.keyword

    @property
    def tags(self) -> frozenset[int]:
        return frozenset({self.tag})

    def holds(self, facts: Facts) -> bool | None:
        values = facts.seen.header.get(self.tag)
        if not values or values == NO_TEXT or (self.single and len(values) > 1):
            return None
        return any(self.matcher.matches(value) for value in values)


@dataclass(frozen=True, slots=True)
class Exists:
    """Whether a header element has a value, readable or not; unknown where the data set itself is unparseable."""

    tag: int
    keyword: str
    expected: bool

    @property
    def subject(self) -> str:
        return self.keyword

    @property
    def tags(self) -> frozenset[int]:
        return frozenset({self.tag})

    def holds(self, facts: Facts) -> bool | None:
        if facts.seen.pixels == "unparseable":
            return None
        return (facts.seen.header.get(self.tag, ()) != ()) is self.expected


FIRST_BLOCK, LAST_BLOCK = 0x10, 0xFF
"""Private blocks of a group, and the elements that name their creators (PS3.5 §7.8.1)."""


@dataclass(frozen=True, slots=True)
class Private:
    """A maker's private element, in each block of the group that its creator has reserved."""

    group: int
    creator: str
    element: int

    @property
    def keyword(self) -> str:
        return f"({self.group:04x},{self.creator},{self.element:02x})"

    @property
    def tags(self) -> frozenset[int]:
        blocks = range(FIRST_BLOCK, LAST_BLOCK + 1)
        return frozenset(tag for block in blocks for tag in (self._named(block), self._tag(block)))

    def found(self, header: Header) -> list[tuple[str, ...] | None] | None:
        """The values of the element in each block of the creator. None if a block's creator is unknown."""
        theirs, unknown = [], False
        for block in range(FIRST_BLOCK, LAST_BLOCK + 1):
            name = header.get(self._named(block), ())
            if name is None:
                unknown = unknown or header.get(self._tag(block), ()) != ()
            elif len(name) == 1 and name[0].strip().casefold() == self.creator.strip().casefold():
                theirs.append(header.get(self._tag(block), ()))
        return None if unknown else theirs

    def _named(self, block: int) -> int:
        return self.group << 16 | block

    def _tag(self, block: int) -> int:
        return self.group << 16 | block << 8 | self.element


@dataclass(frozen=True, slots=True)
class PrivateText:
    """A private element as text; of several values, any may match."""

    place: Private
    matcher: Matcher

    @property
    def subject(self) -> str:
        return self.place.keyword

    @property
    def tags(self) -> frozenset[int]:
        return self.place.tags

    def holds(self, facts: Facts) -> bool | None:
        found = self.place.found(facts.seen.header)
        if found is None or None in found or NO_TEXT in found:
            return None
        values = [value for values in found for value in values or ()]
        return any(self.matcher.matches(value) for value in values) if values else None


@dataclass(frozen=True, slots=True)
class PrivateExists:
    """Whether a private element has a value, readable or not."""

    place: Private
    expected: bool

    @property
    def subject(self) -> str:
        return self.place.keyword

    @property
    def tags(self) -> frozenset[int]:
        return self.place.tags

    def holds(self, facts: Facts) -> bool | None:
        found = self.place.found(facts.seen.header)
        if facts.seen.pixels == "unparseable" or found is None:
            return None
        return any(values != () for values in found) is self.expected


@dataclass(frozen=True, slots=True)
class FromAe(_NoTags):
    """The calling or called AE title of the association."""

    subject: CallerField
    matcher: Matcher

    def holds(self, facts: Facts) -> bool | None:
        caller = facts.instance.caller
        return self.matcher.matches(caller.calling_ae if self.subject == "calling_ae" else caller.called_ae)


@dataclass(frozen=True, slots=True)
class SopClass(_NoTags):
    """The SOP Class UID."""

    matcher: Matcher
    subject: str = "sop_class"

    def holds(self, facts: Facts) -> bool | None:
        return self.matcher.matches(facts.instance.sop_class)


@dataclass(frozen=True, slots=True)
class PeerIn(_NoTags):
    """The peer's address lies in one of these networks; unknown when it is no address."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    subject: str = "peer"

    def holds(self, facts: Facts) -> bool | None:
        try:
            address = ip_address(facts.instance.caller.peer)
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite; unknown stays unknown."""

    condition: Condition

    @property
    def subject(self) -> str:
        return f"not {self.condition.subject}"

    @property
    def tags(self) -> frozenset[int]:
        return self.condition.tags

    def holds(self, facts: Facts) -> bool | None:
        answer = self.condition.holds(facts)
        return None if answer is None else not answer


@dataclass(frozen=True, slots=True)
class AllOf:
    """False if one is false, else unknown if one is unknown, else true (Kleene's and)."""

    conditions: tuple[Condition, ...]

    @property
    def subject(self) -> str:
        return ", ".join(condition.subject for condition in self.conditions)

    @property
    def tags(self) -> frozenset[int]:
        return _tags(self.conditions)

    def holds(self, facts: Facts) -> bool | None:
        answers = {condition.holds(facts) for condition in self.conditions}
        return False if False in answers else None if None in answers else True


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True if one is true, else unknown if one is unknown, else false (Kleene's or)."""

    conditions: tuple[Condition, ...]

    @property
    def subject(self) -> str:
        return "any of (" + "; ".join(condition.subject for condition in self.conditions) + ")"

    @property
    def tags(self) -> frozenset[int]:
        return _tags(self.conditions)

    def holds(self, facts: Facts) -> bool | None:
        answers = {condition.holds(facts) for condition in self.conditions}
        return True if True in answers else None if None in answers else False


def _tags(conditions: tuple[Condition, ...]) -> frozenset[int]:
    return frozenset(tag for condition in conditions for tag in condition.tags)
