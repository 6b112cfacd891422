"""A backup of a spool under load, and the spool that comes of it: nothing acknowledged before it began is lost."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.commands.backup import BackupError, Restored, back_up, restore
from router.commands.check_folder import inspect
from router.config import Settings, load
from router.spool import InstanceState, Spool, SpoolError, copying, open_spool
from tests.unit.spooling import SEEN, accept, decide, decision, files, received, settings_of, stored

CONFIG = """
node: {{ae_title: ROUTER}}
spool: {{path: {path}, reserve: 1 kB}}
destinations:
  pacs: {{ae_title: PACS, host: 127.0.0.1, port: 104}}
rules: []
otherwise: {{send: pacs}}
"""


def quiet(_: str) -> None:
    pass


def configured(folder: Path, name: str = "spool") -> Settings:
    file = folder / f"{name}.yaml"
    file.write_text(CONFIG.format(path=folder / name))
    return load(file, {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return configured(tmp_path)


@pytest.fixture
def spool(settings: Settings) -> Iterator[Spool]:
    spool = open_spool(settings.spool)
    yield spool
    spool.close()


def restored(settings: Settings, tmp_path: Path) -> tuple[Restored, Spool]:
    """What a restore says, and the spool that a node would start with."""
    new = configured(tmp_path, "restored").spool
    return restore(tmp_path / "backup", new, quiet), open_spool(new)


def test_a_backup_under_load_has_all_that_was_acknowledged_before_it(
    spool: Spool, settings: Settings, tmp_path: Path
) -> None:
    """Received, delivered and removed all the while; the copy ends although the database never rests."""
    before = {stored(spool, f"1.{number}").id for number in range(20)}
    stop, busy = threading.Event(), threading.Event()
    came: list[str] = []

    def load_it() -> None:
        while not stop.is_set():
            came.append(stored(spool, f"2.{len(came)}").id)
            accept(spool, b"soon gone", uid=f"3.{len(came)}")
            for claim in spool.decisions.claim(40):
                if claim.instance.sop_instance.startswith("3."):
                    spool.decisions.record(claim, SEEN, decision(), {}).result()
                else:
                    spool.decisions.release(claim).result()
            spool.orders.wipe()
            busy.set()

    worker = threading.Thread(target=load_it)
    worker.start()
    try:
        assert busy.wait(60)
        result = back_up(settings, tmp_path / "backup", quiet)
    finally:
        stop.set()
        worker.join()
    assert result.missing == ()
    found, new = restored(settings, tmp_path)
    try:
        assert (found.missing, found.damaged) == ((), ())
        rows = {row.id: row for row in new.views.instances(limit=10_000)}
        assert before <= set(rows)
        for one in before:
            assert rows[one].state != InstanceState.GONE
            assert new.blob(one).read_bytes() == spool.blob(one).read_bytes()
    finally:
        new.close()


def test_what_is_in_a_backup_comes_back(spool: Spool, settings: Settings, tmp_path: Path) -> None:
    stored(spool)
    decide(spool, "pacs", "ai")
    stored(spool, "1.2.4")
    (settings.spool.path / "models").mkdir()
    (settings.spool.path / "models" / "state.json").write_text("{}")
    (settings.spool.path / "uid-key").write_text("secret")
    result = back_up(settings, tmp_path / "backup", quiet)
    assert (result.blobs, result.undecided, result.owed, result.buried) == (2, 1, 2, 0)
    assert (tmp_path / "backup" / "routing.yaml").read_text() == settings.file.read_text()
    for path in (tmp_path / "backup").rglob("*"):
        assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o700
    found, new = restored(settings, tmp_path)
    assert (found.blobs, found.undecided, found.owed, found.without_row) == (2, 1, 2, 0)
    assert files(new.settings.path) == files(settings.spool.path)
    assert {row.destination for row in new.views.deliveries()} == {"ai", "pacs"}
    assert (new.settings.path / "models" / "state.json").read_text() == "{}"
    assert (new.settings.path / "uid-key").read_text() == "secret"
    assert not (new.settings.path / "backup.json").exists()
    new.close()


def test_what_comes_after_the_databases_moment_is_taken_in_at_the_start(
    spool: Spool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copying.copy_database
    late: list[str] = []

    def then_one_more(folder: Path, target: Path) -> None:
        copy(folder, target)
        late.append(stored(spool).id)

    monkeypatch.setattr(copying, "copy_database", then_one_more)
    back_up(settings, tmp_path / "backup", quiet)
    found, new = restored(settings, tmp_path)
    assert (found.without_row, found.undecided) == (1, 0)
    assert [row.id for row in new.views.instances()] == late
    new.close()


def test_what_was_delivered_and_removed_meanwhile_is_not_missing(
    spool: Spool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copying.copy_database

    def between(folder: Path, target: Path) -> None:
        stored(spool)
        copy(folder, target)
        decide(spool)
        assert spool.orders.wipe() == 1

    monkeypatch.setattr(copying, "copy_database", between)
    result = back_up(settings, tmp_path / "backup", quiet)
    assert (result.missing, result.undecided) == ((), 0)
    found, new = restored(settings, tmp_path)
    assert found.missing == ()
    assert [row.state for row in new.views.instances()] == [InstanceState.GONE]
    assert new.decisions.claim(9) == []
    new.close()


def test_missing_and_damaged_blobs_are_named(spool: Spool, settings: Settings, tmp_path: Path) -> None:
    whole, gone, changed = (stored(spool, f"1.{number}").id for number in range(3))
    assert back_up(settings, tmp_path / "backup", quiet, always_copy=True).copied == 3
    copying.blob_in(tmp_path / "backup", gone).unlink()
    path = copying.blob_in(tmp_path / "backup", changed)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert spool.blob(changed).read_bytes() != content
    done = CliRunner().invoke(
        app, ["restore", str(tmp_path / "backup"), "--config", str(configured(tmp_path, "restored").file), "--json"]
    )
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (found["missing"], found["damaged"], found["blobs"]) == ([gone], [changed], 2)
    assert whole in {path.stem for path in copying.blobs_in(tmp_path / "restored")}


def test_a_backup_says_which_blob_is_missing(spool: Spool, settings: Settings, tmp_path: Path) -> None:
    gone = stored(spool).id
    spool.blob(gone).unlink()
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "backup"), "--config", str(settings.file)])
    assert done.exit_code == 1
    assert f"1 blobs that are still needed are missing: {gone}" in done.stderr


@pytest.mark.parametrize("always_copy", [False, True])
def test_a_link_and_a_pipe_among_the_blobs_are_no_blobs(
    spool: Spool, settings: Settings, tmp_path: Path, always_copy: bool
) -> None:
    """What a link names may be anybody's file, and who opens a pipe waits for ever."""
    link, pipe = (stored(spool, f"1.{number}").id for number in range(2))
    (tmp_path / "secret").write_text("of somebody else")
    for one in (link, pipe):
        spool.blob(one).unlink()
    spool.blob(link).symlink_to(tmp_path / "secret")
    os.mkfifo(spool.blob(pipe))
    (settings.spool.path / "set-aside").mkdir()
    os.mkfifo(settings.spool.path / "set-aside" / "x.dcm")
    result = back_up(settings, tmp_path / "backup", quiet, always_copy=always_copy)
    assert (set(result.missing), result.blobs) == ({link, pipe}, 0)
    copying.blob_in(tmp_path / "backup", link).symlink_to(tmp_path / "secret")
    os.mkfifo(copying.blob_in(tmp_path / "backup", pipe))
    result_of_restore, restored_spool = restored(settings, tmp_path)
    restored_spool.close()
    assert (set(result_of_restore.missing), files(tmp_path / "restored")) == ({link, pipe}, set())


def test_a_damaged_database_is_named_and_makes_no_backup(spool: Spool, settings: Settings, tmp_path: Path) -> None:
    for number in range(40):
        accept(spool, uid=f"1.{number}")
    spool.close()
    database = settings.spool.path / "node.db"
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT pageno FROM dbstat WHERE name = 'instance' AND pagetype = 'leaf'"
        page = [number for (number,) in connection.execute(query)][1]
    content = bytearray(database.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = bytes(4096)
    database.write_bytes(content)
    for _ in range(2):  # the second finds an empty folder: no half of a backup is left in its way
        with pytest.raises(SpoolError, match="'A damaged database' in docs") as failed:
            back_up(settings, tmp_path / "backup", quiet)
        assert "***" not in str(failed.value)
        assert list((tmp_path / "backup").iterdir()) == []
    assert "A damaged database" in dict(inspect(settings.spool))["failed"]
    with pytest.raises(BackupError, match="not a complete backup"):
        restore(tmp_path / "backup", configured(tmp_path, "restored").spool, quiet)


def without_deliveries(backup: Path) -> None:
    with closing(sqlite3.connect(backup / "node.db")) as database:
        database.execute("DROP TABLE delivery")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a spool is there": (
        lambda folder: (folder / "restored" / "blobs").mkdir(parents=True),
        "never writes over a spool",
    ),
    "half a backup": (lambda folder: (folder / "backup" / "backup.json").unlink(), "not a complete backup"),
    "not JSON": (lambda folder: (folder / "backup" / "backup.json").write_text("{"), "not a complete backup"),
    "endless JSON": (
        lambda folder: (folder / "backup" / "backup.json").write_text("[" * 100_000),
        "not a complete backup",
    ),
    "a database of something else": (lambda folder: without_deliveries(folder / "backup"), "no such table: delivery"),
    "of the future": (lambda folder: (folder / "backup" / "backup.json").write_text('{"format": 2}'), "newer"),
    "of PostgreSQL": (
        lambda folder: (folder / "backup" / "backup.json").write_text('{"format": 1, "database": "postgresql"}'),
        "is of a spool on postgresql",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_restore_that_cannot_be_right_is_refused(spool: Spool, settings: Settings, tmp_path: Path, name: str) -> None:
    spoil, words = WRONG[name]
    back_up(settings, tmp_path / "backup", quiet)
    spoil(tmp_path)
    with pytest.raises(BackupError, match=words) as caught:
        restore(tmp_path / "backup", configured(tmp_path, "restored").spool, quiet)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "restored" / "node.db").exists()


def test_a_backup_goes_into_a_folder_of_its_own(spool: Spool, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(BackupError, match="not empty"):
        back_up(settings, tmp_path / "full", quiet)
    with pytest.raises(BackupError, match="in the spool itself"):
        back_up(settings, settings.spool.path / "backup", quiet)
    (tmp_path / "empty").mkdir(mode=0o755)
    back_up(settings, tmp_path / "empty", quiet)
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700


def test_a_restore_that_was_cut_short_is_no_spool(
    spool: Spool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(spool)
    back_up(settings, tmp_path / "backup", quiet)
    monkeypatch.setattr(copying, "copy_rest", lambda *_: 1 / 0)
    new = configured(tmp_path, "restored").spool
    with pytest.raises(ZeroDivisionError):
        restore(tmp_path / "backup", new, quiet)
    with pytest.raises(SpoolError, match="its database is empty"):
        open_spool(new)
    shutil.rmtree(new.path)
    monkeypatch.undo()
    assert restore(tmp_path / "backup", new, quiet).undecided == 1


@pytest.mark.slow
@pytest.mark.postgresql
def test_a_backup_beside_a_dump(postgresql: Callable[[], str], tmp_path: Path) -> None:
    """The database is the server's to back up; blobs are checked against what was put back there."""
    url = postgresql()
    file = tmp_path / "spool.yaml"
    file.write_text(CONFIG.format(path=tmp_path / "spool").replace("reserve", f'database: "{url}", reserve'))
    settings = load(file, {})
    spool = open_spool(settings.spool)
    stored(spool)
    result = back_up(settings, tmp_path / "backup", quiet)
    assert (result.database, result.blobs, result.undecided) == ("postgresql", 1, 1)
    late = received(spool).id
    shutil.copy(spool.blob(late), copying.blob_in(tmp_path / "backup", late))
    spool.close()
    new = settings_of(tmp_path / "restored", url)
    found = restore(tmp_path / "backup", new, quiet)
    assert (found.blobs, found.undecided, found.without_row, found.missing) == (2, 1, 1, ())
    spool = open_spool(new)
    assert len(spool.views.instances()) == 2
    spool.close()
