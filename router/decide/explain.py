"""Why rules decide as they do: each rule with its answer, and each condition with what it wants and what was found.

Pure. Unlike a decision's reason, an explanation holds values of the header: show it only to those who may see them, and
never write it down.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from router.decide import conditions as c
from router.decide.conditions.header import NO_TEXT
from router.decide.conditions.prediction import summed
from router.decide.decision import decide
from router.decide.table import Rule, RuleTable
from router.flow import CLASSES, Decision, Header, Instance, Seen

MOST_SHOWN = 200
"""Characters of a value that are shown."""


class Outcome(StrEnum):
    """What a rule did."""

    DECIDES = "decides"
    FALSE = "false"
    UNKNOWN = "unknown"
    SHADOW = "shadow"
    """It is true, and is only being tried."""
    DISABLED = "disabled"
    """It is true, and all its destinations are disabled."""
    TOO_LATE = "too late"
    """It is true, and an earlier rule has decided."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One condition: what it asks, the answer (None: unknown), what it wants and what was found.

    `parts` are the conditions that a `not`, an `any` or several together are made of.
    """

    subject: str
    answer: bool | None
    wanted: str
    found: str
    parts: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainedRule:
    """One rule. `because` names the conditions that made it false or unknown; empty for a rule that is true."""

    name: str
    outcome: Outcome
    answer: bool | None
    because: tuple[str, ...]
    conditions: tuple[Answer, ...]
    send: tuple[str, ...]
    discard: bool
    study: bool = False
    """Where it sends an instance, the others of the study follow."""
    one_of: bool = False
    """Only one of the destinations gets the instance."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every rule in order, and the decision that they make together."""

    rules: tuple[ExplainedRule, ...]
    decision: Decision


def explain(
    table: RuleTable, instance: Instance, seen: Seen, *, enabled: frozenset[str], kept: c.Kept | None = None
) -> Explanation:
    """What each rule says of an instance. `kept`: the header of `seen` is what an earlier decision kept of it."""
    decision = decide(table, instance, seen, enabled=enabled, kept=kept)
    facts = c.Facts(instance, seen, kept)
    return Explanation(tuple(_rules(table, facts, decision, enabled)), decision)


def _rules(table: RuleTable, facts: c.Facts, decision: Decision, enabled: frozenset[str]) -> Iterator[ExplainedRule]:
    decided = False
    for rule in table.rules:
        answer = rule.when.holds(facts)
        outcome = _outcome(rule, answer, decision, enabled, decided=decided)
        decided = decided or outcome is Outcome.DECIDES
        together = rule.when.conditions if isinstance(rule.when, c.AllOf) else (rule.when,)
        answers = tuple(_answer(one, facts) for one in together)
        because = () if answer else tuple(one.subject for one in answers if one.answer is answer)
        yield ExplainedRule(
            rule.name, outcome, answer, because, answers, rule.send, rule.discard, rule.study, bool(rule.one_of)
        )


def _outcome(rule: Rule, answer: bool | None, decision: Decision, enabled: frozenset[str], *, decided: bool) -> Outcome:
    if answer is not True:
        return Outcome.UNKNOWN if answer is None else Outcome.FALSE
    if decided:
        return Outcome.TOO_LATE
    if rule.shadow:
        return Outcome.SHADOW
    if rule.name == decision.rule:
        return Outcome.DECIDES
    return Outcome.TOO_LATE if rule.discard or not enabled.isdisjoint(rule.send) else Outcome.DISABLED


def _answer(condition: c.Condition, facts: c.Facts) -> Answer:
    match condition:
        case c.AllOf() | c.AnyOf():
            below = condition.conditions
        case c.Not():
            below = (condition.condition,)
        case _:
            below = ()
    word = {c.AllOf: "all of these", c.AnyOf: "any of these", c.Not: "not this"}.get(type(condition), "")
    return Answer(
        condition.subject, condition.holds(facts), word or _wanted(condition), "" if word else _found(condition, facts),
        tuple(_answer(one, facts) for one in below),
    )  # fmt: skip


def _wanted(condition: c.Condition) -> str:
    """What a condition asks for, as routing.yaml writes it."""
    match condition:
        case c.ClassIs() | c.TopIs() | c.ViewIs() | c.HeaderPart() | c.HeaderView() | c.ResultOf():
            return _listed(condition.names)
        case c.PixelsAre():
            return _listed(condition.states)
        case c.Confidence() | c.Probability() | c.PartConfidence() | c.Frames():
            return f"{condition.comparison.operator} {condition.comparison.limit:g}"
        case c.AgeIs():
            return f"{condition.operator} {condition.limit}{condition.unit.lower()}"
        case c.Novel() | c.Inverted() | c.HeaderAgrees():
            return "true" if condition.expected else "false"
        case c.Exists() | c.PrivateExists():
            return "exists" if condition.expected else "does not exist"
        case c.Text() | c.PrivateText() | c.FromAe() | c.SopClass():
            return _matched(condition.matcher)
        case c.PeerIn():
            return ", ".join(map(str, condition.networks))
        case c.ReceivedAt():
            return ", ".join(one.written for one in condition.hours)
    return condition.subject


def _matched(matcher: c.Matcher) -> str:
    if isinstance(matcher, c.Equal):
        return _listed(matcher.words)
    return f"matches {matcher.pattern}" if isinstance(matcher, c.Regex) else "matches"


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(words))


def _found(condition: c.Condition, facts: c.Facts) -> str:
    """What was found of the instance: a value, or why there is none."""
    match condition:
        case c.FromAe():
            caller = facts.instance.caller
            return _short(caller.calling_ae if condition.subject == "calling_ae" else caller.called_ae)
        case c.PeerIn():
            return facts.instance.caller.peer
        case c.ReceivedAt():
            return condition.hours[0].local(facts.instance.received_at).strftime("%a %H:%M")
        case c.SopClass():
            return facts.instance.sop_class
        case c.PixelsAre():
            return facts.seen.pixels
        case c.AgeIs():
            return _age(facts)
        case c.Frames() if facts.seen.facts.frames > 0:
            return str(facts.seen.facts.frames)
        case c.HeaderPart() | c.HeaderView() | c.HeaderAgrees():
            return _of_words(condition, facts)
        case c.Text() | c.Exists():
            return _value(facts.seen.header, condition.tag, facts)
        case c.Frames():
            return _value(facts.seen.header, next(iter(condition.tags)), facts)
        case c.PrivateText() | c.PrivateExists():
            return _private(condition, facts)
    return _predicted(condition, facts)


def _predicted(condition: c.Condition, facts: c.Facts) -> str:
    prediction = facts.seen.prediction
    if isinstance(condition, c.ResultOf):
        return ", ".join(facts.seen.result_of) or "no result"
    if prediction is None:
        return "no prediction"
    match condition:
        case c.ClassIs():
            return prediction.class_name
        case c.TopIs():
            return prediction.top
        case c.ViewIs():
            return prediction.view or "the model has no views"
        case c.Inverted():
            return "true" if prediction.inverted else "false"
        case c.Novel():
            return "true" if prediction.novel else "false"
        case c.Confidence():
            return f"{prediction.confidence:.4f}"
        case c.Probability():
            return f"{summed(prediction, condition.classes):.4f}"
        case c.PartConfidence():
            chest = c.CHESTS if prediction.top in c.CHESTS else frozenset({prediction.top})
            return f"{summed(prediction, chest):.4f}"
    return ""


def _age(facts: c.Facts) -> str:
    """In whole years, months or days: as much as is known."""
    age = facts.age
    if age is None:
        return "not known"
    fewest, most = age.completed("Y")
    unit = "year"
    if most < 3:
        unit = "month"
        fewest, most = age.completed("M")
    if most < 3 and unit == "month":
        unit = "day"
        fewest, most = age.completed("D")
    span = str(fewest) if fewest == most else f"{fewest} to {most}"
    return f"{span} {unit}{'' if span == '1' else 's'}"


def _of_words(condition: c.HeaderPart | c.HeaderView | c.HeaderAgrees, facts: c.Facts) -> str:
    if facts.is_missing(condition.tags):
        return "not kept"
    words = condition.vocabulary
    if isinstance(condition, c.HeaderView):
        return words.view(facts.seen.header)
    part = words.part(facts.seen.header)
    return part if isinstance(condition, c.HeaderPart) else f"header {part}, pixels {_predicted(_TOP, facts)}"


_TOP = c.TopIs(frozenset(CLASSES))


def _value(header: Header, tag: int, facts: c.Facts) -> str:
    if facts.is_missing(frozenset({tag})):
        return "not kept"
    if tag not in header:
        return "absent"
    return _said(header[tag])


def _said(values: tuple[str, ...] | None) -> str:
    if values is None:
        return "unreadable"
    if values == NO_TEXT:
        return "present"
    return _short("\\".join(values)) if values else "empty"


def _private(condition: c.PrivateText | c.PrivateExists, facts: c.Facts) -> str:
    if facts.is_missing(condition.tags):
        return "not kept"
    found = condition.place.found(facts.seen.header)
    if found is None:
        return "unreadable"
    return ", ".join(map(_said, found)) or "absent"


def _short(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"
