"""`send: {one_of: …}`: which of several destinations gets an instance. One study goes to one of them.

The study's keyed hash decides among those that are healthy: not paused, circuit closed. What was chosen for a study is
a row, so it holds for as long as records are kept, whatever becomes of the destination's health.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from router.flow import Decision
from router.spool import studies
from router.spool.schema import delivery, destination, instance, study_choice, study_destination

_CHOSEN = (
    sa.select(study_choice.c.destination)
    .where(study_choice.c.study == sa.bindparam("of"))
    .order_by(study_choice.c.at.desc())
)
_FOLLOWED = sa.select(study_destination.c.destination).where(study_destination.c.study == sa.bindparam("of"))
_HAD = (
    sa.select(delivery.c.destination)
    .where(delivery.c.instance_id == sa.bindparam("which"))
    .order_by(delivery.c.id.desc())
)


def chosen(
    connection: sa.Connection, decision: Decision, study: str | None, which: str, now: float,
    came_from: Collection[str] = (),
) -> Decision:  # fmt: skip
    """The decision with one of its destinations, if it wants one of them. The instance's row is locked.

    An instance that is decided anew stays where it was. What came from one of several nodes of an AI is for none of
    the others: they would answer each other for ever.
    """
    if not decision.one_of:
        return decision
    names = decision.destinations
    if back := _among(names, [name for name in names if name in came_from]):
        return replace(decision, destinations=(back,), one_of="")
    name = _among(connection.execute(_HAD, {"which": which}).scalars(), names)
    if decision.one_of == "study" and study:
        name = _of_study(connection, names, study, now, name)
    name = name or best(which, _healthy(connection, names) or names)
    reason = f"{decision.reason}; chosen: {name}"
    return replace(decision, destinations=(name,), reason=reason, one_of="")


def best(key: str, names: Iterable[str]) -> str:
    """Rendezvous hashing: if a name goes, only what it had is spread over the others."""
    return max(names, key=lambda name: hashlib.sha256(f"{key}\0{name}".encode()).digest())


def _of_study(connection: sa.Connection, names: Sequence[str], study: str, now: float, had: str | None) -> str:
    """What was chosen for the study before, else what is chosen now and kept."""
    known = _known(connection, study, names)
    if known is None:
        studies.lock(connection, study, alone=True)
        known = _known(connection, study, names)
    if known is None:
        known = had or best(study, _healthy(connection, names) or names)
        there = (study_choice.c.study == study) & (study_choice.c.destination == known)
        connection.execute(study_choice.delete().where(there))
        connection.execute(study_choice.insert().values(study=study, destination=known, at=now))
    return known


def _known(connection: sa.Connection, study: str, names: Sequence[str]) -> str | None:
    found = (name for query in (_CHOSEN, _FOLLOWED) for name in connection.execute(query, {"of": study}).scalars())
    return _among(found, names)


def _among(found: Iterable[str], names: Sequence[str]) -> str | None:
    return next((name for name in found if name in names), None)


def _healthy(connection: sa.Connection, names: Sequence[str]) -> list[str]:
    """Those that are tried now."""
    still = sa.select(destination.c.name).where(destination.c.name.in_(names), destination.c.still_since > 0)
    stand_still = set(connection.execute(still).scalars())
    return [name for name in names if name not in stand_still]


def forget(connection: sa.Connection, before: float, limit: int) -> int:
    """Remove some choices for studies of which no instance has a record any more; returns how many."""
    left = sa.exists().where(instance.c.study == study_choice.c.study)
    old: sa.Select[Any] = sa.select(study_choice.c.study).where(study_choice.c.at < before, ~left).limit(limit)
    gone = study_choice.c.study.in_(old.scalar_subquery())
    return int(connection.execute(study_choice.delete().where(gone)).rowcount)
