"""What a rule can ask of a maker's private elements (PS3.5 §7.8.1)."""

from __future__ import annotations

from dataclasses import dataclass

from router.decide.conditions.base import Facts
from router.decide.conditions.header import NO_TEXT
from router.decide.conditions.matchers import Matcher
from router.flow import Header

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
        found = None if facts.is_missing(self.tags) else self.place.found(facts.seen.header)
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
        found = None if facts.is_missing(self.tags) else self.place.found(facts.seen.header)
        if facts.seen.pixels == "unparseable" or found is None:
            return None
        return any(values != () for values in found) is self.expected
