"""The spool's first promises: durable before acknowledged, and one writer that takes nobody down with another."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.spool import DeliveryState, Spool, SpoolError, open_spool
from router.spool.schema import instance
from tests.unit.spooling import (
    HEADER,
    SEEN,
    accept,
    decision,
    files,
    instance_for,
    sealed,
    settings_of,
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, database: str) -> SpoolSettings:
    return settings_of(tmp_path / "spool", database)


def after_each_commit(spool: Spool, patch: pytest.MonkeyPatch, note: Callable[[], None]) -> None:
    assert spool.database.write_engine is not None
    dialect = spool.database.write_engine.dialect
    commit = dialect.do_commit

    def commit_and_note(connection: Any) -> None:
        commit(connection)
        note()

    patch.setattr(dialect, "do_commit", commit_and_note)


def failing(patch: pytest.MonkeyPatch, spool: Spool, error: Exception, times: int) -> list[Exception]:
    """The database refuses so many commits; what is left of them is returned."""
    assert spool.database.write_engine is not None
    dialect = spool.database.write_engine.dialect
    commit, left = dialect.do_commit, [error] * times

    def refuse(connection: Any) -> None:
        if left:
            raise left.pop()
        commit(connection)

    patch.setattr(dialect, "do_commit", refuse)
    patch.setattr("router.spool.writer.AGAIN_AFTER", 0.001)
    return left


# -- acknowledged is durable


def test_file_then_name_then_folder_then_row_then_answer(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        fsync(fd)
        steps.append("fsync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else f"fsync {os.fstat(fd).st_size} bytes")

    def noted_rename(source: Path, target: Path) -> None:
        rename(source, target)
        steps.append(f"rename {source.suffix} to {target.suffix}")

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    after_each_commit(spool, monkeypatch, lambda: steps.append("commit"))
    accept(spool, b"12345678")
    steps.append("answer")
    size = len(HEADER) + 8
    assert steps == [f"fsync {size} bytes", "rename .part to .dcm", "fsync folder", "commit", "answer"]


SYNCED: dict[str, dict[str, object]] = {
    "sqlite": {"PRAGMA synchronous": 2, "PRAGMA journal_mode": "wal", "PRAGMA foreign_keys": 1},
    "postgresql": {"SHOW synchronous_commit": "on"},
}


def single(question: str, connection: sa.Connection) -> object:
    return connection.exec_driver_sql(question).scalar_one()


def test_a_commit_is_synced_and_the_keys_are_held(spool: Spool, database: str) -> None:
    for question, answer in SYNCED[database.partition(":")[0]].items():
        assert spool.database.run(partial(single, question)) == answer


def test_a_delivery_without_its_instance_is_refused(spool: Spool) -> None:
    from router.spool.schema import delivery

    orphan = delivery.insert().values(instance_id="0" * 32, destination="ai", state=DeliveryState.OPEN, owed_since=0)
    with pytest.raises(SpoolError, match="did not take the change"):
        spool.database.run(lambda c: c.execute(orphan))
    assert spool.views.deliveries() == []


@pytest.mark.parametrize("of_folder", [False, True])
def test_a_failed_sync_is_never_repeated_and_leaves_nothing(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch, of_folder: bool
) -> None:
    blob = spool.intake.begin(HEADER)
    blob.write(memoryview(b"data"))
    fsync, tried = os.fsync, []

    def fails(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode) == of_folder:
            tried.append(fd)
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output"):
        blob.seal()
    assert len(tried) == 1
    assert files(settings.path) == set()


def test_no_file_stays_where_the_disk_is_full(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        spool.intake.begin(HEADER)
    assert files(settings.path) == set()


def test_short_writes_are_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    blob = sealed(spool, b"0123456789")
    assert blob.path.read_bytes() == HEADER + b"0123456789"
    assert blob.digest() == __import__("xxhash").xxh3_128_hexdigest(b"0123456789")


def test_the_first_elements_are_read_while_the_rest_still_comes(spool: Spool) -> None:
    blob = spool.intake.begin(HEADER)
    blob.write(memoryview(b"0123456789"))
    assert blob.read(4) == b"0123"
    blob.discard()


def test_a_row_that_the_database_refuses_leaves_no_blob(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = sealed(spool, b"data")
    failing(monkeypatch, spool, sqlite3.OperationalError("disk I/O error"), 1)
    with pytest.raises(SpoolError, match="disk I/O error") as caught:
        spool.intake.accept(blob, instance_for(blob))
    assert "1.2.3" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert files(settings.path) == set()
    assert spool.views.instances() == []
    assert spool.views.counts().bytes == 0
    assert accept(spool).merged is False


def test_a_commit_that_happened_although_it_failed_keeps_its_blob(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is refused and sends again; the row of the first time must not stand there without its bytes."""
    blob = sealed(spool, b"data")

    def goes_away() -> None:
        monkeypatch.undo()
        raise sqlite3.OperationalError("server closed the connection unexpectedly")

    after_each_commit(spool, monkeypatch, goes_away)
    with pytest.raises(SpoolError, match="closed the connection"):
        spool.intake.accept(blob, instance_for(blob))
    assert [row.id for row in spool.views.instances()] == [blob.id]
    assert files(settings.path) == {blob.path.name}
    assert accept(spool, b"data").merged


# -- one writer


def test_many_share_one_commit(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    many, commits, all_wait = 24, [0], threading.Event()
    writer = spool.database.writer
    submit, waiting = writer.submit, []

    def counted(job: Any, **how: Any) -> Future[Any]:
        future = submit(job, **how)
        waiting.append(future)
        if len(waiting) == many:
            all_wait.set()
        return future

    held = submit(lambda _: all_wait.wait(60))
    monkeypatch.setattr(writer, "submit", counted)
    after_each_commit(spool, monkeypatch, lambda: commits.__setitem__(0, commits[0] + 1))
    with ThreadPoolExecutor(many) as pool:
        accepted = [pool.submit(accept, spool, b"%d" % number, f"1.{number}") for number in range(many)]
        assert len({one.result().instance_id for one in accepted}) == many
    assert held.result()
    assert commits[0] <= 3
    assert len(spool.views.instances()) == many


def test_a_job_that_fails_takes_nobody_with_it(spool: Spool) -> None:
    gate = threading.Event()
    writer = spool.database.writer
    blob = sealed(spool, b"data")
    new = instance_for(blob)
    spool.intake.accept(blob, new)

    def broken(connection: sa.Connection) -> None:
        connection.execute(instance.update().values(shadow="[]"))
        raise ValueError("mine")

    held = writer.submit(lambda _: gate.wait(60))
    mine = writer.submit(broken)
    twice = writer.submit(lambda c: c.execute(sa.insert(instance), {"id": new.id}))
    gone = writer.submit(lambda c: c.execute(instance.update().values(rule="nobody waits")))
    well = writer.submit(lambda c: c.execute(instance.update().values(reason="well")).rowcount)
    assert gone.cancel()
    gate.set()
    with pytest.raises(ValueError, match="mine"):
        mine.result()
    with pytest.raises(SpoolError, match=r"IntegrityError|NotNullViolation"):
        twice.result()
    assert (well.result(), held.result()) == (1, True)
    assert writer.is_alive
    row = spool.views.instance(new.id)
    assert row is not None
    assert (row.reason, row.rule, row.shadow) == ("well", "nobody waits", None)


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk full"), sqlite3.DatabaseError("image is malformed")])
def test_what_must_be_written_is_tried_until_it_is(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    accept(spool)
    (claim,) = spool.decisions.claim(1)
    left = failing(monkeypatch, spool, error, 3)
    assert spool.decisions.record(claim, SEEN, decision("ai"), {}).result() is True
    assert not left
    assert spool.views.counts().open == {"ai": 1}


def test_what_can_be_asked_again_is_refused_at_once(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, spool, sqlite3.OperationalError("disk full"), 1)
    with pytest.raises(SpoolError, match="disk full"):
        spool.decisions.claim(1)
    assert spool.decisions.claim(1) == []


def test_a_full_disk_is_said_with_its_fix(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    failing(monkeypatch, spool, full, 1)
    with pytest.raises(SpoolError, match=r"disk is full; free some space there, and raise spool\.reserve"):
        spool.decisions.claim(1)


def test_a_statement_that_the_database_fails_on_is_everybodys(spool: Spool) -> None:
    """Not only at the commit: a disk that fails in the middle must not let half a job through."""
    accept(spool)
    gate, writer = threading.Event(), spool.database.writer
    failed = sa.exc.OperationalError("UPDATE", {"uid": "1.2.3"}, sqlite3.OperationalError("disk I/O error"))

    def breaks(_: sa.Connection) -> None:
        raise failed

    writer.submit(lambda _: gate.wait(60))
    before = writer.submit(lambda c: c.execute(instance.update().values(rule="before")))
    writer.submit(breaks)
    gate.set()
    with pytest.raises(SpoolError, match="disk I/O error"):
        before.result()
    assert [row.rule for row in spool.views.instances()] == [None]


def test_closing_ends_even_what_insists(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(settings)
    accept(spool)
    (claim,) = spool.decisions.claim(1)
    failing(monkeypatch, spool, sqlite3.OperationalError("disk full"), 10**6)
    future = spool.decisions.record(claim, SEEN, decision("ai"), {})
    spool.close()
    with pytest.raises(SpoolError, match="disk full"):
        future.result()
    monkeypatch.undo()
    again = open_spool(settings)
    assert [one.instance.id for one in again.decisions.claim(1)] == [claim.instance.id]
    again.close()


def test_a_closed_spool_says_so(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    spool.close()
    spool.close()
    with pytest.raises(SpoolError, match="closed"):
        spool.decisions.claim(1)
