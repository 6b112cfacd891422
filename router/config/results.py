"""Which destinations give results, and what is wrong with what the settings say about that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from router.config.document import Node, Table
from router.config.fields import Context
from router.config.problems import nearest
from router.config.settings import DestinationSettings, NodeSettings, ResultsFrom, SpoolSettings
from router.decide import Otherwise, Rule, RuleTable
from router.decide.conditions import ANY, AllOf, Condition, ResultOf, parts


def results_from(destinations: Mapping[str, DestinationSettings], table: RuleTable) -> dict[str, ResultsFrom]:
    """The destinations that give results.

    Some are named: by `results_from` or `expect_result`, or by a condition. Of the others, those to which a rule sends
    may be AIs, except archives, and what `otherwise` names: they get what is for people.
    """
    asked = _asked(table)
    sent = {name for rule in table.rules for name in rule.send} - set(table.otherwise.send)
    found = {}
    for name, to in destinations.items():
        named = bool(to.results_from) or to.expect_result is not None or name in asked
        titles = to.results_from or ((to.ae_title,) if to.ae_title else ())
        if named or (name in sent and not to.archive):
            found[name] = ResultsFrom(frozenset(titles), named)
    return found


def _asked(table: RuleTable) -> set[str]:
    """The destinations that conditions name."""
    asked = (part for rule in table.rules for part in parts(rule.when) if isinstance(part, ResultOf))
    return {name for condition in asked for name in condition.names} - {ANY}


def check_results(
    root: Table, destinations: Mapping[str, DestinationSettings], spool: SpoolSettings | None, context: Context
) -> None:
    """Report what cannot work."""
    for name, to in destinations.items():
        where, there = f"destination '{name}'", _entries(root, name)
        if to.fallback is not None:
            place = there.get("fallback", root)
            if to.expect_result is None:
                fix = "add for instance expect_result: 10min, or remove fallback"
                context.wrong(place, f"{where} has fallback without expect_result", fix)
            elif to.fallback not in destinations:
                message = f"{where}.fallback: unknown destination '{to.fallback}'"
                context.wrong(place, message, nearest(to.fallback, destinations))
            elif to.fallback == name:
                context.wrong(place, f"{where}.fallback is itself", "name another destination")
            elif not destinations[to.fallback].enabled:
                context.wrong(place, f"{where}.fallback is disabled", "enable it, or name another destination")
        if to.expect_result is None:
            continue
        place = there.get("expect_result", root)
        if not (to.results_from or to.ae_title):
            fix = "add results_from: and the AE title from which they are sent to this node"
            context.wrong(place, f"{where} has expect_result, but it is not known where its results come from", fix)
        if spool is not None and to.expect_result >= spool.keep_records:
            fix = "make expect_result shorter: 10min is usual"
            context.wrong(place, f"{where}.expect_result is longer than spool.keep_records", fix)


def _entries(root: Table, name: str) -> Mapping[str, Node]:
    section = root.entries.get("destinations")
    below = section.entries.get(name) if isinstance(section, Table) else None
    return below.entries if isinstance(below, Table) else {}


def unwelcome(node: NodeSettings, givers: Mapping[str, ResultsFrom]) -> Iterator[tuple[str, str]]:
    """Destinations that must give results, whose AE titles `node.accept` refuses; each with a title."""
    if node.accept is None or any(line.ae_title is None for line in node.accept):
        return
    welcome = {line.ae_title for line in node.accept}
    for name, one in givers.items():
        if one.named:
            yield from ((name, title) for title in sorted(one.titles - welcome))


def returned(rule: Rule) -> Iterator[str]:
    """The AIs whose results a rule sends nowhere: it has no other destination for them, and nothing goes back."""
    if not rule.shadow:
        yield from sorted(
            name for name in _takes_results_of(rule) if name in rule.send and (rule.one_of or set(rule.send) == {name})
        )


def _takes_results_of(rule: Rule) -> set[str]:
    """What `result_of` names in a rule that takes nothing but results."""
    conditions: tuple[Condition, ...] = rule.when.conditions if isinstance(rule.when, AllOf) else (rule.when,)
    return {name for one in conditions if isinstance(one, ResultOf) for name in one.names}


def unseen(destinations: Mapping[str, DestinationSettings], table: RuleTable) -> Iterator[tuple[str, str]]:
    """Destinations after whose fallbacks only silent AIs have an image; each with what people should know.

    A result is not expected to be answered, so rules for results do not count.
    """
    for name, to in destinations.items():
        chain = [name]
        while (following := destinations[chain[-1]].fallback) is not None and following not in chain:
            chain.append(following)
        if to.fallback is None or not to.enabled or destinations[chain[-1]].expect_result is None:
            continue
        rules: list[Rule | Otherwise] = [
            rule for rule in table.rules if not rule.shadow and not _takes_results_of(rule)
        ]
        for rule in [*rules, table.otherwise]:
            if name in rule.send and (rule.one_of or _only_expects(rule.send, destinations)):
                who = f"rule '{rule.name}'" if isinstance(rule, Rule) else "otherwise"
                way = " -> ".join([*chain, following] if following is not None else chain)
                about = f"each fallback of '{name}' expects a result itself ({way}): if all are silent, only they have "
                fix = "let the last one be a destination without expect_result"
                yield name, f"{about}what {who} sends; {fix}"
                break


def _only_expects(send: tuple[str, ...], destinations: Mapping[str, DestinationSettings]) -> bool:
    return all(destinations[name].expect_result is not None for name in send if destinations[name].enabled)
