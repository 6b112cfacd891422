"""A rule's conditions in words, as routing.yaml would say them."""

from __future__ import annotations

from router.decide.conditions import (
    AgeIs,
    AllOf,
    AnyOf,
    Condition,
    Equal,
    Exists,
    FromAe,
    HeaderAgrees,
    Not,
    Novel,
    PeerIn,
    PixelsAre,
    Regex,
    SopClass,
    Text,
)


def written(condition: Condition) -> str:
    """The condition with the values that it asks for."""
    match condition:
        case AllOf(parts):
            return " and ".join(written(part) for part in parts)
        case AnyOf(parts):
            return "(" + " or ".join(written(part) for part in parts) + ")"
        case Not(part):
            return f"not ({written(part)})"
        case AgeIs(operator, limit, unit):
            return f"age {operator} {limit}{unit.lower()}"
        case Exists(_, keyword, expected):
            return f"{keyword} {'exists' if expected else 'is absent'}"
        case Text(_, keyword, matcher) | FromAe(keyword, matcher):
            return f"{keyword} is {_matched(matcher)}"
        case SopClass(matcher):
            return f"sop_class is {_matched(matcher)}"
        case PeerIn(networks):
            return f"peer in {', '.join(map(str, networks))}"
        case PixelsAre(states):
            return f"pixels is {' or '.join(sorted(states))}"
        case HeaderAgrees(expected) | Novel(expected):
            return condition.subject if expected else f"not {condition.subject}"
        case _:
            return _by_fields(condition)


def _matched(matcher: object) -> str:
    match matcher:
        case Equal(words):
            return " or ".join(sorted(words))
        case Regex(pattern):
            return f"like {pattern}"
        case _:
            return "as written"


def _by_fields(condition: Condition) -> str:
    """Of the conditions that compare a number or name classes."""
    names, comparison = getattr(condition, "names", None), getattr(condition, "comparison", None)
    if names is not None:
        return f"{condition.subject} is {' or '.join(sorted(names))}"
    if comparison is not None:
        return f"{condition.subject} {comparison.operator} {comparison.limit:g}"
    return condition.subject


def asks(condition: Condition, subject: str) -> bool:
    """Whether it, or a part of it, asks about a subject."""
    if isinstance(condition, AllOf | AnyOf):
        return any(asks(part, subject) for part in condition.conditions)
    return asks(condition.condition, subject) if isinstance(condition, Not) else condition.subject == subject
