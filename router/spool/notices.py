"""What people are told of, and what a person has silenced; kept, so that neither restart nor second node repeats it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import sqlalchemy as sa

from router.spool import clock
from router.spool.database import Database
from router.spool.events import add_event
from router.spool.schema import metadata

T = TypeVar("T")
EVERYTHING = ""
"""As the condition of a silence."""

notice = sa.Table(
    "notice",
    metadata,
    sa.Column("condition", sa.String(20), primary_key=True),
    sa.Column("about", sa.String, primary_key=True),
    sa.Column("origin", sa.String, primary_key=True),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("began_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("told_at", sa.Double, nullable=False),
)
silence = sa.Table(
    "silence",
    metadata,
    sa.Column("condition", sa.String(20), primary_key=True),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("who", sa.String, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that goes on. Times are Unix seconds by the database's clock."""

    condition: str
    about: str
    """A destination, a caller or a setting; empty for the whole node."""
    origin: str
    """The machine that it is about; empty for what all nodes on this spool see alike."""
    text: str
    began_at: float
    seen_at: float
    """When it last held."""
    told_at: float
    """When people were last told; 0 for not yet."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.condition, self.about, self.origin


@dataclass(frozen=True, slots=True)
class Silence:
    """A condition of which nobody is told for a while; EVERYTHING for all of them."""

    condition: str
    until: float
    """Unix time in seconds."""
    who: str


Decide = Callable[[Sequence[Notice], Mapping[str, float], float], tuple[Sequence[Notice], T]]
"""(notices, until when each condition is silent, now) to the notices from now on, and a result."""


class Notices:
    """What `notify` asks of the spool."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def exchange(self, origin: str, decide: Decide[T]) -> T:
        """Replace the notices of all nodes and of one machine in one transaction. `decide` may be called again."""

        def job(connection: sa.Connection) -> T:
            if connection.dialect.name == "postgresql":  # two nodes would begin the same notice at once
                connection.exec_driver_sql("LOCK TABLE notice IN SHARE ROW EXCLUSIVE MODE")
            ours = notice.c.origin.in_(("", origin))
            rows = connection.execute(sa.select(notice).where(ours).with_for_update())
            before = {one.key: one for one in (Notice(**row._mapping) for row in rows)}
            after, result = decide(list(before.values()), _silences(connection), clock.now(connection))
            kept = {one.key: one for one in after}
            for key, one in before.items():
                if kept.get(key) != one:
                    connection.execute(notice.delete().where(_is(one)))
            changed = [asdict(one) for key, one in kept.items() if before.get(key) != one]
            if changed:
                connection.execute(notice.insert(), changed)
            return result

        return self._database.run(job)

    def silence(self, condition: str, seconds: float, who: str) -> None:
        """Tell nobody of a condition (EVERYTHING: of any) for so long; 0 ends a silence, and of EVERYTHING each one."""

        def job(connection: sa.Connection) -> None:
            ended = sa.true() if condition == EVERYTHING and not seconds else silence.c.condition == condition
            connection.execute(silence.delete().where(ended))
            if seconds > 0:
                until = clock.now(connection) + seconds
                connection.execute(silence.insert().values(condition=condition, until=until, who=who))
            add_event(connection, "notifications silenced", who=who, condition=condition or "all", seconds=seconds)

        self._database.run(job)

    def current(self) -> list[Notice]:
        """What goes on, of every machine, the oldest first."""
        query = sa.select(notice).order_by(notice.c.began_at)
        return [Notice(**row._mapping) for row in self._database.ask(lambda c: c.execute(query).all())]

    def silences(self) -> list[Silence]:
        """Those that are not over."""

        def ask(connection: sa.Connection) -> list[Silence]:
            lasting = sa.select(silence).where(silence.c.until > clock.now(connection)).order_by(silence.c.condition)
            return [Silence(**row._mapping) for row in connection.execute(lasting)]

        return self._database.ask(ask)


def _is(one: Notice) -> sa.ColumnElement[bool]:
    same = (notice.c.condition == one.condition) & (notice.c.about == one.about)
    return same & (notice.c.origin == one.origin)


def _silences(connection: sa.Connection) -> dict[str, float]:
    return {row.condition: row.until for row in connection.execute(sa.select(silence))}
