"""Copies a spool to another database, SQLite or PostgreSQL; the blobs stay in their folder.

No node works meanwhile. The old database keeps its rows, and gets a mark so that no node starts on it. The order makes
it safe to be killed at any step: the new one may not be started before the old one may not be started any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.errors import RouterError
from router.spool import (
    claims,
    clock,
    copy_marks,
    engine,
    identity,
    moving,
    patience,
    postgresql,
    read_spool,
    schema_version,
)
from router.spool.copy_marks import MarkState
from router.spool.engine import begun
from router.spool.remote_blobs import RemoteBlobs

SQLITE = "sqlite"
NAME = "dicom-router copy"
"""Of the sessions on PostgreSQL, so that a node's are told from them."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, rows so far, and rows in all."""


class CopyError(RouterError):
    """The copy cannot be made as it was asked for; one line with the fix."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class SpoolCopied:
    """What a copy holds: rows and digest of each table. `left`: the old database; `left_bytes`: its size on disk."""

    source: str
    target: str
    rows: int
    tables: dict[str, tuple[int, str]]
    left_bytes: int


def copy_spool(settings: SpoolSettings, to: str, tell: Progress) -> SpoolCopied:
    """Copy, compare, and mark the old database. It may be called again after it was killed.

    Raises CopyError, SpoolError or OSError. Then the old database can be used as before.
    """
    if settings.blobs and to == SQLITE:
        raise CopyError("spool.blobs is an object store, which does not go with SQLite; name a PostgreSQL URL")
    with _both(settings, to) as (source, target):
        old, new = _name(settings.path, source), _name(settings.path, target)
        with begun(source) as connection:
            stamp, mark = moving.stamp(connection), copy_marks.read(connection)
        if mark is not None and (mark.state, mark.other) != (MarkState.LEFT, new):
            copy_marks.refuse_marked(source)
        _prepare(target, old, new, stamp, is_left=mark is not None)
        total = 2 * moving.count(source)
        so_far = 0

        def note(what: str, table: str, rows: int) -> None:
            nonlocal so_far
            so_far += rows
            tell(f"{what} {table}", so_far, max(total, so_far))

        copied = moving.copy_rows(source, target, partial(note, "copying"))
        found = moving.summed(target, partial(note, "checking"))
        for table, one in copied.items():
            if found[table].sum != one.sum:
                raise CopyError(
                    f"{table}: {found[table].rows} rows in {new} are not the {one.rows} of {old}; the old database "
                    f"goes on. {_emptied(settings.path, target)}, and copy again"
                )
        _hand_over(settings, source, target, stamp)
        sums = {table: one.sum for table, one in copied.items()}
        return SpoolCopied(old, new, sum(rows for rows, _ in sums.values()), sums, _size(settings.path, source))


def undo_copy(settings: SpoolSettings, to: str, *, abandon: bool) -> None:
    """Let nodes start on the old database again, and on the new one no more.

    `abandon`: without asking the new one, which may be lost. Raises CopyError, SpoolError or OSError.
    """
    with ExitStack() as stack:
        lock, _ = engine.lock(settings.path, shared=False)
        stack.callback(lock.close)
        source = _opened(stack, settings.path, settings.database)
        new = _name(settings.path, source) if to == settings.database else _named(settings.path, to)
        with begun(source) as connection:
            mark = copy_marks.read(connection)
        if mark is None or mark.state != MarkState.LEFT or mark.other != new:
            raise CopyError(f"the spool was not copied from spool.database to {new}; nothing was changed")
        if not abandon:
            target = _opened(stack, settings.path, to)
            with begun(target) as connection:
                arriving = copy_marks.read(connection)
                if arriving is None and moving.starts(connection) != mark.stamp.partition("/")[0]:
                    raise CopyError(
                        f"a node has worked on {new} since; copy that one back, or use --abandon: then what came since "
                        "is taken in again from its blobs, and delivered again"
                    )
                copy_marks.write(connection, MarkState.LEFT, _name(settings.path, source), mark.stamp)
        with begun(source) as connection:
            copy_marks.remove(connection)


@contextmanager
def _both(settings: SpoolSettings, to: str) -> Iterator[tuple[sa.Engine, sa.Engine]]:
    """The old and the new database, both with the schema of this program, while no node works on them."""
    if to == settings.database:
        raise CopyError("--to names the database that the spool is in already")
    with ExitStack() as stack:
        read_spool(settings).close()  # raises if there is no spool
        lock, _ = engine.lock(settings.path, shared=False)
        stack.callback(lock.close)
        source = _opened(stack, settings.path, settings.database)
        engine.migrate(source, may_be_new=False)
        _refuse_newer(source)
        with begun(source) as connection:
            _refuse_nodes(connection)
        if to == SQLITE:
            os.close(os.open(settings.path / engine.DATABASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        target = _opened(stack, settings.path, to)
        engine.migrate(target, may_be_new=True)
        _refuse_newer(target)
        yield source, target


def _opened(stack: ExitStack, folder: Path, database: str) -> sa.Engine:
    if database == SQLITE:
        made = engine.writing(folder, database)
    else:
        url = sa.make_url(database).update_query_dict({"application_name": NAME}).render_as_string(hide_password=False)
        made = postgresql.engine(url, statement=patience.MIGRATION, pool_size=1, max_overflow=0)
    stack.callback(made.dispose)
    return made


def _refuse_newer(one: sa.Engine) -> None:
    """Copy no table without the columns that a newer program has added."""
    with begun(one) as connection:
        there = schema_version.current(connection)
    if there != engine.newest():
        raise CopyError(f"the database has version {there}, which is newer than this program; copy with the newer one")


def _refuse_nodes(source: sa.Connection) -> None:
    """The folder's lock says that no node works here; the server knows those on other machines."""
    if source.dialect.name != "postgresql":
        return
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    sessions = source.exec_driver_sql(query, (postgresql.SOCKET["application_name"],)).scalar_one()
    if sessions:
        raise CopyError(f"nodes or commands have {sessions} connections to spool.database; stop all nodes first")


def _prepare(target: sa.Engine, old: str, new: str, stamp: str, *, is_left: bool) -> None:
    """Make sure that the new database is empty, or holds the beginning of this copy. Raises CopyError."""
    with begun(target) as connection:
        mark = copy_marks.read(connection)
        if mark is None and is_left:
            raise CopyError(f"the spool is in {new} already; set spool.database to it")
        if mark is None and not moving.is_empty(connection):
            raise CopyError(f"{new} holds a spool already; name an empty database")
        if mark is not None and (mark.state, mark.other) != (MarkState.ARRIVING, old):
            what = "part of a copy" if mark.state == MarkState.ARRIVING else "a spool that was copied away"
            raise CopyError(f"{new} holds {what} ({mark.other}); name an empty database")
        if mark is None or mark.stamp != stamp:  # a node has worked on the old one since
            moving.empty(connection)
            copy_marks.write(connection, MarkState.ARRIVING, old, stamp)


def _hand_over(settings: SpoolSettings, source: sa.Engine, target: sa.Engine, stamp: str) -> None:
    """From here on nodes start on the new database only."""
    with begun(source) as connection:
        numbers = moving.last_numbers(connection) if source.dialect.name == "postgresql" else {}
    if target.dialect.name == "postgresql":
        with begun(target) as connection:
            moving.set_sequences(connection, numbers)
        if settings.blobs:
            with closing(RemoteBlobs(settings)) as store:
                identity.keep_together(target, store)
        else:
            identity.keep_together(target, identity.Folder(settings.path))
    with begun(source) as connection:
        copy_marks.lock(connection)  # a node that starts on another machine now waits, and is seen
        _refuse_nodes(connection)
        if moving.stamp(connection) != stamp:
            raise CopyError("a node has worked on spool.database meanwhile; stop all nodes, and copy again")
        copy_marks.write(connection, MarkState.LEFT, _name(settings.path, target), stamp)
    with begun(target) as connection:
        claims.free_all(connection, clock.now(connection))
        copy_marks.remove(connection)


def _named(folder: Path, database: str) -> str:
    return str(folder / engine.DATABASE) if database == SQLITE else copy_marks.shown(sa.make_url(database))


def _name(folder: Path, one: sa.Engine) -> str:
    """What a person calls a database."""
    if one.dialect.name == "sqlite":
        return str(folder / engine.DATABASE)
    return copy_marks.shown(one.url.set(drivername="postgresql").difference_update_query(["application_name"]))


def _emptied(folder: Path, target: sa.Engine) -> str:
    if target.dialect.name == "sqlite":
        return f"Remove {folder / engine.DATABASE}"
    return f"Run: dropdb {target.url.database}; createdb {target.url.database}"


def _size(folder: Path, source: sa.Engine) -> int:
    """Bytes that the old database takes."""
    if source.dialect.name == "sqlite":
        return (folder / engine.DATABASE).stat().st_size
    with begun(source) as connection:
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
