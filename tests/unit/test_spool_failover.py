"""PostgreSQL servers that fail over, refuse, or are somebody else's: what nodes do, and what a person reads."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command

from router.config.settings import SpoolSettings
from router.errors import explain
from router.spool import Spool, SpoolError, engine, open_spool, postgresql, read_spool, watch
from router.spool.errors import DatabaseError
from router.spool.schema import instance
from tests import postgres
from tests.unit.peer import wait_for
from tests.unit.spooling import accept, settings_of

pytestmark = pytest.mark.postgresql


@pytest.fixture
def settings(tmp_path: Path, postgresql: Callable[[], str]) -> SpoolSettings:
    return settings_of(tmp_path / "spool", postgresql())


def refused(settings: SpoolSettings) -> tuple[int, str]:
    """Exit code and line."""
    with pytest.raises(SpoolError) as caught:
        open_spool(settings)
    code, text, _ = explain(caught.value)
    assert "\n" not in text
    return code, text


@contextmanager
def opened(settings: SpoolSettings) -> Iterator[Spool]:
    spool = open_spool(settings)
    try:
        yield spool
    finally:
        spool.close(20)


# -- failover


class Sender:
    """Stores one instance after the other, and notes those that were acknowledged."""

    def __init__(self, spool: Spool, name: str) -> None:
        self.acknowledged: list[str] = []
        self.refused = 0
        self._spool, self._name = spool, name
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                uid = f"{self._name}.{len(self.acknowledged) + self.refused}"
                self.acknowledged.append(accept(self._spool, uid=uid).instance_id)
            except SpoolError:
                self.refused += 1
                time.sleep(0.05)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.mark.slow
def test_a_failover_to_a_synchronous_standby_loses_nothing(tmp_path: Path) -> None:
    """Two nodes store all the while; their connections find the new server by themselves."""
    with postgres.server() as new_database, ExitStack() as stack:
        database = new_database()
        standby = stack.enter_context(postgres.standby(database, synchronous=True))
        settings = settings_of(tmp_path / "spool", standby.both)
        nodes = [stack.enter_context(opened(settings)) for _ in range(2)]
        senders = [Sender(node, f"1.{number}") for number, node in enumerate(nodes)]
        for sender in senders:
            stack.callback(sender.stop)
        wait_for(lambda: all(len(sender.acknowledged) > 20 for sender in senders), 60)
        postgres.end(database)
        wait_for(lambda: not any(node.database.answers(4.0) for node in nodes), 30)
        standby.promote()
        before = [len(sender.acknowledged) for sender in senders]
        wait_for(lambda: all(len(s.acknowledged) > n + 20 for s, n in zip(senders, before, strict=True)), 60)
        for sender in senders:
            sender.stop()
            assert sender.refused > 0
        acknowledged = {one for sender in senders for one in sender.acknowledged}
        rows = nodes[0].database.ask(lambda c: set(c.execute(sa.select(instance.c.id)).scalars()))
        assert acknowledged <= rows
        claimed = {one.instance.id for one in nodes[1].decisions.claim(10_000)}
        assert acknowledged <= claimed
        wait_for(lambda: all(node.database.answers(4.0) for node in nodes), 30)
        wait_for(lambda: all(node.database._watch is not None and node.database._watch.hears for node in nodes), 30)


@pytest.mark.slow
def test_a_standby_that_commits_do_not_wait_for_is_told_of(tmp_path: Path) -> None:
    with postgres.server() as new_database:
        database = new_database()
        with postgres.standby(database, synchronous=False):
            assert "does not wait for it" in " ".join(text for _, text in postgresql.examine(database))
            postgres.change(database, synchronous_standby_names="*")
            wait_for(lambda: "does not wait" not in " ".join(text for _, text in postgresql.examine(database)), 30)
            postgres.change(database, synchronous_standby_names="")


@pytest.mark.slow
def test_a_standby_alone_is_no_server_for_a_node(tmp_path: Path) -> None:
    with postgres.server() as new_database:
        database = new_database()
        open_spool(settings_of(tmp_path / "spool", database)).close()
        with postgres.standby(database, synchronous=False) as standby:
            alone = re.sub(r"host=[^,]*,", "host=", standby.both)
            code, text = refused(settings_of(tmp_path / "spool", alone))
            assert code == 1
            assert "this server takes no changes" in text


def test_a_server_that_becomes_read_only_is_left(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was demoted behind a balancer: no change is lost, and the connection is not kept."""
    monkeypatch.setattr(watch, "AGAIN_AFTER", 0.1)
    spool = open_spool(settings)
    pid = sa.text("SELECT pg_backend_pid()")
    first = spool.database.run(lambda c: c.execute(pid).scalar_one())
    kept = accept(spool, uid="1.1").instance_id
    (claim,) = spool.decisions.claim(1)
    spool.database.run(lambda c: c.execute(sa.text("SET default_transaction_read_only TO on")) and None)
    with pytest.raises(DatabaseError, match="read-only"):
        accept(spool, uid="1.2")
    spool.decisions.release(claim).result()
    assert spool.database.run(lambda c: c.execute(pid).scalar_one()) != first
    assert [one.instance.id for one in spool.decisions.claim(5)] == [kept]
    spool.close()


# -- connections


def test_a_node_takes_no_more_connections_than_it_says(settings: SpoolSettings) -> None:
    """However many threads ask at once."""
    count = sa.text("SELECT count(*), pg_sleep(0.05) FROM pg_stat_activity WHERE datname = current_database()")
    with opened(settings) as spool:
        seen: list[int] = []
        threads = [
            threading.Thread(target=lambda: seen.append(spool.database.ask(lambda c: c.execute(count).all()[0][0])))
            for _ in range(3 * postgresql.MOST)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == len(threads)
    assert postgresql.READERS < max(seen) <= postgresql.MOST


@pytest.mark.slow
def test_a_server_without_free_connections_is_waited_for(tmp_path: Path) -> None:
    with postgres.server(("listen_addresses=", "max_connections=8", "fsync=off")) as new_database, ExitStack() as stack:
        settings = settings_of(tmp_path / "spool", new_database())
        spool = stack.enter_context(opened(settings))
        accept(spool, uid="1.1")
        assert spool.database.write_engine is not None
        others = []
        with suppress(psycopg.OperationalError):
            while True:
                others.append(psycopg.connect(settings.database))
        begin = time.monotonic()
        code, text = refused(settings)
        assert (code, "raise max_connections" in text) == (1, True), text
        spool.database._read_engine.dispose()
        others.append(psycopg.connect(settings.database))
        with pytest.raises(SpoolError, match="raise max_connections"):
            accept(spool, uid="1.2")
        assert time.monotonic() - begin < 30
        for one in others:
            one.close()
        accept(spool, uid="1.3")


# -- migrations


MIGRATOR = (
    "import sys; from pathlib import Path; from tests.unit.spooling import *; from router.spool import *;"
    "from alembic import op; sys.argv[3:] and setattr(op, 'bulk_insert', lambda *_: (print('half', flush=True),"
    "input())); print('begun', flush=True); open_spool(settings_of(Path(sys.argv[1]), sys.argv[2])).close()"
)


def migrator(settings: SpoolSettings, folder: Path, *halts: str) -> subprocess.Popen[bytes]:
    """A process that makes the schema, from a folder of its own; one that `halts` stops in the middle of it."""
    command = [sys.executable, "-c", MIGRATOR, str(folder), settings.database, *halts]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def said(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == word + b"\n"


def tables(database: str) -> list[str]:
    with psycopg.connect(database) as connection:
        return [row[0] for row in connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 2200")]


@pytest.mark.slow
def test_a_killed_migrator_leaves_nothing_and_the_one_that_waits_goes_on(settings: SpoolSettings) -> None:
    """Each from a folder of its own, as on two machines: no lock of a file keeps one waiting."""
    waits = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    looker = engine.reading(settings.path, settings.database)

    def is_waiting() -> bool:
        with looker.connect() as connection:
            return bool(connection.execute(waits).scalar())

    with migrator(settings, settings.path, "halts") as first:
        said(first, b"begun")
        said(first, b"half")
        with migrator(settings, settings.path.parent / "other") as other:
            said(other, b"begun")
            wait_for(is_waiting, 60)
            assert tables(settings.database) == []
            first.kill()
            _, problem = other.communicate(timeout=60)
    looker.dispose()
    assert other.returncode == 0, problem
    assert {"instance", "compatibility"} <= set(tables(settings.database))


@pytest.mark.slow
def test_an_older_database_is_migrated_once_by_two_at_once(settings: SpoolSettings) -> None:
    write = engine.writing(settings.path, settings.database)
    config, _ = engine._scripts()
    with write.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")
    write.dispose()
    migrated = [engine.writing(settings.path, settings.database) for _ in range(3)]
    failed: list[BaseException] = []

    def migrate(one: sa.Engine) -> None:
        try:
            engine.migrate(one, may_be_new=False)
        except SpoolError as error:
            failed.append(error)

    threads = [threading.Thread(target=migrate, args=(one,)) for one in migrated]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in migrated:
        one.dispose()
    assert failed == []
    with opened(settings) as spool:
        assert not accept(spool).merged


# -- what a person reads


def test_a_wrong_password_is_named_and_not_shown(settings: SpoolSettings) -> None:
    good = postgres.stranger(settings.database, "stranger", "s3cr3tly")
    for password in ("wr0ngly", ""):
        code, text = refused(settings_of(settings.path, good.replace("s3cr3tly", password)))
        assert (code, "user or password in spool.database is wrong" in text) == (2, True), text
        assert not password or password not in text
    code, text = refused(settings_of(settings.path, good))
    assert (code, "GRANT CREATE, USAGE ON SCHEMA public" in text) == (1, True), text


def test_a_database_or_a_user_that_is_not_there(settings: SpoolSettings) -> None:
    code, text = refused(settings_of(settings.path, re.sub(r"/spool\d+", "/nowhere", settings.database)))
    assert (code, "createdb" in text) == (1, True), text
    code, text = refused(settings_of(settings.path, settings.database.replace("postgres@", "nobody@")))
    assert (code, "createuser" in text) == (2, True), text


def test_the_database_of_another_program(settings: SpoolSettings) -> None:
    with psycopg.connect(settings.database) as connection:
        connection.execute("CREATE TABLE customers (id int)")
    code, text = refused(settings)
    assert (code, "another program (its tables: customers)" in text) == (2, True), text
    assert tables(settings.database) == ["customers"]


def test_a_server_that_is_too_old(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "OLDEST", 990000)
    code, text = refused(settings)
    assert (code, "needs 99 or newer" in text) == (1, True), text


def test_an_asynchronous_commit_of_the_role_does_not_count(settings: SpoolSettings) -> None:
    """A role or a database may have it off; the node's sessions have it on."""
    name = settings.database.partition("@/")[2].partition("?")[0]
    with psycopg.connect(settings.database, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with psycopg.connect(settings.database) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("off",)
    show = sa.text("SHOW synchronous_commit")
    with opened(settings) as spool:
        assert spool.database.run(lambda c: c.execute(show).scalar()) == "on"
        assert not any("synchronous_commit" in text for _, text in postgresql.examine(settings.database))
    looker = read_spool(settings)
    looker.close()
