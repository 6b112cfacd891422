"""Which destinations give results, and what is wrong with what the settings say about that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from router.config.document import Node, Table
from router.config.fields import Context
from router.config.problems import nearest
from router.config.settings import DestinationSettings, NodeSettings, ResultsFrom, SpoolSettings
from router.decide import RuleTable
from router.decide.conditions import ANY, ResultOf, parts


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
