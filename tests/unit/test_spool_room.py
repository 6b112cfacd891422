"""A full disk: what lacks is said, the database keeps its room, and a node starts on it, delivers and makes room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from router.commands.check_folder import inspect
from router.config.settings import SpoolSettings
from router.spool import FULL, Spool, SpoolError, open_spool, sqlite_log
from router.spool.ballast import BALLAST, LEAST_INODES, PIECES, Ballast
from router.spool.blobs import BlobStore
from tests.unit.spooling import HEADER, accept, decide, files, settings_of

ROOT = Path(__file__).parents[2]


def refused(spool: Spool) -> str:
    with pytest.raises(SpoolError, match="the spool is full") as caught:
        spool.intake.begin(HEADER)
    return str(caught.value)


def accept_many(spool: Spool) -> None:
    for number in range(200):
        accept(spool, uid=f"1.{number}")


def ballast(settings: SpoolSettings) -> int:
    return len(list((settings.path / BALLAST).glob("*")))


def test_without_inodes_there_is_no_room(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlobStore, "free_inodes", lambda _: LEAST_INODES - 1)
    assert not spool.space.has_room()
    assert "inodes: the file system can take 63 files more" in refused(spool)
    monkeypatch.setattr(BlobStore, "free_inodes", lambda _: LEAST_INODES)
    assert spool.space.has_room()
    monkeypatch.setattr("router.commands.check_folder.free_inodes", lambda _: 3)
    assert any(state == "failed" and "3 more files" in text for state, text in inspect(settings))


def test_what_lacks_is_named_when_it_begins_and_when_it_ends(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlobStore, "free", lambda _: 0)
    with capture_logs() as said:
        assert "disk: 0.0 GB are free, and spool.reserve is 0.0 GB" in refused(spool)
        assert not spool.space.has_room()
        monkeypatch.undo()
        assert spool.space.has_room()
        assert spool.space.has_room()
    assert [(line["event"], line.get("why", "")[:5]) for line in said] == [("no room", "disk:"), ("room again", "")]


def test_a_full_spool_names_its_limit(tmp_path: Path) -> None:
    spool = open_spool(settings_of(tmp_path / "spool", limit=10))
    accept(spool, b"more than ten bytes")
    assert "limit: the spool holds 0.0 GB, and spool.limit is 0.0 GB" in refused(spool)
    spool.close()


def test_where_the_database_finds_no_room_it_gets_the_ballast(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself says that it is full: it may not grow. What is left is the database's until there is room again."""
    assert ballast(settings) == PIECES
    full = spool.signals.of(FULL).version
    pages = spool.database.run(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    spool.database.run(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar_one())
    with pytest.raises(SpoolError, match="full"):
        accept_many(spool)
    assert ballast(settings) == 0
    assert spool.signals.of(FULL).version > full
    spool.database.run(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1000000").scalar_one())
    with monkeypatch.context() as full_disk:
        full_disk.setattr(Ballast, "lay", lambda _: False)
        assert "kept for the database" in refused(spool)
    accept(spool, uid="2.1")  # there is room again, and it is taken at once
    assert ballast(settings) == PIECES


def test_the_log_stays_small_while_room_is_short(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grown() -> int:
        for number in range(60):
            accept(spool, b"pixels %d" % number, uid=f"1.{number}")
        return (settings.path / "node.db-wal").stat().st_size

    monkeypatch.setattr(sqlite_log, "is_short", lambda _: True)
    small = grown()
    assert small < 2 * sqlite_log.SMALL_LOG * 4096
    monkeypatch.setattr(sqlite_log, "is_short", lambda _: False)
    assert grown() > 2 * small


def test_finished_blobs_go_where_the_database_has_no_room_to_say_so_first(
    spool: Spool, settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept(spool, uid="1.1")
    decide(spool)
    kept = accept(spool, uid="1.2").instance_id
    drop, tries = spool.retention.remove_finished, []

    def full_at_first(before: float, limit: int) -> int:
        tries.append(files(settings.path))
        if len(tries) == 1:
            raise SpoolError("full")
        return drop(before, limit)

    monkeypatch.setattr(spool.retention, "remove_finished", full_at_first)
    assert spool.retention.sweep_early() == 1
    assert [len(there) for there in tries] == [2, 1]
    assert files(settings.path) == {kept + ".dcm"}


def test_halves_go_before_the_database_is_opened(settings: SpoolSettings) -> None:
    """They may be what fills the disk, and the database needs some of it to be opened."""
    spool = open_spool(settings)
    spool.intake.begin(HEADER)
    spool.close()
    database = settings.path / "node.db"
    database.write_bytes(b"not a database at all " * 100)
    with pytest.raises(SpoolError):
        open_spool(settings)
    assert files(settings.path) == set()


SMALL = """
import os, sys
from pathlib import Path
from router.spool import DeliveryState, SpoolError, open_spool
from tests.unit.spooling import *
folder, what = Path(sys.argv[1]), sys.argv[2]
settings = settings_of(folder / "spool", reserve=1000)
spool = open_spool(settings)
if what == "fill":
    count = 0
    while spool.space.has_room():
        try:
            accept(spool, os.urandom(60_000), uid=f"1.{count}")
            decide(spool, "pacs")
            count += 1
        except (SpoolError, OSError):
            break
    try:
        with (folder / "somebody's").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        print(len(spool.views.deliveries(limit=1000)))
    os._exit(9)
owed = len(spool.views.deliveries(limit=1000))
for one in spool.deliveries.claim("pacs", 1000):
    assert spool.deliveries.close(one, DeliveryState.DONE).result()
while spool.retention.sweep_early():
    pass
accept(spool, bytes(60_000), uid="2.1")
print(owed)
spool.close()
"""


@pytest.mark.slow
def test_a_node_starts_on_a_full_disk_delivers_and_makes_room(tmp_path: Path) -> None:
    """A real file system of 4 MiB, filled to the last block; killed, and started again."""
    (tmp_path / "mount").mkdir()
    script = (
        'mount -t tmpfs -o size=4m tmpfs "$1" && { "$2" -c "$3" "$1" fill; '
        'df --output=avail "$1"; "$2" -c "$3" "$1" start; }'
    )
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    probe = [*apart, 'mount -t tmpfs tmpfs "$1"', "sh", str(tmp_path / "mount")]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no user namespaces here: no file system can be mounted")
    done = subprocess.run(
        [*apart, script, "sh", str(tmp_path / "mount"), sys.executable, SMALL],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    filled, _, left, owed = done.stdout.split()
    assert left == "0"
    assert filled == owed
    assert int(owed) > 20
