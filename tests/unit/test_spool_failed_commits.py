"""A refused instance whose row a crash may bring back keeps its blob, and no longer than that."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from router.config.settings import SpoolSettings
from router.spool import Blob, Spool, SpoolError, open_spool
from router.spool.failed_commits import REFUSED
from router.spool.rows import columns_of
from tests.unit.spooling import accept, files, instance_for, sealed


class Disk:
    """Refuses commits of a spool with one error as long as `fails`."""

    def __init__(self, spool: Spool, patch: pytest.MonkeyPatch, code: int) -> None:
        self.fails = True
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        self.error: Exception = error
        assert spool.database.write_engine is not None
        dialect = spool.database.write_engine.dialect
        self._commit = dialect.do_commit
        patch.setattr(dialect, "do_commit", self._do_commit)
        patch.setattr("router.spool.writer.AGAIN_AFTER", 0.001)

    def _do_commit(self, connection: Any) -> None:
        if self.fails:
            raise self.error
        self._commit(connection)


def refused(spool: Spool, count: int = 1) -> set[str]:
    """The names that blobs have whose instances the database did not take."""
    blobs = [sealed(spool, b"data %d" % number) for number in range(count)]
    for blob in blobs:
        with pytest.raises(SpoolError, match="did not take"):
            spool.intake.accept(blob, instance_for(blob))
    return {blob.path.with_suffix(".doubted").name for blob in blobs}


def test_a_blob_waits_for_a_change_that_is_written_over_its_row(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(spool, monkeypatch, sqlite3.SQLITE_IOERR_FSYNC)
    names = refused(spool, 3)
    assert files(settings.path) == names
    disk.fails = False
    accept(spool, b"well")
    while files(settings.path) & names:
        spool.destinations.set_circuit("nobody", None, 0, "")  # returns after a commit, and the next is not far
    assert sum(event.detail["count"] for event in spool.views.events() if event.kind == REFUSED) == 3
    assert len(files(settings.path)) == 1


def test_a_blob_waits_where_memory_ran_out_in_a_commit(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver makes a MemoryError of SQLITE_NOMEM. SQLite may find no memory for the index of a synced log."""
    Disk(spool, monkeypatch, 0).error = MemoryError()
    assert refused(spool) == files(settings.path)


def test_a_row_that_a_crash_brings_back_finds_its_blob(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(spool, monkeypatch, sqlite3.SQLITE_IOERR_FSYNC)
    (name,) = refused(spool)
    spool.close()
    monkeypatch.undo()
    spool = open_spool(settings)
    blob = sealed(spool, b"the log held it")
    doubted = blob.path.with_suffix(".doubted")
    spool.intake.accept(blob, instance_for(blob))
    blob.path.rename(doubted)  # as if the row had come back with the log
    spool.close()
    spool = open_spool(settings)
    assert files(settings.path) == {blob.path.name}
    assert name not in files(settings.path)
    spool.close()


def test_a_row_that_was_believed_before_the_change_was_written_keeps_its_blob(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every connection closes for a moment, the next one reads the log anew, with what was undone in it."""
    disk = Disk(spool, monkeypatch, sqlite3.SQLITE_IOERR_FSYNC)
    blob = sealed(spool, b"data")
    new = instance_for(blob)
    with pytest.raises(SpoolError, match="did not take"):
        spool.intake.accept(blob, new)
    with closing(sqlite3.connect(settings.path / "node.db")) as other, other:
        row = columns_of(new) | {"state": "new"}
        other.execute(f"INSERT INTO instance ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
    disk.fails = False
    while not any(event.kind == REFUSED for event in spool.views.events()):
        spool.destinations.set_circuit("nobody", None, 0, "")
    spool.destinations.set_circuit("nobody", None, 0, "")
    assert files(settings.path) == {blob.path.name}


def test_what_cannot_be_asked_is_asked_again(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database went in the middle of a commit: the blob stays until it can say whether there is a row."""
    Disk(spool, monkeypatch, sqlite3.SQLITE_FULL)
    blobs = [sealed(spool, b"data %d" % number) for number in range(2)]
    has_row = spool.intake.failed._has_row

    def away(blob: Blob) -> bool:
        raise SpoolError("does not answer")

    monkeypatch.setattr(spool.intake.failed, "_has_row", away)
    for blob in blobs:
        with pytest.raises(SpoolError, match="did not take"):
            spool.intake.accept(blob, instance_for(blob))
    spool.intake.failed.ask_again()
    assert files(settings.path) == {blob.path.name for blob in blobs}
    monkeypatch.undo()
    monkeypatch.setattr(spool.intake.failed, "_has_row", lambda blob: blob is blobs[0] or has_row(blob))
    spool.tidy_up()
    assert files(settings.path) == {blobs[0].path.name}


def test_what_was_never_asked_for_leaves_no_blob(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise SpoolError("does not answer")

    blob = sealed(spool, b"data")
    monkeypatch.setattr(spool.database, "ask", away)
    with pytest.raises(SpoolError, match="does not answer"):
        spool.intake.accept(blob, instance_for(blob))
    assert files(settings.path) == set()


def test_a_full_disk_is_not_filled_with_what_was_refused(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(spool, monkeypatch, sqlite3.SQLITE_FULL)
    refused(spool, 3)
    assert files(settings.path) == set()


def test_what_waits_at_the_end_goes_with_the_next_start(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(spool, monkeypatch, sqlite3.SQLITE_IOERR_FSYNC)
    names = refused(spool, 2)
    spool.close()
    assert files(settings.path) == names
    monkeypatch.undo()
    open_spool(settings).close()
    assert files(settings.path) == set()
