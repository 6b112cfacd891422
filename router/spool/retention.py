"""What is removed when its time is over: blobs of finished instances, then their records."""

from __future__ import annotations

import math

import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.spool import bulk, commitment_rows, gathering, replicas, results, rule_tables, schema, steady, studies
from router.spool.blobs import BlobStore
from router.spool.database import Database
from router.spool.errors import SpoolError
from router.spool.schema import BATCH, delivery, event, instance
from router.spool.states import InstanceState
from router.spool.usage import Usage

EARLY = 64
"""How many finished blobs are removed at a time if there is no room."""
BITE = 50
"""How many records or blobs one change of retention removes. Arriving instances share its commit and must not wait."""


class Retention:
    """Removes what no delivery needs any more. Its methods raise SpoolError."""

    def __init__(self, settings: SpoolSettings, database: Database, blobs: BlobStore, usage: Usage) -> None:
        self._settings, self._database, self._blobs, self._usage = settings, database, blobs, usage
        self._bare = 0.0
        """Requests for storage commitment that were closed before have no references left (Unix seconds)."""

    def sweep(self) -> int:
        """Remove some of what has expired. Returns the number of blobs and records removed; 0 when nothing is left."""
        removed = self.remove_finished(self._settings.keep, BITE)
        keep = self._settings.keep_records
        removed += self._forget_references()
        return removed + self._database.run(lambda c: _forget_records(c, steady.cutoff(c, keep), BITE))

    def _forget_references(self) -> int:
        def forget(connection: sa.Connection) -> tuple[int, float]:
            before = steady.cutoff(connection, min(commitment_rows.REFERENCES_KEPT, self._settings.keep_records))
            return commitment_rows.forget_references(connection, self._bare, before)

        removed, self._bare = self._database.run(forget)
        return removed

    def sweep_early(self) -> int:
        """Remove some finished blobs, even before `keep` is over. Returns how many."""
        try:
            return self.remove_finished(None, EARLY)
        except SpoolError:
            if not self._database.is_sqlite:
                raise
            self.remove_files()
            return self.remove_finished(None, EARLY)

    def remove_all(self) -> int:
        """Remove every finished blob, even before `keep` is over. Returns how many."""
        removed = 0
        while count := self.remove_finished(None, BATCH):
            removed += count
        return removed

    def remove_files(self) -> None:
        """Remove some finished blobs before their rows say so: a full disk may have no room for that record.

        Only for SQLite. PostgreSQL may fail for many reasons, and its rows must not promise blobs that have gone.
        """
        query = sa.select(instance.c.id).where(instance.c.state == InstanceState.FINISHED, results.not_awaited())
        oldest = query.order_by(instance.c.finished_at).limit(EARLY)
        self._blobs.remove_many(self._database.ask(lambda c: list(c.execute(oldest).scalars())))

    def remove_finished(self, keep: float | None, limit: int) -> int:
        """Remove blobs of instances that were finished more than `keep` seconds ago (None: all). Returns how many."""
        sizes = self._database.run(lambda c: _note_gone(c, math.inf if keep is None else steady.cutoff(c, keep), limit))
        self._blobs.remove_many(sizes)
        self._usage.blobs_gone(sizes.keys(), sum(sizes.values()))
        return len(sizes)


def _note_gone(connection: sa.Connection, before: float, limit: int) -> dict[str, int]:
    """Note that the blobs of some finished instances are gone. They may be removed after this commit.

    Returns the size of each blob, by the instance's id.
    """
    due = (
        sa.select(instance.c.id)
        .where(instance.c.state == InstanceState.FINISHED, instance.c.finished_at < before, results.not_awaited())
        .order_by(instance.c.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    gone = instance.update().where(instance.c.id.in_(sa.select(due.c.id))).values(state=InstanceState.GONE)
    return {row.id: row.size for row in connection.execute(gone.returning(instance.c.id, instance.c.size))}


def _forget_records(connection: sa.Connection, before: float, limit: int) -> int:
    """Remove rows of instances whose blob is gone and whose records have been kept long enough."""
    gone = (instance.c.state == InstanceState.GONE) & (instance.c.finished_at < before)
    # In the order of an index. Otherwise PostgreSQL may read the whole table to find a few.
    oldest = sa.select(instance.c.id).where(gone).order_by(instance.c.finished_at).limit(limit)
    ids = list(connection.execute(oldest).scalars())
    results.forget(connection, ids)
    connection.execute(delivery.delete().where(delivery.c.instance_id.in_(ids)))
    connection.execute(instance.delete().where(instance.c.id.in_(ids)))
    old = sa.select(event.c.id).where(event.c.at < before).order_by(event.c.at).limit(limit)
    events = connection.execute(event.delete().where(event.c.id.in_(old))).rowcount
    connection.execute(schema.jump.delete().where(schema.jump.c.at < before))
    rules = rule_tables.forget(connection, before, limit)
    jobs = bulk.forget(connection, before, limit) + studies.forget(connection, before, limit)
    jobs += gathering.forget(connection, before) + replicas.forget(connection, before, limit)
    return len(ids) + events + rules + jobs + commitment_rows.forget(connection, before, limit)
