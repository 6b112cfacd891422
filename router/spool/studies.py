"""Studies whose instances stay together: where one was sent by a rule with `scope: study`, the others follow.

A row of `study_destination` says so. The decision that begins it writes the row in its own transaction. Each later
decision of the study reads the rows in its transaction, and follows at once. What was decided before follows by a job:
it goes through the study's instances, a batch in one transaction with its cursor, so a crash leaves none out.

None is left behind between the two. On SQLite there is one writer. On PostgreSQL each decision holds a lock on its
study, shared; the one that begins a row holds it alone. So a decision either sees the row, or was committed before it,
and then the job finds it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from router.flow import Decision
from router.observe import log
from router.observe.metrics import FOLLOWED
from router.spool import owing, steady
from router.spool.database import Database
from router.spool.events import add_event
from router.spool.finishing import look_alone
from router.spool.gathering import NOTHING_GATHERED, Gathers
from router.spool.matching import NO_GIVERS, Givers
from router.spool.results import came_from
from router.spool.rows import instance_of
from router.spool.schema import NORMAL, URGENT, delivery, instance, study_destination
from router.spool.states import InstanceState

FOLLOWS = "follows"
"""The kind of the event that says which instance, and which decision, another one follows."""
NO_STUDY = "no usable Study Instance UID, so no other instance follows"
BITE = 100
"""Instances that follow in one transaction: what arrives shares its commit, and must not wait."""
ROWS = 20
"""Studies that one step goes on with."""
AFTER_ALL = "g"
"""Sorts after every id, because ids are hex digits."""
ENDED = ""
"""In the place of the instance that leads: a person (`who`) has ended it. The row stays: no rule begins it anew."""

_ROWS_OF = sa.select(study_destination).where(study_destination.c.study == sa.bindparam("of"))
_HAD = sa.select(delivery.c.destination).where(delivery.c.instance_id == sa.bindparam("which"))
_STUDY_OF = sa.select(instance.c.study).where(instance.c.id == sa.bindparam("which"))
_ALONE = sa.text("SELECT pg_advisory_xact_lock(:of)")
_SHARED = sa.text("SELECT pg_advisory_xact_lock_shared(:of)")
_DECIDED = (InstanceState.DECIDED, InstanceState.FINISHED)


class Studies:
    """What `node` asks of the spool about instances that have still to follow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def step(
        self, limits: Mapping[str, int | None], gathers: Gathers = NOTHING_GATHERED, givers: Givers = NO_GIVERS
    ) -> float | None:
        """Let some instances follow. Returns the seconds until the next step; None if nothing is left to do.

        `limits`: the enabled destinations, each with how many open deliveries it may have. What follows to another one
        waits until it is enabled. `gathers`: those that wait for more of a study. `givers`: those that give results,
        which do not follow back. The seconds are as many as the database was busy, so that others get half of it.
        """
        if not limits:
            return None
        query = sa.select(study_destination.c.study, study_destination.c.destination, study_destination.c.cursor).where(
            study_destination.c.cursor.is_not(None), study_destination.c.destination.in_(list(limits))
        )
        begin = time.monotonic()
        rows = self._database.ask(lambda c: c.execute(query.limit(ROWS)).all())
        for row in rows:
            buried: dict[str, str] = {}
            followed = self._database.run(
                lambda c, row=row, buried=buried: _follow_some(c, row, limits, gathers, givers, buried),  # type: ignore[misc]
                lambda count, row=row: (row.destination,) if count else (),  # type: ignore[misc]
            )
            if followed:
                tell(row.destination, followed)
                self._database.signals.set(row.destination)
            for which, reason in buried.items():
                owing.tell_buried(which, row.destination, reason)
        return time.monotonic() - begin if rows else None


def tell(destination: str, count: int) -> None:
    """Count and log instances that follow."""
    FOLLOWED.labels(destination).inc(count)
    log.info("study follows", destination=destination, instances=count)


def followed(
    connection: sa.Connection, study: str, which: str, decision: Decision, enabled: Mapping[str, Any], now: float,
    origins: Collection[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """By destination, what an instance that is decided now follows there. Its row is locked.

    It first writes the rows that this decision begins. An instance that a rule discards follows nothing. What was ever
    owed somewhere does not follow there, and nothing follows to where it came from.
    """
    begins = [name for name in decision.destinations if name not in origins] if decision.study else []
    there = {row.destination: row for row in connection.execute(_ROWS_OF, {"of": study})}
    missing = [name for name in begins if name not in there]
    if connection.dialect.name != "sqlite":
        lock(connection, study, alone=bool(missing))
        there = {row.destination: row for row in connection.execute(_ROWS_OF, {"of": study})}
    for name in begins:
        if name not in there:
            begin(connection, study, name, which, now, rule=decision.rule, urgent=decision.urgent)
    wanted = {
        name: row for name, row in there.items()
        if name in enabled and name not in decision.destinations and row.instance_id != ENDED
    }  # fmt: skip
    if not wanted or decision.discard:
        return {}
    had = {*connection.execute(_HAD, {"which": which}).scalars(), *origins}
    return {name: row for name, row in wanted.items() if name not in had}


def lock(connection: sa.Connection, study: str, *, alone: bool) -> None:
    """Keep others from the rows of a study until the transaction ends (PostgreSQL; SQLite has one writer)."""
    if connection.dialect.name != "sqlite":
        number = int(study[:16], 16) - (1 << 63)
        connection.execute(_ALONE if alone else _SHARED, {"of": number})


def begin(
    connection: sa.Connection,
    study: str,
    name: str,
    which: str,
    now: float,
    *,
    rule: str = "",
    who: str = "",
    urgent: bool = False,
) -> None:
    """Let the study follow an instance to a destination from now on; what was decided before will follow too."""
    others = sa.select(instance.c.id).where(
        instance.c.study == study, instance.c.id != which, instance.c.state.in_(_DECIDED)
    )
    is_alone = connection.execute(others.limit(1)).first() is None
    connection.execute(study_destination.insert().values(
        study=study, destination=name, at=now, instance_id=which, rule=rule, who=who,
        cursor=None if is_alone else AFTER_ALL, priority=URGENT if urgent else NORMAL,
    ))  # fmt: skip


def note(connection: sa.Connection, which: str, row: Any) -> None:
    """Record that an instance follows another one, and which decision."""
    why = {"rule": row.rule} if row.rule else {"who": row.who}
    add_event(connection, FOLLOWS, which, row.destination, follows=row.instance_id, **why)


def in_words(rows: Mapping[str, Any]) -> str:
    """What an instance follows, for the reason of its decision."""
    return "; ".join(
        f"follows instance {row.instance_id} of its study to {name} "
        + (f"(rule '{row.rule}')" if row.rule else "(ordered by a person)")
        for name, row in rows.items()
    )


def order(connection: sa.Connection, which: str, name: str, who: str, now: float) -> bool:
    """A person wants the whole study of an instance at a destination. False where the study is not known."""
    study = connection.execute(_STUDY_OF, {"which": which}).scalar()
    if study is None:
        return False
    lock(connection, study, alone=True)
    there = _there(study, name)
    connection.execute(study_destination.delete().where(there, study_destination.c.instance_id == ENDED))
    if connection.execute(sa.select(study_destination.c.at).where(there)).first() is None:
        begin(connection, study, name, which, now, who=who)
    return True


def end(connection: sa.Connection, which: str, name: str, who: str) -> bool:
    """A person wants that nothing more of the study follows there. False where it does not follow."""
    study = connection.execute(_STUDY_OF, {"which": which}).scalar()
    if study is None:
        return False
    lock(connection, study, alone=True)
    goes_on = _there(study, name) & (study_destination.c.instance_id != ENDED)
    over = study_destination.update().where(goes_on).values(instance_id=ENDED, rule="", who=who, cursor=None)
    return bool(connection.execute(over).rowcount)


def follows_to(connection: sa.Connection, study: str) -> list[str]:
    """Where the instances of a study follow one of them now."""
    return [row.destination for row in connection.execute(_ROWS_OF, {"of": study}) if row.instance_id != ENDED]


def _there(study: str, name: str) -> sa.ColumnElement[bool]:
    return (study_destination.c.study == study) & (study_destination.c.destination == name)


def forget(connection: sa.Connection, before: float, limit: int) -> int:
    """Remove some rows of studies of which no instance has a record any more; returns how many."""
    left = sa.exists().where(instance.c.study == study_destination.c.study)
    old = (
        sa.select(study_destination.c.study)
        .where(study_destination.c.at < before, ~left)
        .limit(limit)
        .scalar_subquery()
    )
    return int(connection.execute(study_destination.delete().where(study_destination.c.study.in_(old))).rowcount)


def _follow_some(
    connection: sa.Connection, seen: Any, limits: Mapping[str, int | None], gathers: Gathers, givers: Givers,
    buried: dict[str, str],
) -> int:  # fmt: skip
    """One batch of a study, and the cursor behind it. Returns how many followed; 0 where others have gone on with it.

    `buried` gets the instances whose delivery is buried at once, each with the reason.
    """
    buried.clear()  # a job may run again
    this = _there(seen.study, seen.destination)
    row = connection.execute(sa.select(study_destination).where(this).with_for_update()).one_or_none()
    if row is None or row.cursor is None or row.cursor != seen.cursor:
        return 0
    ids = _next(connection, row)
    look_alone(connection, lambda: instance.c.id.in_(ids))
    moment = steady.look(connection)
    following = _those_that_follow(connection, row, ids, givers)
    for one in following:
        leads, first = {row.destination: row.instance_id}, {row.destination: int(row.priority)}
        reasons = owing.owe(
            connection, instance_of(one), [row.destination], limits, moment, leads, row.study, gathers, first
        )
        buried |= dict.fromkeys([one.id] if reasons else [], reasons.get(row.destination, ""))
        note(connection, one.id, row)
    finished = instance.c.id.in_([one.id for one in following]) & (instance.c.state == InstanceState.FINISHED)
    connection.execute(instance.update().where(finished).values(state=InstanceState.DECIDED, finished_at=None))
    cursor = ids[-1] if len(ids) == BITE else None
    connection.execute(study_destination.update().where(this).values(cursor=cursor))
    return len(following)


def _next(connection: sa.Connection, row: Any) -> Sequence[str]:
    """Ids of the study's instances behind the cursor, the latest first."""
    query = sa.select(instance.c.id).where(instance.c.study == row.study, instance.c.id < row.cursor)
    return connection.execute(query.order_by(instance.c.id.desc()).limit(BITE)).scalars().all()


def _those_that_follow(connection: sa.Connection, row: Any, ids: Sequence[str], givers: Givers) -> list[Any]:
    """Decided instances whose blob is here, which no rule discarded, and which were never owed there, nor came from
    there.

    What has no decision yet follows with its decision.
    """
    had = sa.select(delivery.c.instance_id).where(
        delivery.c.instance_id.in_(ids), delivery.c.destination == row.destination
    )
    there = set(connection.execute(had).scalars())
    query = sa.select(instance).where(instance.c.id.in_(ids), instance.c.state.in_(_DECIDED))
    query = query.where(instance.c.destinations != NOWHERE).order_by(instance.c.id)
    found = [one for one in connection.execute(query) if one.id not in there]
    origins = came_from(connection, found, givers)
    return [one for one in found if row.destination not in origins[one.id]]


NOWHERE = "[]"
"""The column `destinations` of an instance that a rule has discarded."""
