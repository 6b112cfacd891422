"""Opening the database: SQLite or PostgreSQL, with the settings that make a commit durable; the schema's version.

Before 3.51.3, SQLite can lose rows if several connections write in WAL mode. So there is one read-write connection, and
one node at a time (a lock on the folder). Everybody else opens the database read-only.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import sqlalchemy as sa

from router.spool import patience, postgresql, schema_version, server_errors
from router.spool.errors import DatabaseError, SpoolError, describe, is_of_database

DATABASE = "node.db"
LOCK = "lock"
PATIENCE = 60.0
"""Seconds that a second process waits for the first one's start (PostgreSQL)."""
NO_FILES = "temp_store=MEMORY"
"""Keeps data for sorting and undoing in memory. Else they go to the system's temporary folder, which may be full."""
LONGEST_PATH = 500
"""SQLite allows 512 bytes, and adds endings of its own."""
LOOK_AT_CLOCK = 100_000
"""Steps of SQLite's machine, a few milliseconds, after which a question looks whether its time is over."""
MIGRATIONS = Path(__file__).parent / "migrations"


def lock(folder: Path, *, shared: bool) -> tuple[IO[str], bool]:
    """Take the folder for this process, and say whether it is alone. The lock ends with the process.

    `shared`: other processes may work on it too (PostgreSQL). The first one is alone until it calls `share`.
    Raises SpoolError if another process has it.
    """
    try:
        file = os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "a+")
    except OSError as error:
        raise SpoolError(f"{folder / LOCK}: {error.strerror}; only the node itself makes this file") from error
    os.fchmod(file.fileno(), 0o600)
    if _locked(file, fcntl.LOCK_EX):
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file, True
    until = time.monotonic() + PATIENCE
    while shared and time.monotonic() < until:
        if _locked(file, fcntl.LOCK_SH):
            return file, False
        time.sleep(0.05)
    file.seek(0)
    owner = file.read(20).strip() or "unknown"
    file.close()
    raise SpoolError(
        f"{folder}: another node (process {owner}) uses this spool; "
        "while it starts or ends, try again in a moment; a second node needs another spool.path"
    )


def share(file: IO[str]) -> None:
    """Let other processes work in the folder as well."""
    fcntl.flock(file, fcntl.LOCK_SH)


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def writing(folder: Path, database: str) -> sa.Engine:
    """The engine with the one read-write connection."""
    if database != "sqlite":
        return postgresql.engine(database, pool_size=1, max_overflow=0)
    if len(os.fsencode((folder / DATABASE).absolute())) > LONGEST_PATH:
        raise SpoolError(f"{folder}: too long a path for SQLite (at most {LONGEST_PATH} bytes); choose a shorter one")
    engine = sa.create_engine("sqlite://", creator=_opener(folder, "rw"), poolclass=sa.pool.StaticPool)

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions itself
        for pragma in (
            "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000", "wal_autocheckpoint=2000",
            NO_FILES,
        ):  # fmt: skip
            connection.execute(f"PRAGMA {pragma}")

    unmoved = _unmoved(folder)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        unmoved()
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _unmoved(folder: Path) -> Callable[[], None]:
    """A check that the open files are still those in the folder. A commit to a removed file would be lost."""
    paths = [str(folder / name) for name in (DATABASE, DATABASE + "-wal", LOCK)]
    known: dict[str, tuple[int, int]] = {}

    def check() -> None:
        for path in paths:
            try:
                status = os.stat(path)
                there = (status.st_dev, status.st_ino)
            except OSError:
                there = None
            if there != (known.setdefault(path, there) if there else known.get(path)):
                raise SpoolError(f"{path} is not the file any more that this node opened; put that one back")

    return check


def reading(folder: Path, database: str) -> sa.Engine:
    """An engine that cannot write."""
    if database != "sqlite":
        return postgresql.engine(
            database,
            statement=patience.LOOK,
            execution_options={"postgresql_readonly": True},
            pool_size=postgresql.READERS,
            max_overflow=postgresql.MORE_READERS,
        )
    engine = sa.create_engine("sqlite://", creator=_opener(folder, "ro"), poolclass=sa.pool.QueuePool, pool_size=4)

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        for pragma in ("busy_timeout=5000", NO_FILES):
            connection.execute(f"PRAGMA {pragma}")
        connection.set_progress_handler(lambda: time.monotonic() > patience.deadline(), LOOK_AT_CLOCK)

    return engine


def _opener(folder: Path, mode: str) -> Callable[[], sqlite3.Connection]:
    uri = f"file:{quote(str(folder / DATABASE))}?mode={mode}"
    return lambda: sqlite3.connect(uri, uri=True, check_same_thread=False)


def migrate(engine: sa.Engine, *, may_be_new: bool) -> None:
    """Bring the schema to this program's version.

    Raises SpoolError for a newer version, for a damaged file, and for an empty database that cannot be new. A lost
    database must not be replaced by an empty one: then every blob would look like an orphan.
    """
    try:
        with engine.begin() as connection, patience.within(patience.MIGRATION):
            if engine.dialect.name == "postgresql":
                postgresql.require(connection)
                for setting in ("statement_timeout", "lock_timeout"):
                    connection.exec_driver_sql(f"SET LOCAL {setting} TO '{patience.MIGRATION:.0f}s'")
                # Before the first look: a schema that appears between two looks would be taken for another program's.
                schema_version.wait_for_others(connection)
            if not _is_current(connection):
                _upgrade(connection, may_be_new=may_be_new)
    except Exception as error:
        if not is_of_database(error):
            raise
        raise trouble(engine, error) from error


def _is_current(connection: sa.Connection) -> bool:
    """Whether the schema has this program's version, asked without Alembic, which takes long to come in."""
    last = max(path.name for path in (MIGRATIONS / "versions").glob("v*.py")).removeprefix("v").partition("_")[0]
    if not sa.inspect(connection).has_table(schema_version.ALEMBICS):
        return False
    found = connection.exec_driver_sql(f"SELECT version_num FROM {schema_version.ALEMBICS}").scalars().all()  # noqa: S608
    return list(found) == [last]


def _upgrade(connection: sa.Connection, *, may_be_new: bool) -> None:
    """Raises SpoolError where it must not be."""
    from alembic import command

    config, scripts = _scripts()
    if _is_due(connection, scripts, may_be_new=may_be_new):
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def must_suit(connection: sa.Connection) -> None:
    """Changes nothing. Raises NewerError, ForeignDatabaseError where this program cannot work with the database."""
    _is_due(connection, _scripts()[1], may_be_new=True)


def _is_due(connection: sa.Connection, scripts: Any, *, may_be_new: bool) -> bool:
    """Whether the schema is older than this program. Raises SpoolError."""
    there, known = schema_version.current(connection), {script.revision for script in scripts.walk_revisions()}
    if there is not None and schema_version.is_newer(connection, there, known):
        return False
    if there is None and not may_be_new:
        raise SpoolError(
            "the spool has blobs but its database is empty or another's; put the right database back, or move "
            "the blobs away (nothing was changed)"
        )
    return bool(there != scripts.get_current_head())


@contextmanager
def begun(one: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction. Raises SpoolError where the database does not answer."""
    try:
        with one.begin() as connection:
            yield connection
    except Exception as error:
        if not is_of_database(error):
            raise
        raise trouble(one, error) from error


def newest() -> str:
    """The version that this program gives a schema."""
    return str(_scripts()[1].get_current_head())


def _scripts() -> tuple[Any, Any]:
    """Alembic's configuration, and the migrations of this program."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config, ScriptDirectory.from_config(config)


def trouble(engine: sa.Engine, error: BaseException) -> DatabaseError:
    """What to do about a database that does not answer."""
    if engine.dialect.name == "postgresql":
        return server_errors.trouble(engine.url.render_as_string(hide_password=False), error)
    if getattr(getattr(error, "orig", error), "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
        return DatabaseError("the answer takes too long; ask for less, such as a shorter time")
    return DatabaseError(
        f"the spool's database cannot be read ({describe(error)}); nothing was changed. Keep a copy of the spool, "
        "then see 'A damaged database' in docs/operations.md"
    )
