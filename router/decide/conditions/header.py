"""What a rule can ask of the header. Unknown where an element is absent, empty, unreadable or implausible."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.decide.age import PER_YEAR
from router.decide.age import TAGS as AGE_TAGS
from router.decide.conditions.base import OPERATORS, Comparison, Facts
from router.decide.conditions.matchers import Matcher
from router.decide.conditions.prediction import CHESTS
from router.decide.header_words import CHEST, PART_TAGS, UNKNOWN, VIEW_TAGS, Vocabulary

NUMBER_OF_FRAMES = 0x00280008
NO_TEXT = ("",)
"""The value that flow.Header has for a sequence or a binary element."""


@dataclass(frozen=True, slots=True)
class HeaderPart:
    """The body part that the header names. An unknown part makes the answer unknown, unless it is asked for."""

    names: frozenset[str]
    vocabulary: Vocabulary
    subject: str = "header_part"
    tags: frozenset[int] = PART_TAGS

    def holds(self, facts: Facts) -> bool | None:
        return None if facts.is_missing(self.tags) else _said(self.vocabulary.part(facts.seen.header), self.names)


@dataclass(frozen=True, slots=True)
class HeaderView:
    """The view that the header names; as `HeaderPart`."""

    names: frozenset[str]
    vocabulary: Vocabulary
    subject: str = "header_view"
    tags: frozenset[int] = VIEW_TAGS

    def holds(self, facts: Facts) -> bool | None:
        return None if facts.is_missing(self.tags) else _said(self.vocabulary.view(facts.seen.header), self.names)


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
        if prediction is None or part == UNKNOWN or facts.is_missing(self.tags):
            return None
        seen = CHEST if prediction.top in CHESTS else prediction.top
        return (part == seen) is self.expected


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

    @property
    def changes_at(self) -> tuple[float, ...]:
        """The ages in years at which the answer changes."""
        limits = {"<": (0,), ">=": (0,), "<=": (1,), ">": (1,)}.get(self.operator, (0, 1))
        return tuple((self.limit + more) / PER_YEAR[self.unit] for more in limits)

    def holds(self, facts: Facts) -> bool | None:
        age = facts.age
        if age is None:
            return None
        fewest, most = age.completed(self.unit)
        holds = OPERATORS[self.operator]
        answers = {holds(n, self.limit) for n in (fewest, most, min(max(self.limit, fewest), most))}
        return answers.pop() if len(answers) == 1 else None


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
        if facts.seen.pixels == "unparseable" or facts.is_missing(self.tags):
            return None
        return (facts.seen.header.get(self.tag, ()) != ()) is self.expected
