"""Conditions of conditions: not, all, any, with three answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from router.decide.conditions.base import Condition, Facts


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
        return _first(self.conditions, facts, False)


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
        return _first(self.conditions, facts, True)


def _first(conditions: tuple[Condition, ...], facts: Facts, settles: bool) -> bool | None:
    """This answer as soon as one condition has it, else unknown if one is unknown, else the opposite."""
    unknown = False
    for condition in conditions:
        answer = condition.holds(facts)
        if answer is settles:
            return settles
        unknown = unknown or answer is None
    return None if unknown else not settles


def _tags(conditions: tuple[Condition, ...]) -> frozenset[int]:
    return frozenset(tag for condition in conditions for tag in condition.tags)


def parts(condition: Condition) -> Iterator[Condition]:
    """The single questions that a condition is made of."""
    if isinstance(condition, AllOf | AnyOf):
        for one in condition.conditions:
            yield from parts(one)
    elif isinstance(condition, Not):
        yield from parts(condition.condition)
    else:
        yield condition
