"""What all conditions share: the facts they look at, the three answers, comparisons of numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
