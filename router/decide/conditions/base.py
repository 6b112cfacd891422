"""What all conditions share: the facts they look at, the three answers, comparisons of numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from router.decide.age import Age, age_at_study
from router.flow import Instance, Seen

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a header that is no longer there, beside the values that were kept of it.

    `missing` names the elements of which it is not known whether the header had them.
    """

    age: Age | None
    missing: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a condition may look at. `kept`: the header is what an earlier decision kept of it."""

    instance: Instance
    seen: Seen
    kept: Kept | None = None

    @property
    def age(self) -> Age | None:
        """The age at the study, where it is known."""
        return age_at_study(self.seen.header) if self.kept is None else self.kept.age

    def is_missing(self, tags: frozenset[int]) -> bool:
        """Whether it is not known what the header said of one of these elements."""
        return self.kept is not None and not self.kept.missing.isdisjoint(tags)


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


class NoTags:
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
