"""A PostgreSQL server that is stopped, or goes away in a COMMIT: nobody waits for long, and nothing is lost by it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from router.config.settings import SpoolSettings
from router.spool import Spool, SpoolError, open_spool, patience, read_spool, watch
from router.spool.errors import DatabaseError, RefusedError, UncertainCommitError, is_of_database
from router.spool.postgresql import examine
from tests.postgres import stopped
from tests.unit.peer import wait_for
from tests.unit.spooling import SEEN, accept, decision, files, instance_for, sealed, settings_of

pytestmark = pytest.mark.postgresql
LIMIT = 6.0
"""Seconds: the limits below, and the two that the driver takes at least to find no server."""


@pytest.fixture
def settings(tmp_path: Path, postgresql: Callable[[], str]) -> SpoolSettings:
    return settings_of(tmp_path / "spool", postgresql())


@pytest.fixture
def spool(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    for name, seconds in {"QUESTION": 0.4, "CHANGES": 0.6, "CONNECT": 1.0}.items():
        monkeypatch.setattr(patience, name, seconds)
    monkeypatch.setattr(watch, "PULSE", 0.1)
    monkeypatch.setattr(watch, "PULSE_ANSWER", 0.3)
    monkeypatch.setattr(watch, "AGAIN_AFTER", 0.1)
    opened = open_spool(settings)
    yield opened
    opened.close(20)


def in_time(work: Callable[[], Any]) -> Exception | None:
    begin = time.monotonic()
    try:
        work()
    except Exception as error:
        return error
    finally:
        assert time.monotonic() - begin < LIMIT
    return None


@pytest.mark.slow
def test_nobody_waits_for_a_stopped_server_and_afterwards_all_goes_on(spool: Spool, settings: SpoolSettings) -> None:
    blobs = [sealed(spool, b"%d" % number) for number in range(20)]
    with stopped(settings.database), ThreadPoolExecutor(20) as pool:
        work = [lambda blob=blob: spool.intake.accept(blob, instance_for(blob, blob.id[:9])) for blob in blobs]
        errors = list(pool.map(in_time, work))
        assert {type(error) for error in errors} == {DatabaseError}
        assert isinstance(in_time(lambda: spool.deliveries.claim("ai", 1)), DatabaseError)
        wait_for(lambda: not spool.database.answers(4.0))
    assert files(settings.path) == set()
    wait_for(lambda: spool.database.answers(4.0), 20)
    assert not accept(spool).merged


@pytest.mark.slow
def test_what_must_be_written_is_written_when_the_server_goes_on(spool: Spool, settings: SpoolSettings) -> None:
    accept(spool)
    (claim,) = spool.decisions.claim(1)
    with stopped(settings.database):
        future = spool.decisions.record(claim, SEEN, decision("ai"), {})
        wait_for(lambda: spool.database.writer.has_failed)
        assert not future.done()
    assert future.result(30)


def test_a_spool_closes_though_its_server_is_stopped(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    accept(spool)
    spool.decisions.claim(1)
    with stopped(settings.database):
        begin = time.monotonic()
        assert not spool.close(0.5)
        assert time.monotonic() - begin < LIMIT
    assert spool.close(30)


# -- COMMIT without an answer


class Line:
    """What becomes of the next COMMIT on the writer's connection."""

    def __init__(self, spool: Spool, patch: pytest.MonkeyPatch) -> None:
        assert spool.database.write_engine is not None
        self._commit = spool.database.write_engine.dialect.do_commit
        self.broken = threading.Event()
        self.go_on = threading.Event()
        patch.setattr(spool.database.write_engine.dialect, "do_commit", self._lost)

    def _lost(self, connection: Any) -> None:
        if self.broken.is_set():
            self._commit(connection)
            return
        self.broken.set()
        driver = connection.driver_connection
        self._hold_and_send(driver)
        raise psycopg.OperationalError("consuming input failed: Connection reset by peer")

    def _hold_and_send(self, driver: Any) -> None:
        raise NotImplementedError


class Arrives(Line):
    def _hold_and_send(self, driver: Any) -> None:
        """The server carries it out later, though nobody reads its answer."""

        def later() -> None:
            assert self.go_on.wait(60)
            driver.pgconn.send_query(b"COMMIT")
            driver.pgconn.flush()
            driver.pgconn.get_result()
            driver.pgconn.finish()

        threading.Thread(target=later, daemon=True).start()


class NeverArrives(Line):
    def _hold_and_send(self, driver: Any) -> None:
        def later() -> None:
            assert self.go_on.wait(60)
            driver.pgconn.finish()

        threading.Thread(target=later, daemon=True).start()


@pytest.mark.parametrize(("how", "is_kept"), [(Arrives, True), (NeverArrives, False)])
def test_a_commit_without_an_answer_keeps_its_blob_until_it_is_settled(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch, how: type[Line], is_kept: bool
) -> None:
    monkeypatch.setattr("router.spool.writer._undo", lambda connection: connection.detach() or connection.invalidate())
    blob = sealed(spool, b"data")
    line = how(spool, monkeypatch)
    with pytest.raises(UncertainCommitError):
        spool.intake.accept(blob, instance_for(blob))
    assert len(spool.intake.uncertain) == 1
    time.sleep(0.3)  # while the server does not know either nothing happens
    assert (len(spool.intake.uncertain), files(settings.path)) == (1, {blob.path.name})
    line.go_on.set()
    wait_for(lambda: len(spool.intake.uncertain) == 0, 20)
    assert (blob.path.exists(), bool(spool.views.instance(blob.id))) == (is_kept, is_kept)
    assert not accept(spool, b"data").merged or is_kept
    wait_for(lambda: any(one.kind == "commits without an answer" for one in spool.views.events()))


# -- one kind of error


def test_whatever_the_database_says_is_a_spool_error(spool: Spool) -> None:
    def raising(error: Exception) -> Callable[[sa.Connection], None]:
        def job(_: sa.Connection) -> None:
            raise error

        return job

    for error in (
        sa.exc.TimeoutError("pool"), sa.exc.InterfaceError("", None, Exception("closed")),
        psycopg.OperationalError("away"), psycopg.errors.QueryCanceled("too long"), sa.exc.InvalidRequestError("mine"),
    ):  # fmt: skip
        assert is_of_database(error)
        with pytest.raises(DatabaseError):
            spool.database.ask(raising(error))
        with pytest.raises(DatabaseError):
            spool.database.run(raising(error))
    with pytest.raises(RefusedError):
        spool.database.run(lambda c: c.execute(sa.text("SELECT nonsense")))
    with pytest.raises(ZeroDivisionError):
        spool.database.run(lambda _: 1 / 0)


# -- what is wrong with a server


def test_a_server_that_forgets_is_told_of(settings: SpoolSettings) -> None:
    found = list(examine(settings.database))
    assert [state for state, _ in found] == ["ok", "warning", "warning"]
    assert "fsync = off" in found[1][1]
    with capture_logs() as lines:
        open_spool(settings).close()
    assert any("fsync = off" in line.get("about", "") for line in lines)


def test_check_tells_of_a_server_that_is_away(tmp_path: Path) -> None:
    ((state, text),) = examine(f"postgresql://someone:s3cr3t@/spool?host={tmp_path}")
    assert state == "failed"
    assert "does not answer" in text
    assert "s3cr3t" not in text


def test_another_folder_is_not_the_databases(settings: SpoolSettings, tmp_path: Path) -> None:
    first = open_spool(settings)
    with pytest.raises(SpoolError, match="not the place that belongs to"):
        open_spool(settings_of(tmp_path / "other", settings.database))
    open_spool(settings).close()
    first.close()


def test_a_folder_of_another_database_is_refused(settings: SpoolSettings, postgresql: Callable[[], str]) -> None:
    open_spool(settings).close()
    other = settings_of(settings.path.parent / "other", postgresql())
    open_spool(other).close()
    with pytest.raises(SpoolError, match="belongs to another database"):
        open_spool(settings_of(settings.path, other.database))


@pytest.mark.slow
def test_a_look_from_a_command_has_its_limit_too(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LOOK", 0.5)
    open_spool(settings).close()
    looker = read_spool(settings)
    looker.views.counts()
    with stopped(settings.database):
        assert isinstance(in_time(looker.views.counts), DatabaseError)
    looker.close()
