"""Rules of the past: the tables that are kept, and what came, as they decided it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa

from router.decide import RuleTable
from router.decide.replay import Came
from router.spool import clock
from router.spool.database import Database
from router.spool.events import add_event
from router.spool.find import FIRST_PAGE
from router.spool.kept_decisions import PAGE_OF_CAME, KnownAsks, came_one, came_page
from router.spool.rule_tables import KeptTable, keep_applied, kept_tables
from router.spool.schema import event

RULES_BEGUN, RULES_REFUSED = "rules change begun", "rules change refused"
"""Events of an order that is about to put rules in force, and of one that could not."""


class Rules:
    """What replays, explains and changes rules needs of the spool. Its methods raise SpoolError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tables(self, beginning: str = "") -> list[KeptTable]:
        """The kept rules whose digest begins so, those that decided last first."""
        return self._database.ask(lambda c: kept_tables(c, beginning))

    def note_begun(self, kind: str, old: tuple[RuleTable, str], digest: str, comment: str, who: str) -> None:
        """Record, before they are written, that an order is about to put rules in force: a node may end meanwhile."""

        def job(connection: sa.Connection) -> None:
            keep_applied(connection, *old, now=clock.now(connection))
            detail = {"order": kind, "comment": comment, "digest": digest, "before": old[0].digest}
            add_event(connection, RULES_BEGUN, who=who, **detail)

        self._database.run(job)

    def note_refused(self, digest: str, reason: str, who: str) -> None:
        """Record that such an order failed, and why."""
        self._database.run(lambda c: add_event(c, RULES_REFUSED, who=who, digest=digest, reason=reason))

    def note_finished(self, new: tuple[RuleTable, str]) -> bool:
        """If these rules in force are those of the latest order, and it ended before its record, complete the record.

        Returns whether it did.
        """

        def job(connection: sa.Connection) -> bool:
            latest = sa.select(event).where(event.c.kind.in_((RULES_BEGUN, RULES_REFUSED))).order_by(event.c.id.desc())
            last = connection.execute(latest.limit(1)).one_or_none()
            said = json.loads(last.detail) if last is not None and last.kind == RULES_BEGUN else {}
            if last is None or said.get("digest") != new[0].digest:
                return False
            noted = next((one.applied_at for one in kept_tables(connection, new[0].digest)), None)
            if noted is not None and noted >= last.at:
                return False
            now, before = clock.now(connection), said["before"]
            how = {"applied_at": now, "author": said["who"], "comment": said["comment"], "replaced": before}
            keep_applied(connection, *new, now=now, **how)
            detail = {"comment": said["comment"], "digest": new[0].digest, "before": before}
            add_event(connection, said["order"], who=said["who"], **detail)
            return True

        return self._database.run(job)

    def note_applied(
        self, kind: str, old: tuple[RuleTable, str], new: tuple[RuleTable, str], comment: str, who: str
    ) -> None:
        """Record that an order put rules in force; each with its lines of routing.yaml, as far as they are known.

        `kind` is that of the event; empty where a reload has its own.
        """

        def job(connection: sa.Connection) -> None:
            now, before = clock.now(connection), old[0].digest
            keep_applied(connection, *old, now=now)
            keep_applied(connection, *new, now=now, applied_at=now, author=who, comment=comment, replaced=before)
            if kind:
                add_event(connection, kind, who=who, comment=comment, digest=new[0].digest, before=before)

        self._database.run(job)

    def came(self, *, since: float | None = None, last: int | None = None) -> Iterator[Came]:
        """What came and was decided, as each decision kept it, the latest first. A page at a time, however many.

        `since`: Unix time in seconds of the arrival. `last`: at most so many.
        """
        before, left, known = FIRST_PAGE, last, KnownAsks()
        while left is None or left > 0:
            limit = PAGE_OF_CAME if left is None else min(left, PAGE_OF_CAME)
            page = self._database.ask(partial(came_page, known=known, before=before, since=since, limit=limit))
            yield from page
            if len(page) < limit:
                return
            before, left = page[-1].instance.id, None if left is None else left - len(page)

    def came_one(self, instance_id: str) -> Came | None:
        """An instance as its decision kept it; None if there is none, or no decision yet."""
        return self._database.ask(lambda c: came_one(c, instance_id))
