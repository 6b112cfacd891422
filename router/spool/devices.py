"""What senders sent lately, a bounded number of instances of each, with what their decisions kept of the headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from router.decide.header_facts import HeaderFacts
from router.spool import clock
from router.spool.find import id_at
from router.spool.header_facts import from_text
from router.spool.schema import instance

DAY = 86400.0
MOST = 5_000
"""Instances that are looked at, of all senders together."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One instance that a sender sent. `is_late`: within the last day; `is_before`: in the week before that day.

    `facts` is None where nothing was kept of its header, or where there is no decision yet.
    """

    id: str
    calling_ae: str
    pixels: str | None
    top: str | None
    class_name: str | None
    inverted: bool
    facts: HeaderFacts | None
    is_latest: bool
    """Among the latest of its sender; else it is here only to be compared with them."""
    is_late: bool
    is_before: bool


def taken_of(connection: sa.Connection, senders: Sequence[str]) -> list[Taken]:
    """The latest instances of each sender, and as many of the week before the last day: at most MOST together.

    In one statement: each of many would wait for its turn at the interpreter while others receive.
    """
    each = MOST // 2 // max(1, len(senders))
    now = clock.now(connection)
    day, week = id_at(now - DAY), id_at(now - 8 * DAY)
    parts = []
    for ae in senders:
        of_one = sa.select(
            instance.c.id, instance.c.calling_ae, instance.c.pixels, instance.c.top, instance.c["class"],
            instance.c.facts.like('%"inverted": true%').label("inverted"), instance.c.header,
        ).where(instance.c.calling_ae == ae).order_by(instance.c.id.desc()).limit(each)  # fmt: skip
        latest, before = of_one.subquery(), of_one.where(instance.c.id < day, instance.c.id >= week).subquery()
        parts += [sa.select(latest, sa.literal(1).label("way")), sa.select(before, sa.literal(0).label("way"))]
    found: dict[str, Taken] = {}
    for row in connection.execute(sa.union_all(*parts)) if parts else ():
        if row.way or row.id not in found:
            found[row.id] = Taken(
                row.id, row.calling_ae, row.pixels, row.top, row._mapping["class"], bool(row.inverted),
                from_text(row.header), bool(row.way), row.id >= day, week <= row.id < day,
            )  # fmt: skip
    return list(found.values())
