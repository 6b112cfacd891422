"""Whether a rule keeps an image from the AI of its class. An operator must see that before the clinic does."""

from __future__ import annotations

from collections.abc import Iterator

from router.decide.conditions import AllOf, AnyOf, ClassIs, Condition, TopIs
from router.decide.table import RuleTable
from router.flow import Decision, Seen


def kept_from(table: RuleTable, seen: Seen, decision: Decision) -> tuple[str, ...]:
    """The AIs of the image's class, in order, if the decision names none of them. Else empty.

    An AI of a class is a destination to which some rule sends this class, and which `otherwise` does not name. An image
    of uncertain class has no AI.
    """
    if seen.prediction is None or decision.discard:
        return ()
    name = seen.prediction.class_name
    certain, likely = _ais(table, name)
    return () if set(decision.destinations) & {*certain, *likely} else certain


def _ais(table: RuleTable, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The destinations of each class by rules that ask for `class`, and by rules that ask for `top`."""
    found: dict[type, dict[str, None]] = {ClassIs: {}, TopIs: {}}
    for rule in table.rules:
        for condition in _asked(rule.when):
            if name in condition.names and not rule.shadow:
                found[type(condition)].update(dict.fromkeys(rule.send))
    certain, likely = (tuple(to for to in group if to not in table.otherwise.send) for group in found.values())
    return certain, likely


def _asked(condition: Condition) -> Iterator[ClassIs | TopIs]:
    """The conditions on the class that must or may hold. Those below a `not` are left out."""
    if isinstance(condition, ClassIs | TopIs):
        yield condition
    elif isinstance(condition, AllOf | AnyOf):
        for part in condition.conditions:
            yield from _asked(part)
