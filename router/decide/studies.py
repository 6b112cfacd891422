"""Which instances follow others of their study, once all are decided: what `scope: study` does, in any order. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from router.decide.decision import places
from router.decide.table import RuleTable
from router.flow import Decision


def keeps_together(table: RuleTable) -> bool:
    """Whether some rule has `scope: study`."""
    return any(rule.study and not rule.shadow for rule in table.rules)


def following(decided: Sequence[tuple[str, Decision]]) -> list[Mapping[str, int]]:
    """For each decision, the destinations that it follows to, each with the place of the first that leads there.

    `decided`: study and decision of each instance; one without a study is empty, and follows none.
    """
    leads: dict[str, dict[str, int]] = defaultdict(dict)
    for place, (study, decision) in enumerate(decided):
        if study and decision.study:
            for name in places(decision):
                leads[study].setdefault(name, place)
    return [beyond(decision, leads.get(study, {})) for study, decision in decided]


def beyond(decision: Decision, leads: Mapping[str, int]) -> Mapping[str, int]:
    """What an instance gets because others of its study lead there; nothing if a rule discards it."""
    if decision.discard:
        return {}
    return {name: place for name, place in leads.items() if name not in places(decision)}
