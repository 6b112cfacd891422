"""The list of nodes that work on one PostgreSQL database: each writes its own row, and everybody may read them all."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from router.spool import clock
from router.spool.database import Database
from router.spool.node_rows import FORGOTTEN_AFTER, GONE_AFTER, node

MOST = 1000
"""Rows that are listed."""
LONGEST_PROBLEM = 1000
"""Characters that are kept of a problem."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node says of itself again and again."""

    settings: int = 0
    """The version of the shared settings that are in force there."""
    choice: int = 0
    """The version of the choice of models that is in force there."""
    problem: str = ""
    """What a person must know; empty if all is well."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where it listens, what its model runs on, and which destinations fail its every try."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as its row has it. Times are Unix seconds by the database's clock."""

    start: int
    name: str
    host: str
    roles: tuple[str, ...]
    version: str
    began_at: float
    seen_at: float
    skew: float
    """Seconds by which the clock of its machine is ahead of the database's."""
    state: NodeState
    ago: float
    """Seconds since it was seen."""

    @property
    def is_gone(self) -> bool:
        return self.ago > GONE_AFTER


class Nodes:
    """What `node` writes, and what people and other nodes read. On SQLite nothing is written. Methods raise
    SpoolError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._own: dict[str, Any] = {}

    def begin(
        self, name: str | None, host: str, roles: Sequence[str], version: str, word: str, killed: Collection[int] = ()
    ) -> str:
        """Enter this node, and return its name. Without one it is `word` and the lowest number that is free.

        `killed`: starts of nodes of this host that were killed, so that nobody misses them.
        """
        start = self._database.start

        def job(connection: sa.Connection) -> dict[str, Any]:
            connection.exec_driver_sql("LOCK TABLE node IN EXCLUSIVE MODE")  # two that start at once want one number
            connection.execute(node.delete().where(node.c.start.in_(killed), node.c.host == host))
            now = clock.now(connection)
            called = name or _free(connection, word, now)
            row = {
                "start": start, "name": called, "host": host, "roles": ",".join(roles), "version": version[:40],
                "began_at": now,
            }  # fmt: skip
            connection.execute(node.insert().values(**row, seen_at=now))
            return row

        self._own = self._database.run(job)
        return str(self._own["name"])

    def seen(self, state: NodeState) -> None:
        """Say that this node runs, and how it is. Forgets nodes that are gone for a day, or that this one replaces."""
        own, skew = self._own, self.skew()

        def job(connection: sa.Connection) -> None:
            now = clock.now(connection)
            values = {
                "seen_at": now, "skew": skew, "settings": state.settings, "choice": state.choice,
                "problem": state.problem[:LONGEST_PROBLEM], "about": json.dumps(dict(state.about)),
            }  # fmt: skip
            updated = connection.execute(node.update().where(node.c.start == own["start"]).values(**values))
            if not updated.rowcount:  # this process stood still for a day, and was forgotten
                connection.execute(node.insert().values(**own, **values))
            before = (node.c.name == own["name"]) & (node.c.start < own["start"]) & (node.c.seen_at < now - GONE_AFTER)
            connection.execute(node.delete().where(before | (node.c.seen_at < now - FORGOTTEN_AFTER)))

        self._database.run(job)

    def end(self) -> Future[None]:
        """This node ends, and is not missed. Does not wait: the spool's end does, and knows how long."""
        gone = node.delete().where(node.c.start == self._own["start"])

        def job(connection: sa.Connection) -> None:
            connection.execute(gone)

        return self._database.writer.submit(job)

    def all(self) -> list[NodeRow]:
        """Those that run, and those that have been gone for less than a day, in the order of their names."""

        def ask(connection: sa.Connection) -> list[NodeRow]:
            now = clock.now(connection)
            return [_row(one, now) for one in connection.execute(sa.select(node).order_by(node.c.name).limit(MOST))]

        return self._database.ask(ask)

    def running(self, role: str = "") -> list[NodeRow]:
        """Those that run, of one role if it is named."""
        return [one for one in self.all() if not one.is_gone and (not role or role in one.roles)]

    def skew(self) -> float:
        """Seconds by which this machine's clock is ahead of the database's."""
        before = time.time()
        there = self._database.ask(clock.now)
        return (before + time.time()) / 2 - there


def _free(connection: sa.Connection, word: str, now: float) -> str:
    """A word with the lowest number that no node has which runs."""
    taken = set(connection.execute(sa.select(node.c.name).where(node.c.seen_at > now - GONE_AFTER)).scalars())
    return next(name for number in range(1, len(taken) + 2) if (name := f"{word}-{number}") not in taken)


def _row(row: Any, now: float) -> NodeRow:
    about: Any = json.loads(row.about)
    state = NodeState(row.settings, row.choice, row.problem, about)
    return NodeRow(
        row.start, row.name, row.host, tuple(row.roles.split(",")), row.version, row.began_at, row.seen_at, row.skew,
        state, max(0.0, now - row.seen_at),
    )  # fmt: skip


def lagging(rows: Sequence[NodeRow], *, settings: int = 0, choice: int = 0) -> list[NodeRow]:
    """Those of some nodes in which an older version of settings or choice is in force."""
    return [
        replace(one, state=replace(one.state, problem=one.state.problem or "it has not followed yet"))
        for one in rows
        if one.state.settings < settings or one.state.choice < choice
    ]
