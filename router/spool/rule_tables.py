"""The rules that have decided, or that an order put in force: each table is kept as long as decisions name it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from router.decide import Otherwise, RuleTable
from router.decide.header_facts import NOTHING_ASKED, Asked, asked
from router.spool import clock
from router.spool.schema import parts, rule_table

NOTED_EVERY = 3600.0
"""Seconds between two notes that a table still decides."""
MOST = 1000
"""Tables that are kept; beyond it, those go that have not decided for the longest time."""
NO_RULES = RuleTable((), Otherwise(()))
"""Rules without a digest, which are not kept."""

_KEEP = sa.text(
    "INSERT INTO rule_table (digest, first_used, last_used, text, asks) VALUES (:digest, :now, :now, :text, :asks) "
    "ON CONFLICT (digest) DO UPDATE SET last_used = :now"
)


@dataclass(frozen=True, slots=True)
class KeptTable:
    """Rules that have decided. Times are Unix seconds; `last_used` may be an hour late."""

    digest: str
    first_used: float
    last_used: float
    written: Mapping[str, Any] = field(repr=False)
    """The parts `header_words`, `rules` and `otherwise` of the routing.yaml, as plain lists, mappings and texts."""
    asked: Asked = field(repr=False)
    applied_at: float = 0.0
    """When an order last put it in force; 0: none has."""
    author: str = ""
    comment: str = ""
    replaced: str = ""
    """The digest of the rules in force before it."""
    source: str = field(default="", repr=False)
    """Its lines of routing.yaml."""


class RulesInUse:
    """The rules that decide now, and when each was last noted."""

    def __init__(self) -> None:
        self._latest: tuple[RuleTable, Asked] = (NO_RULES, NOTHING_ASKED)
        self._noted: dict[str, float] = {}

    def asked(self, rules: RuleTable) -> Asked:
        """What they ask of a header."""
        known, beyond = self._latest
        if known is not rules:
            beyond = asked(rules)
            self._latest = (rules, beyond)
        return beyond

    def is_due(self, rules: RuleTable) -> bool:
        """Whether it must be noted that these rules decide."""
        noted = self._noted.get(rules.digest)
        return bool(rules.digest) and (noted is None or clock.monotonic() - noted > NOTED_EVERY)

    def keep(self, connection: sa.Connection, rules: RuleTable) -> None:
        values = {"digest": rules.digest, "now": clock.now(connection), "text": rules.text}
        connection.execute(_KEEP, values | {"asks": _asks_as_text(asked(rules))})

    def was_kept(self, rules: RuleTable) -> None:
        """The note is written for good."""
        self._noted = {rules.digest: clock.monotonic()}


def keep_applied(connection: sa.Connection, rules: RuleTable, source: str, *, now: float, **how: Any) -> None:
    """Keep rules that an order put in force (`how`), or that were until then; with their lines of routing.yaml."""
    values = {"digest": rules.digest, "now": now, "text": rules.text, "asks": _asks_as_text(asked(rules))}
    connection.execute(_KEEP, values)
    that = rule_table.c.digest == rules.digest
    known = how | ({"source": source} if source else {})
    if known:
        connection.execute(rule_table.update().where(that).values(known))


def kept_tables(connection: sa.Connection, beginning: str = "") -> list[KeptTable]:
    """The tables whose digest begins so, the one that decided last first."""
    query = sa.select(rule_table).order_by(rule_table.c.last_used.desc(), rule_table.c.digest)
    if beginning:
        query = query.where(rule_table.c.digest >= beginning, rule_table.c.digest < beginning + "g")
    return [_kept(row) for row in connection.execute(query)]


def asks_of(connection: sa.Connection, digests: Sequence[str]) -> dict[str, Asked]:
    """What tables ask of a header, those of them that are kept, by digest."""
    found: dict[str, Asked] = {}
    for some in parts(digests):
        query = sa.select(rule_table.c.digest, rule_table.c.asks).where(rule_table.c.digest.in_(some))
        found |= {row.digest: _asks(row.asks) for row in connection.execute(query)}
    return found


def forget(connection: sa.Connection, before: float, limit: int) -> int:
    """Remove tables that last decided before a time, whose decisions are forgotten too, and those beyond MOST."""
    late = sa.select(rule_table.c.digest).order_by(rule_table.c.last_used.desc()).offset(MOST).limit(limit)
    beyond = connection.execute(late).scalars().all()
    old = (rule_table.c.last_used < before - 2 * NOTED_EVERY) | rule_table.c.digest.in_(beyond)
    return connection.execute(rule_table.delete().where(old)).rowcount


def _asks_as_text(one: Asked) -> str:
    return json.dumps({"tags": sorted(one.tags), "ages": sorted(one.ages)})


def _kept(row: sa.Row[Any]) -> KeptTable:
    """One damaged value must not hide the other tables."""
    return KeptTable(
        row.digest, row.first_used, row.last_used, _decoded(row.text), _asks(row.asks), row.applied_at, row.author,
        row.comment, row.replaced, row.source,
    )  # fmt: skip


def _asks(text: str) -> Asked:
    asks = _decoded(text)
    try:
        return Asked(frozenset(map(int, asks["tags"])), frozenset(map(float, asks["ages"])))
    except (KeyError, TypeError, ValueError):
        return NOTHING_ASKED


def _decoded(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
