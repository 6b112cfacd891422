"""The rules as values: what `routing.yaml` says under `rules` and `otherwise`, once it is valid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from router.decide.conditions import Condition


@dataclass(frozen=True, slots=True)
class Rule:
    """Send an instance to `send` when `when` holds. `discard` sends nowhere, for the given `reason`."""

    name: str
    when: Condition
    send: tuple[str, ...]
    discard: bool = False
    reason: str = ""
    shadow: bool = False
    study: bool = False
    """`scope: study`: where one instance of a study goes, its other instances follow."""
    one_of: Literal["", "study", "instance"] = ""
    """Only one of the destinations gets an instance; by `study` the same one gets all of a study."""
    urgent: bool = False
    """`priority: urgent`: its deliveries go before others to the same destination."""


@dataclass(frozen=True, slots=True)
class Otherwise:
    """Where an instance goes if no rule fires."""

    send: tuple[str, ...]
    one_of: Literal["", "study", "instance"] = ""
    """As that of a rule."""


@dataclass(frozen=True, slots=True)
class RuleTable:
    """Rules in order, first match wins."""

    rules: tuple[Rule, ...]
    otherwise: Otherwise
    digest: str = field(default="", compare=False)
    """XXH3-128 of the rules as written, 32 hex digits: each decision names the rules that made it."""
    text: str = field(default="", compare=False, repr=False)
    """The rules as written, in JSON."""


def header_tags(table: RuleTable) -> frozenset[int]:
    """Every header element that some rule needs, as 0xggggeeee."""
    return frozenset(tag for rule in table.rules for tag in rule.when.tags)


def named_destinations(table: RuleTable) -> frozenset[str]:
    """Every destination that the rules send to."""
    return frozenset(name for rule in table.rules for name in rule.send) | frozenset(table.otherwise.send)
