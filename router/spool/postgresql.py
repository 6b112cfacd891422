"""PostgreSQL as the spool's database: connections that obey time limits, and checks of the server's settings."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import sqlalchemy as sa

from router.errors import to_install
from router.spool import patience
from router.spool.errors import DatabaseError
from router.spool.server_errors import trouble

T = TypeVar("T")
SESSION = {"synchronous_commit": "on", "idle_in_transaction_session_timeout": "30s"}
"""Commits are durable, and a process that stalls in a transaction does not delay others for long."""
SOCKET = {
    "keepalives": "1", "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3",
    "tcp_user_timeout": "10000", "application_name": "dicom-router", "target_session_attrs": "read-write",
}  # fmt: skip
"""The kernel notices a machine that is gone, even if no query waits for it. A standby is no server for a node: of
several hosts the first that takes changes is chosen. A URL may override these."""
READERS, MORE_READERS = 4, 10
"""Connections for questions that stay open, and more for a rush. With the writer's and that of `watch`, a node has at
most `MOST` connections."""
MOST = READERS + MORE_READERS + 2
OLDEST = 130000
"""The oldest version that is good enough."""
CLIENT_CHECK = 140000
"""The first version that checks, during a statement, whether its client is still there."""
DANGEROUS = {
    "fsync": "off: a power cut at the server loses acknowledged instances, or the whole database; set fsync = on",
    "full_page_writes": "off: a power cut at the server can damage the database; set full_page_writes = on",
    "synchronous_commit": "off: a power cut at the server loses acknowledged instances; set synchronous_commit = on",
}


def engine(database: str, *, statement: float = patience.STATEMENT, **options: Any) -> sa.Engine:
    """An engine whose connections obey `patience`. Raises SpoolError if the driver is missing."""
    try:
        import psycopg
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"spool.database is PostgreSQL, but its driver is not installed: {to_install('postgres')}"
        ) from error
    url = sa.make_url(database).set(drivername="postgresql+psycopg")
    made = sa.create_engine(url, pool_pre_ping=True, pool_timeout=patience.QUESTION, **options)

    @sa.event.listens_for(made, "do_connect")
    def _open(_dialect: Any, _record: Any, _arguments: Any, chosen: dict[str, Any]) -> Any:
        return connect(chosen)

    @sa.event.listens_for(made, "connect")
    def _set_up(connection: psycopg.Connection[Any], _record: Any) -> None:
        prepare(connection, statement)

    return made


def require(connection: sa.Connection) -> None:
    """Raises DatabaseError for a server that is too old."""
    driver: Any = connection.connection.driver_connection
    version = driver.info.server_version
    if version < OLDEST:
        raise DatabaseError(
            f"the PostgreSQL server has version {version // 10000}; the spool needs {OLDEST // 10000} or newer: "
            "upgrade the server"
        )


def connect(chosen: dict[str, Any]) -> Any:
    """A connection that obeys `limits`, by libpq's parameters."""
    seconds = max(1, math.ceil(min(patience.CONNECT, patience.left())))
    return _bounded().connect(**(SOCKET | chosen | {"connect_timeout": seconds}))


def prepare(connection: Any, statement: float) -> None:
    """Set up a session."""
    wanted = SESSION | {"lock_timeout": f"{patience.LOCK:.0f}s", "statement_timeout": f"{statement:.0f}s"}
    if connection.info.server_version >= CLIENT_CHECK:
        wanted["client_connection_check_interval"] = "5s"
    for setting, value in wanted.items():
        connection.execute(f"SET {setting} TO '{value}'")
    connection.commit()


_made: list[Any] = []


def _bounded() -> Any:
    """The class of connections. It is made here, because the driver may be missing."""
    if _made:
        return _made[0]
    import psycopg

    class Bounded(psycopg.Connection[Any]):
        """All waits of psycopg pass through `wait`, as a generator that is told every 0.1 s whether anything came."""

        def wait(self, gen: Any, *arguments: Any, **named: Any) -> Any:
            return super().wait(self._until_deadline(gen), *arguments, **named)

        def _until_deadline(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
            deadline = patience.deadline()
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if not ready and time.monotonic() > deadline:
                        gen.close()
                        self.pgconn.finish()  # a late answer would look like that of the next query
                        raise psycopg.OperationalError("the server did not answer in time")
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    _made.append(Bounded)
    return Bounded


def dangers(connection: sa.Connection) -> Iterator[str]:
    """Settings of the server with which a power cut there, or a failover, loses acknowledged instances."""
    if connection.dialect.name != "postgresql":
        return
    for setting, words in DANGEROUS.items():
        if connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == "off":
            yield f"the PostgreSQL server runs with {setting} = {words}"
    named = connection.exec_driver_sql("SHOW synchronous_standby_names").scalar_one()
    standbys = connection.exec_driver_sql("SELECT count(*) FROM pg_stat_replication").scalar_one()
    if standbys and not named.strip():
        yield (
            "the PostgreSQL server has a standby and does not wait for it: a failover loses the latest acknowledged "
            "instances; set synchronous_standby_names"
        )


def examine(database: str) -> Iterator[tuple[str, str]]:
    """(state, text) for `check`: whether the server answers, and whether its settings are safe."""
    made = None
    try:
        made = engine(database, pool_size=1)
        with patience.within(2 * patience.QUESTION), made.connect() as connection:
            version = connection.exec_driver_sql("SHOW server_version").scalar_one()
            found = list(dangers(connection))
    except DatabaseError as error:
        yield "failed", str(error)
        return
    except sa.exc.SQLAlchemyError as error:
        yield "failed", str(trouble(database, error))
        return
    finally:
        if made is not None:
            made.dispose()
    yield "ok", f"PostgreSQL {version} answers"
    for words in found:
        yield "warning", words
