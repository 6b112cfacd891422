"""`rules` and `otherwise` to a RuleTable, and the checks that need all the rules at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from router.config import values
from router.config.condition_keys import all_of
from router.config.document import Node, Scalar, Sequence, Table
from router.config.fields import Context, Parser, Skip, as_table, fields, scalar, several
from router.config.problems import nearest
from router.decide import Otherwise, Rule
from router.decide.decision import OTHERWISE
from router.decide.unreachable import MOST_STEPS, implies, never_fire
from router.decide.world import Budget, Spent

_LONGEST_NAME = 64
"""Characters of a rule's name."""
_MOST_REASONS = 5
"""Earlier rules that a warning names."""


def otherwise(node: Node, destinations: Mapping[str, bool], context: Context) -> Otherwise:
    """Where everything else goes. `destinations`: name to enabled."""
    written = as_table("otherwise", node, context).entries if isinstance(node, Table) else {}
    found = fields("otherwise", node, {"send": _one_or_all(written, destinations)}, context)
    of: dict[str, Any] = found["send"] if isinstance(found.get("send"), dict) else {}
    send: tuple[str, ...] = of["one_of"] if of else found.get("send", ())
    if "send" not in as_table("otherwise", node, context).entries or found.get("send") == ():
        context.wrong(node, "otherwise sends nowhere", "write otherwise: {send: catch-all}")
        raise Skip
    if send and not any(destinations[name] for name in send):
        context.wrong(
            node, "every destination of otherwise is disabled", "enable one: every instance needs a destination"
        )
        raise Skip
    return Otherwise(send, of.get("by", "study") if of else "")


def rules(
    node: Node, destinations: Mapping[str, bool], context: Context, *, check_reach: bool = True
) -> tuple[Rule, ...]:
    """The rules in order. `destinations`: name to enabled.

    A rule that can never fire is a mistake or a warning, unless `check_reach` is off: rules that decided were checked.
    """
    if isinstance(node, Scalar) and node.null:
        return ()
    if not isinstance(node, Sequence):
        context.wrong(node, "rules must be a list", "begin each rule with '- name: …'")
        raise Skip
    found: list[tuple[Rule, Node]] = []
    lines: dict[str, int] = {}
    for place, item in enumerate(node.items, 1):
        try:
            rule = _rule(place, item, destinations, context)
        except Skip:
            continue
        if rule.name in lines:
            context.wrong(item, f"two rules are named '{rule.name}'", f"the other is on line {lines[rule.name]}")
        lines.setdefault(rule.name, item.line)
        found.append((rule, item))
    if check_reach:
        _check_reach(found, destinations, context)
    return tuple(rule for rule, _ in found)


def _check_reach(found: list[tuple[Rule, Node]], destinations: Mapping[str, bool], context: Context) -> None:
    """A rule that an earlier one plainly hides is a mistake; any other rule that can never fire is a warning."""
    rules = [rule for rule, _ in found]
    hides = [_ends_the_search(rule, destinations) for rule in rules]
    budget = Budget(MOST_STEPS)
    for place, reasons in never_fire(rules, hides).items():
        rule, node = found[place]
        said = f"rule '{rule.name}' can never fire"
        plain = None
        with suppress(Spent):  # it is a warning then
            plain = next((other for other in reasons if _plainly(rule, rules[other], budget)), None)
        if plain is not None:
            earlier, other = found[plain]
            fix = f"'{earlier.name}' on line {other.line} always fires first; put this rule before it, or remove one"
            context.wrong(node, said, fix)
        elif reasons:
            names = [f"'{rules[other].name}' on line {found[other][1].line}" for other in reasons[:_MOST_REASONS]]
            if len(reasons) > _MOST_REASONS:
                names.append(f"{len(reasons) - _MOST_REASONS} more")
            takes = "takes" if len(names) == 1 else "take"
            context.problems.warn(node.line, f"{said}: {' and '.join(names)} {takes} its instances first")
        else:
            context.problems.warn(node.line, f"{said}: its conditions contradict each other")


def _plainly(rule: Rule, earlier: Rule, budget: Budget) -> bool:
    """Whether an earlier rule plainly takes all that this one could take."""
    return rule.when == earlier.when or implies(rule.when, earlier.when, budget)


def _ends_the_search(rule: Rule, destinations: Mapping[str, bool]) -> bool:
    """Whether the rules after this one are not asked when it is true. `destinations`: name to enabled."""
    return not rule.shadow and (rule.discard or any(destinations.get(name, False) for name in rule.send))


def _rule(place: int, node: Node, destinations: Mapping[str, bool], context: Context) -> Rule:
    where = f"rule {place}"
    written = as_table(where, node, context).entries
    name = written.get("name")
    if isinstance(name, Scalar) and name.text:
        where = f"rule '{name.text[:_LONGEST_NAME]}'"
    known: dict[str, Parser] = {
        "name": scalar(_name),
        "when": lambda _, below, inner: all_of(f"{where}.when", below, inner),
        "send": _one_or_all(written, destinations),
        "discard": scalar(values.boolean),
        "reason": scalar(values.text),
        "shadow": scalar(values.boolean),
        "priority": scalar(values.one_of("normal", "urgent")),
        "scope": scalar(values.one_of("instance", "study")),
    }
    found = fields(where, node, known, context)
    if "name" not in written:
        context.wrong(node, f"{where} has no name", "add name: and a few words that say what the rule catches")
    if "when" not in written:
        context.wrong(node, f"{where} has no when", "add when: {…}; for all remaining instances use otherwise")
    _check_send(where, node, found, "send" in written, context)
    if any(key not in found for key in ("name", "when")) or ("send" in written and "send" not in found):
        raise Skip
    if isinstance(found.get("send"), dict):
        found |= {"send": found["send"]["one_of"], "one_of": found["send"].get("by", "study")}
    found["urgent"] = found.pop("priority", "normal") == "urgent"
    study = found.pop("scope", "instance") == "study"
    if study and found.get("discard", False):
        fix = "remove scope: nothing is sent, so nothing follows"
        context.wrong(node, f"{where} has both discard and scope: study", fix)
        raise Skip
    return Rule(**{"send": (), **found, "study": study})


def _one_or_all(written: Mapping[str, Node], destinations: Mapping[str, bool]) -> Parser:
    """A parser of `send`: destinations, or one of several."""
    return _replicas(destinations) if isinstance(written.get("send"), Table) else _send(destinations)


def _replicas(destinations: Mapping[str, bool]) -> Parser:
    """`send: {one_of: [a, b], by: study}`."""
    known: dict[str, Parser] = {"one_of": _send(destinations), "by": scalar(values.one_of("study", "instance"))}

    def parser(where: str, node: Node, context: Context) -> dict[str, Any]:
        found = fields(where, node, known, context)
        names = found.get("one_of", ())
        if len(names) < 2:
            if "one_of" in found or "one_of" not in as_table(where, node, context).entries:
                context.wrong(
                    node, f"{where} must name two destinations", "write send: {one_of: [ai-1, ai-2], by: study}"
                )
            raise Skip
        return found

    return parser


def _check_send(where: str, node: Node, found: dict[str, Any], written: bool, context: Context) -> None:
    discard = found.get("discard", False)
    nowhere = not written or found.get("send") == ()
    if nowhere and not discard:
        context.wrong(node, f"{where} sends nowhere", "add send: and a destination, or discard: true and a reason")
        raise Skip
    if discard and not nowhere:
        context.wrong(node, f"{where} has both discard and send", "remove one of them")
        raise Skip
    if discard and "reason" not in found:
        context.wrong(node, f"{where} discards without a reason", "add reason: and say why they need no destination")
        raise Skip


def _name(written: str) -> str:
    name = values.text(written)
    if len(name) > _LONGEST_NAME or name == OTHERWISE:
        raise values.WrongError(
            f"'{name[:_LONGEST_NAME]}' cannot be a rule's name", "use 1 to 64 characters, and not the word otherwise"
        )
    return name


def _send(destinations: Mapping[str, bool]) -> Parser:
    def known(written: str) -> str:
        if written not in destinations:
            raise values.WrongError(f"unknown destination '{written}'", nearest(written, destinations))
        return written

    def parser(where: str, node: Node, context: Context) -> tuple[str, ...]:
        if (isinstance(node, Sequence) and not node.items) or (isinstance(node, Scalar) and node.null):
            return ()
        names: tuple[str, ...] = several(known)(where, node, context)
        return names

    return parser
