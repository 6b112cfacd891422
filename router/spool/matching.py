"""Whose result an instance is, and where it must not go: read before it is decided.

1. It refers to an instance that was delivered to a destination, and comes from an AE title of that destination.
2. Else: it comes from an AE title of a destination to which something of the same study was delivered.
3. Else: it refers to an instance that only one of the destinations has, and comes from none that is known.

An AE title may be that of several systems: many archives keep the name that they were made with. So of a destination
that only may be an AI (`ResultsFrom.named`), nothing is a result that answers what the same AE title sent; and to be
from its AE title is no reason to keep an instance from it. Before that is sent, forwarding compares the address too.

What is sent counts before its answer is recorded: a program may be quicker than this node, and the node may be killed.
Who refers to an instance, and has the right AE title, has it, whatever is recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.config.settings import ResultsFrom
from router.dicom.uids import RESULTS
from router.flow import Instance
from router.spool.schema import delivery, instance, parts, result
from router.spool.states import DeliveryState

REFERENCE, STUDY, ALONE = "reference", "study", "alone"
"""How it is known: it refers to the instance; it is of the study; it refers to it, and nothing else says so."""
MOST_ANSWERED = 1_000
"""Deliveries that one result answers."""
MOST_ORIGINS = 16
"""Results of results that are gone back over."""
Givers = Mapping[str, ResultsFrom]
"""The destinations that give results."""
NO_GIVERS: Givers = {}


@dataclass(frozen=True, slots=True)
class Answered:
    """A delivery that a result answers. `done_at`: when it was done, None before that is recorded."""

    delivery_id: int
    instance_id: str
    destination: str
    how: str
    done_at: float | None


@dataclass(frozen=True, slots=True)
class Match:
    """What an instance answers, and the destinations that it came from, directly or as a result of their results."""

    answered: tuple[Answered, ...] = ()
    came_from: frozenset[str] = frozenset()
    callers: frozenset[str] = frozenset()
    """The destinations with the AE title of its sender, which may be other systems of the same name."""

    @property
    def names(self) -> tuple[str, ...]:
        """The destinations whose result it is."""
        return tuple(sorted({one.destination for one in self.answered}))


NO_MATCH = Match()
_COLUMNS = (
    delivery.c.id, delivery.c.instance_id, delivery.c.destination, delivery.c.state, delivery.c.token,
    delivery.c.tries, delivery.c.closed_at, instance.c.study, instance.c.calling_ae,
)  # fmt: skip
_OF = sa.select(*_COLUMNS).join(instance, instance.c.id == delivery.c.instance_id)
_TO, _LATEST = sa.func.coalesce(delivery.c.destination, ""), (delivery.c.id + 0).desc()
"""The destination, and the latest delivery first, so that no planner goes along all deliveries of a destination, or all
there are, until it meets those of the instances that are asked about."""


def may_be_result(one: Instance, givers: Givers) -> bool:
    """Whether the database must be asked. Not for an X-ray that comes from a modality."""
    return bool(givers) and (one.sop_class in RESULTS or bool(_callers(one, givers)))


def match(
    connection: sa.Connection, one: Instance, study: str | None, references: Sequence[str], givers: Givers,
    others: Collection[str] = (),
) -> Match:  # fmt: skip
    """Whose result it is. `study`: its keyed hash, where it is known. `others`: AE titles of known destinations: what
    comes from them is no other destination's result."""
    callers = _callers(one, givers)
    named = _referenced(connection, one, references, givers)
    own = [row for row in named if row.destination in callers and row.state in _MAY_BE_THERE]
    own = _of_others(own, one, givers)
    study_of = {row.study for row in own} | {study}
    if own:
        answered = [_answered(row, REFERENCE) for row in own]
        answered += _of_studies(connection, one, study_of, {row.destination for row in own}, givers)
    else:
        is_result = one.sop_class in RESULTS
        may = {name for name in callers if is_result or givers[name].named}
        answered = _of_studies(connection, one, {study}, may, givers, also_under_way=True)
    if not answered and not callers and one.caller.calling_ae not in others:
        answered = [_answered(row, ALONE) for row in _only(named, one)]
    answered = list({row.delivery_id: row for row in reversed(answered)}.values())[:MOST_ANSWERED]
    origins = origins_of(connection, [row.instance_id for row in answered])
    back = {row.destination for row in answered} | _returns(connection, one, callers)
    sure = named_callers(one.caller.calling_ae, givers)
    return Match(tuple(answered), frozenset(sure | back | origins), frozenset(callers))


def origins_of(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """The destinations whose results these instances are, or results of their results."""
    names: set[str] = set()
    known: set[str] = set()
    left = set(ids)
    for _ in range(MOST_ORIGINS):
        if not left:
            break
        known |= left
        found = [
            row
            for some in parts(sorted(left))
            for row in connection.execute(
                sa.select(result.c.destination, result.c.instance_id).where(result.c.result_id.in_(some)).distinct()
            )
        ]
        names |= {row.destination for row in found}
        left = {row.instance_id for row in found} - known
    return names


def _callers(one: Instance, givers: Givers) -> set[str]:
    """The destinations that call themselves so."""
    return {name for name, giver in givers.items() if one.caller.calling_ae in giver.titles}


def named_callers(calling_ae: str, givers: Givers) -> set[str]:
    """The destinations that surely call themselves so: the settings say that they give results."""
    return {name for name, giver in givers.items() if giver.named and calling_ae in giver.titles}


def _of_others(rows: Sequence[Any], one: Instance, givers: Givers) -> list[Any]:
    """Without what the sender of `one` sent itself, to a destination that only may be an AI."""
    return [row for row in rows if givers[row.destination].named or row.calling_ae != one.caller.calling_ae]


def _returns(connection: sa.Connection, one: Instance, callers: Collection[str]) -> set[str]:
    """The callers that were sent this very data set by this node: it has come back from them."""
    if not callers:
        return set()
    same = (instance.c.sop_instance == one.sop_instance, instance.c.digest == one.digest, instance.c.id != one.id)
    query = _OF.where(*same, _TO.in_(sorted(callers)), delivery.c.state.in_(_MAY_BE_THERE))
    rows = connection.execute(query.order_by(_LATEST).limit(MOST_ANSWERED))
    return {row.destination for row in rows if _was_sent(row) and row.calling_ae != one.caller.calling_ae}


_MAY_BE_THERE = (DeliveryState.DONE, DeliveryState.OPEN, DeliveryState.BURIED)
"""States of a delivery that may have arrived. A node that is killed in a try leaves no trace of it."""


def _was_sent(row: Any) -> bool:
    """Whether a delivery is done, or has been tried, or is under way."""
    return bool(row.state == DeliveryState.DONE or (row.state in _MAY_BE_THERE and (row.token > 0 or row.tries > 0)))


def _referenced(connection: sa.Connection, one: Instance, references: Sequence[str], givers: Givers) -> list[Any]:
    """Deliveries of what it refers to, to destinations that give results."""
    asked = (
        _OF.where(instance.c.sop_instance.in_(some), instance.c.id != one.id, _TO.in_(sorted(givers)))
        .order_by(_LATEST)
        .limit(MOST_ANSWERED)
        for some in parts(list(references))
    )
    return [row for query in asked for row in connection.execute(query)]


def _of_studies(
    connection: sa.Connection, one: Instance, studies: Iterable[str | None], names: Iterable[str], givers: Givers,
    *, also_under_way: bool = False,
) -> list[Answered]:  # fmt: skip
    """What was delivered of the studies before the result came. If nothing was, what is under way, if that counts."""
    found = [
        row
        for study in studies if study is not None
        for name in sorted(names)
        for row in connection.execute(
            _OF.where(instance.c.study == study, instance.c.id != one.id, _TO.in_([name]))
            .order_by(_LATEST)
            .limit(MOST_ANSWERED)
        )
    ]  # fmt: skip
    found = _of_others(found, one, givers)
    before = [row for row in found if row.state == DeliveryState.DONE and (row.closed_at or 0.0) <= one.received_at]
    chosen = before or ([row for row in found if _was_sent(row)] if also_under_way else [])
    return [_answered(row, STUDY) for row in chosen]


def _only(named: Sequence[Any], one: Instance) -> list[Any]:
    """What it refers to, if one destination alone has it, and another than its sender refers to it."""
    done = [row for row in named if row.state == DeliveryState.DONE]
    senders = {row.calling_ae for row in named}
    places = {row.destination for row in named if _was_sent(row)}
    return done if len(places) == 1 and one.caller.calling_ae not in senders else []


def _answered(row: Any, how: str) -> Answered:
    done_at = row.closed_at if row.state == DeliveryState.DONE else None
    return Answered(row.id, row.instance_id, row.destination, how, done_at)
