"""What all nodes on one PostgreSQL database must agree on: settings and choice of models, each with a version.

The greatest version is in force. A node that publishes one wakes the others, and they look every few seconds anyway. A
few old versions are kept, so that people see what was in force, and who published it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from router.spool import clock
from router.spool.database import Database
from router.spool.errors import SpoolError
from router.spool.events import add_event
from router.spool.node_rows import GONE_AFTER, node, shared_choice, shared_settings
from router.spool.signals import SHARED

V = TypeVar("V")
KEPT = 20
"""Versions of each."""


class OvertakenError(SpoolError):
    """Another version was published meanwhile."""


@dataclass(frozen=True, slots=True)
class SettingsVersion:
    """A version of the shared settings. `at`: Unix time in seconds by the database's clock."""

    version: int
    digest: str
    text: str
    at: float
    who: str
    node: str
    """The node whose routing.yaml it was."""


@dataclass(frozen=True, slots=True)
class ChoiceVersion:
    """A version of the choice of models."""

    version: int
    text: str
    at: float
    who: str


class Shared:
    """Only for a spool on PostgreSQL. Methods raise SpoolError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_there(self) -> bool:
        """Whether a node has made the tables."""
        return self._database.ask(lambda c: sa.inspect(c).has_table(shared_choice.name))

    def settings(self) -> SettingsVersion | None:
        """The settings in force; None before the first node has started."""
        return self._database.ask(_settings)

    def settings_version(self) -> int:
        """The number of the version in force; 0 for none."""
        newest = sa.select(sa.func.coalesce(sa.func.max(shared_settings.c.version), 0))
        return int(self._database.ask(lambda c: c.execute(newest).scalar_one()))

    def publish_settings(self, digest: str, text: str, who: str, by: str, *, at_start: bool = False) -> SettingsVersion:
        """Make these the settings in force, and return the version that is in force then.

        `at_start`: only if no other node runs and they were never in force. So a file that was edited while all nodes
        were stopped counts, and an old file that was left somewhere does not.
        """

        def job(connection: sa.Connection) -> tuple[SettingsVersion, bool]:
            connection.exec_driver_sql("LOCK TABLE shared_settings IN EXCLUSIVE MODE")
            known = _settings(connection)
            if known is not None and (known.digest == digest or (at_start and _counts_not(connection, digest))):
                return known, False
            version = known.version + 1 if known else 1
            new = SettingsVersion(version, digest, text, clock.now(connection), who, by)
            values = {name: getattr(new, name) for name in ("version", "digest", "text", "at", "who", "node")}
            connection.execute(shared_settings.insert().values(**values))
            connection.execute(shared_settings.delete().where(shared_settings.c.version <= version - KEPT))
            add_event(connection, "settings published", who=who, version=version, digest=digest, node=by)
            return new, True

        return self._published(job)

    def choice(self) -> ChoiceVersion | None:
        """The choice of models in force; None if no choice was made."""
        return self._database.ask(_choice)

    def publish_choice(self, text: str, who: str, *, after: int) -> ChoiceVersion:
        """Make this the choice in force. Raises OvertakenError if version `after` is not in force any more."""

        def job(connection: sa.Connection) -> tuple[ChoiceVersion, bool]:
            connection.exec_driver_sql("LOCK TABLE shared_choice IN EXCLUSIVE MODE")
            known = _choice(connection)
            if (known.version if known else 0) != after:
                raise OvertakenError("another choice of models was made meanwhile; see dicom-router model show")
            new = ChoiceVersion(after + 1, text, clock.now(connection), who)
            connection.execute(shared_choice.insert().values(version=new.version, text=text, at=new.at, who=who))
            connection.execute(shared_choice.delete().where(shared_choice.c.version <= new.version - KEPT))
            return new, True

        return self._published(job)

    def _published(self, job: Callable[[sa.Connection], tuple[V, bool]]) -> V:
        found, is_new = self._database.run(job, wakes=lambda result: (SHARED,) if result[1] else ())
        if is_new:
            self._database.signals.set(SHARED)
        return found


def _counts_not(connection: sa.Connection, digest: str) -> bool:
    """Whether settings of a node that starts are not to be published."""
    was = sa.select(shared_settings.c.version).where(shared_settings.c.digest == digest)
    runs = sa.select(node.c.start).where(node.c.seen_at > clock.now(connection) - GONE_AFTER)
    return bool(connection.execute(sa.select(sa.exists(was) | sa.exists(runs))).scalar())


def _settings(connection: sa.Connection) -> SettingsVersion | None:
    newest = sa.select(shared_settings).order_by(shared_settings.c.version.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return None if row is None else SettingsVersion(**row._mapping)


def _choice(connection: sa.Connection) -> ChoiceVersion | None:
    newest = sa.select(shared_choice).order_by(shared_choice.c.version.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return None if row is None else ChoiceVersion(**row._mapping)
