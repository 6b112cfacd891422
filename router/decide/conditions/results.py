"""What a rule can ask of a result: whose it is. The spool knows; never unknown."""

from __future__ import annotations

from dataclasses import dataclass

from router.decide.conditions.base import Facts, NoTags

ANY = "any"


@dataclass(frozen=True, slots=True)
class ResultOf(NoTags):
    """Whether it answers a delivery to one of these destinations, or with ANY to any destination."""

    names: frozenset[str]
    subject: str = "result_of"

    def holds(self, facts: Facts) -> bool | None:
        found = facts.seen.result_of
        return bool(found) if ANY in self.names else not self.names.isdisjoint(found)
