"""Opening the spool: made durably and privately, by one node at a time; what is damaged is refused and left alone."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from router.commands.check_folder import inspect
from router.config.settings import SpoolSettings
from router.errors import explain
from router.spool import SpoolError, open_spool, read_spool
from tests.unit.spooling import HEADER, accept, decide, files, settings_of


def refused(settings: SpoolSettings) -> str:
    """The one line that a person gets."""
    with pytest.raises(SpoolError) as caught:
        open_spool(settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


def filled(settings: SpoolSettings) -> str:
    spool = open_spool(settings)
    instance_id = accept(spool).instance_id
    spool.close()
    return instance_id


# -- durable, private, alone


def test_each_name_on_the_way_is_synced_before_anything_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder's names are durable once it was synced after they were made."""
    synced: dict[Path, set[str]] = {}
    fsync = os.fsync

    def noted(fd: int) -> None:
        fsync(fd)
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.is_dir():
            synced[path] = {one.name for one in path.iterdir()}

    monkeypatch.setattr(os, "fsync", noted)
    folder = tmp_path / "new" / "deep" / "spool"
    spool = open_spool(settings_of(folder))
    for path in (folder.parent.parent, folder.parent, folder):
        assert path.name in synced[path.parent]
    assert {"node.db", "blobs"} <= synced[folder]
    assert synced[folder / "blobs"] == {f"{number:02x}" for number in range(256)}
    spool.close()


def test_nobody_else_may_look(settings: SpoolSettings) -> None:
    before = os.umask(0)
    try:
        spool = open_spool(settings)
        accept(spool)
        half = spool.intake.begin(HEADER)
        looking = read_spool(settings)
        assert len(looking.views.instances()) == 1
        paths = [settings.path, *settings.path.rglob("*")]
        assert {"node.db", "node.db-wal", "node.db-shm", "lock"} <= {path.name for path in paths}
        for path in paths:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        half.discard()
        looking.close()
        spool.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_an_open_door_is_closed(settings: SpoolSettings, mode: int) -> None:
    settings.path.mkdir()
    settings.path.chmod(mode)
    open_spool(settings).close()
    assert stat.S_IMODE(settings.path.stat().st_mode) == 0o700


def test_a_folder_that_serves_others_is_left_as_it_is(settings: SpoolSettings) -> None:
    settings.path.mkdir()
    settings.path.chmod(0o1777)
    (settings.path / "somebody's").touch()
    with pytest.raises(SpoolError, match="everybody may write here") as caught:
        open_spool(settings)
    assert explain(caught.value)[0] == 2
    assert stat.S_IMODE(settings.path.stat().st_mode) == 0o1777
    assert [path.name for path in settings.path.iterdir()] == ["somebody's"]


def test_one_node_at_a_time(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    assert f"another node (process {os.getpid()}) uses this spool" in refused(settings)
    accept(spool)
    spool.close()
    open_spool(settings).close()


@pytest.mark.slow
def test_the_lock_ends_with_its_process(settings: SpoolSettings) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tests.unit.spooling import *; from router.spool import *;"
        "spool = open_spool(settings_of(Path(sys.argv[1]))); accept(spool); spool.decisions.claim(1); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, settings.path], cwd=Path(__file__).parents[2]).returncode == 9
    spool = open_spool(settings)
    assert len(spool.decisions.claim(10)) == 1
    spool.close()


@pytest.mark.parametrize("name", ["with spaces", "what?mode=memory#100%25", "x" * 200 + "/" + "y" * 150, "Röntgen"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    settings = settings_of(tmp_path / name)
    spool = open_spool(settings)
    accept(spool)
    assert "another node" in refused(settings)
    looking = read_spool(settings)
    assert len(looking.views.instances()) == 1
    looking.close()
    spool.close()
    assert (tmp_path / name / "node.db").stat().st_size > 0
    looking = read_spool(settings)
    assert len(looking.views.instances()) == 1
    looking.close()


def test_a_path_too_long_for_the_database_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 100))
    assert "too long a path" in refused(settings)


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("mine")
    assert "spool.path must be a folder" in refused(settings_of(tmp_path / "spool"))
    assert "spool.path must be a folder" in refused(settings_of(tmp_path / "spool" / "below"))
    assert (tmp_path / "spool").read_text() == "mine"


def test_a_path_that_this_user_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", forbidden)  # the tests' user may be root, whom no mode forbids anything
    assert "Permission denied; spool.path must be a folder that this user can write to" in refused(
        settings_of(tmp_path / "spool")
    )


# -- what is damaged, lost, or newer


@pytest.mark.parametrize("content", [b"not a database at all " * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_damaged_database_is_left_as_it_is(settings: SpoolSettings, content: bytes) -> None:
    filled(settings)
    database = settings.path / "node.db"
    database.write_bytes(content)
    assert "nothing was changed" in refused(settings)
    assert database.read_bytes() == content
    assert len(files(settings.path)) == 1


def test_a_torn_database_is_left_as_it_is(settings: SpoolSettings) -> None:
    filled(settings)
    database = settings.path / "node.db"
    torn = database.read_bytes()[: 4096 * 2]
    database.write_bytes(torn)
    assert "database" in refused(settings)
    assert database.read_bytes() == torn
    assert len(files(settings.path)) == 1


@pytest.mark.parametrize("name", ["node.db", "node.db-wal", "lock"])
def test_nothing_is_accepted_into_files_that_were_taken_away_and_all_goes_on_when_they_are_back(
    settings: SpoolSettings, name: str
) -> None:
    spool = open_spool(settings)
    accept(spool)
    (settings.path / name).rename(settings.path / "elsewhere")
    with pytest.raises(SpoolError, match=f"{name} is not the file any more"):
        accept(spool)
    (settings.path / "elsewhere").rename(settings.path / name)
    accept(spool)
    spool.close()


def test_a_lock_that_is_a_link_is_not_followed(settings: SpoolSettings, tmp_path: Path) -> None:
    filled(settings)
    (settings.path / "lock").unlink()
    (tmp_path / "precious").write_text("kept")
    (settings.path / "lock").symlink_to(tmp_path / "precious")
    assert "lock" in refused(settings)
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("lost", [True, False])
def test_a_lost_database_does_not_make_orphans_of_all_blobs(settings: SpoolSettings, lost: bool) -> None:
    filled(settings)
    database = settings.path / "node.db"
    database.unlink()
    if not lost:
        database.touch()
    for _ in range(2):
        assert "has blobs but its database is empty" in refused(settings)
    assert len(files(settings.path)) == 1


def test_a_first_start_that_was_cut_short_begins_again(settings: SpoolSettings) -> None:
    settings.path.mkdir()
    (settings.path / "node.db").touch()
    (settings.path / "blobs").mkdir()
    open_spool(settings).close()


def test_what_is_current_is_opened_without_the_library_of_migrations(
    settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes long to come in, and a node usually starts where it ended."""
    open_spool(settings).close()
    monkeypatch.setitem(sys.modules, "alembic", None)
    open_spool(settings).close()
    with closing(sqlite3.connect(settings.path / "node.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(ImportError):
        open_spool(settings)


def test_a_newer_schema_is_refused(settings: SpoolSettings) -> None:
    filled(settings)
    database = settings.path / "node.db"
    with sqlite3.connect(database) as connection:
        (known,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("UPDATE compatibility SET oldest = '9999'")
    connection.close()
    before = database.read_bytes()
    assert "version 9999, which is newer than this program" in refused(settings)
    assert database.read_bytes() == before
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (known,))
    connection.close()
    open_spool(settings).close()


def test_an_older_program_goes_on_if_a_newer_one_has_only_added(settings: SpoolSettings) -> None:
    kept = filled(settings)
    with sqlite3.connect(settings.path / "node.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("ALTER TABLE instance ADD COLUMN of_the_future VARCHAR")
    connection.close()
    spool = open_spool(settings)
    assert [claim.instance.id for claim in spool.decisions.claim(5)] == [kept]
    spool.close()


@pytest.mark.parametrize("statement", ["DROP TABLE alembic_version", "UPDATE alembic_version SET version_num = '1f2e'"])
def test_the_database_of_another_program_is_left_alone(settings: SpoolSettings, statement: str) -> None:
    filled(settings)
    with sqlite3.connect(settings.path / "node.db") as connection:
        connection.execute(statement)
    connection.close()
    before = (settings.path / "node.db").read_bytes()
    assert "database of another program" in refused(settings)
    assert (settings.path / "node.db").read_bytes() == before


def test_a_refused_start_lets_the_folder_go(settings: SpoolSettings) -> None:
    filled(settings)
    database = settings.path / "node.db"
    whole = database.read_bytes()
    database.write_bytes(b"not a database at all " * 100)
    refused(settings)
    database.write_bytes(whole)
    spool = open_spool(settings)
    assert len(spool.views.instances()) == 1
    spool.close()


# -- orphans


def test_what_a_crash_left_half_made_goes_at_start(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    kept = accept(spool).instance_id
    spool.intake.begin(HEADER)
    for ending in (".1.native", f".2.{'0' * 16}.part"):
        spool.blob(kept).with_suffix(ending).write_bytes(b"a copy whose maker is gone")
    spool.close()
    assert len(files(settings.path)) == 4
    spool = open_spool(settings)
    assert files(settings.path) == {kept + ".dcm"}
    spool.close()


def test_what_others_put_beside_blobs_is_left_alone(settings: SpoolSettings) -> None:
    kept = filled(settings)
    blobs = settings.path / "blobs"
    (blobs / "notes.txt").write_text("mine")
    (blobs / "lost+found" / "below").mkdir(parents=True)
    (blobs / "00" / "a folder").mkdir()
    (blobs / "00" / "half.part").write_text("a person's download")
    spool = open_spool(settings)
    assert files(settings.path) == {kept + ".dcm", "notes.txt", "half.part"}
    spool.close()


def test_native_copies_go_with_their_blob(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    gone, kept = accept(spool, uid="1.1").instance_id, accept(spool, uid="1.2").instance_id
    for instance_id in (gone, kept):
        for ending in (".1.native", ".2.native"):
            spool.blob(instance_id).with_suffix(ending).write_bytes(b"a copy")
    decide(spool)
    assert spool.orders.wipe() == 1
    assert files(settings.path) == {kept + ".dcm", kept + ".1.native", kept + ".2.native"}
    spool.close()


# -- looking at it


def test_looking_changes_nothing(settings: SpoolSettings) -> None:
    with pytest.raises(SpoolError, match="no spool here"):
        read_spool(settings)
    filled(settings)
    looking = read_spool(settings)
    with pytest.raises(SpoolError, match="reading only"):
        looking.decisions.claim(1)
    with pytest.raises(SpoolError, match="readonly"):
        looking.database.ask(lambda c: c.exec_driver_sql("DELETE FROM instance"))
    assert not looking.database.is_working
    assert len(looking.views.instances()) == 1
    looking.close()


def test_looking_at_a_damaged_one(settings: SpoolSettings) -> None:
    filled(settings)
    (settings.path / "node.db").write_bytes(b"not a database at all " * 100)
    looking = read_spool(settings)
    with pytest.raises(SpoolError, match="cannot be read"):
        looking.views.counts()
    looking.close()


def test_inspecting_leaves_nothing_behind(tmp_path: Path, settings: SpoolSettings) -> None:
    assert "ok" in dict(inspect(settings))
    assert list(tmp_path.iterdir()) == []
    filled(settings)
    before = sorted(settings.path.rglob("*"))
    assert "in use before" in dict(inspect(settings))["ok"]
    assert sorted(settings.path.rglob("*")) == before
    (tmp_path / "file").touch()
    assert dict(inspect(settings_of(tmp_path / "file"))).keys() == {"failed"}
    assert "spool.reserve" in dict(inspect(settings_of(settings.path, reserve=1 << 60)))["failed"]
