"""The destinations whose every delivery fails, as those tell it that send: the one node, or each of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from router.forward.failing import Failing
from router.spool.nodes import NodeRow

FAILING_FOR, FAILING_TRIES, FAILING_INSTANCES = 120.0, 3, 2
"""A destination whose every try fails is said to refuse after so many seconds, tries and different instances."""


@dataclass(frozen=True, slots=True)
class Refuses:
    """How a destination refuses, and the names of those of several nodes that it refuses. Another may succeed."""

    all: Failing
    by: tuple[str, ...]

    def and_by(self, other: Refuses) -> Refuses:
        """Of two nodes. They may have tried the same instances, so those are not summed up."""
        mine, yours = self.all, other.all
        instances = max(mine.instances, yours.instances)
        both = Failing(min(mine.since, yours.since), mine.tries + yours.tries, instances, yours.reason)
        return Refuses(both, (*self.by, *other.by))


def refusing(node: Mapping[str, Any] | None, nodes: Sequence[NodeRow], now: float) -> dict[str, Refuses]:
    """By destination. `node` is what the only node says of itself."""
    found: dict[str, Refuses] = {}
    for name, one in _told(node, nodes):
        found[name] = found[name].and_by(one) if name in found else one
    return {
        name: one for name, one in found.items()
        if now - one.all.since >= FAILING_FOR and one.all.tries >= FAILING_TRIES
        and one.all.instances >= FAILING_INSTANCES
    }  # fmt: skip


def _told(node: Mapping[str, Any] | None, nodes: Sequence[NodeRow]) -> Iterator[tuple[str, Refuses]]:
    for name, one in ((node or {}).get("failing") or {}).items():
        yield name, Refuses(Failing(**one), ())
    for row in nodes:
        if not row.is_gone:
            for name, one in (row.state.about.get("failing") or {}).items():
                its = Failing(**one)
                yield name, Refuses(replace(its, since=its.since - row.skew), (row.name,))
