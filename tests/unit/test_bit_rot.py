"""Bits that change where nobody wrote: in a blob, in SQLite's log, in a row. Noticed, and nothing wrong is sent."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from router.flow import Instance
from router.forward.delivery import fault
from router.spool import Spool, open_spool
from tests.unit.spooling import received, settings_of, stored

CHANGES = {
    "sop_instance": "1.2.4", "sop_class": "1.2.840.10008.5.1.4.1.1.1", "transfer_syntax": "1.2.840.10008.1.2",
    "size": 3, "digest": "0" * 32,
}  # fmt: skip


def crashed(spool: Spool, folder: Path) -> Path:
    """What a power cut would leave of a spool that goes on working."""
    shutil.copytree(spool.settings.path, folder, ignore=shutil.ignore_patterns("control"))
    return folder


@pytest.mark.parametrize("column", CHANGES)
def test_a_row_that_contradicts_its_blob_is_never_sent(tmp_path: Path, column: str) -> None:
    spool = open_spool(settings_of(tmp_path / "spool"))
    one = stored(spool)
    spool.close()
    with closing(sqlite3.connect(tmp_path / "spool" / "node.db")) as database, database:
        database.execute(f"UPDATE instance SET {column} = ?", (CHANGES[column],))
    spool = open_spool(settings_of(tmp_path / "spool"))
    (claim,) = spool.decisions.claim(1)
    spool.close()
    assert fault(claim.path, one) == ""
    assert fault(claim.path, claim.instance) != ""


@pytest.mark.parametrize("at", range(5))
def test_a_bit_of_the_log_costs_no_instance(tmp_path: Path, at: int) -> None:
    """SQLite's checksums end the log before the frame that has changed: the rows behind it are made from the blobs."""
    spool = open_spool(settings_of(tmp_path / "spool"))
    acknowledged = {stored(spool, f"1.{number}").id for number in range(12)}
    folder = crashed(spool, tmp_path / "crashed")
    spool.close()
    log = folder / "node.db-wal"
    content = bytearray(log.read_bytes())
    content[len(content) * (2 * at + 1) // 10] ^= 4
    log.write_bytes(content)
    spool = open_spool(settings_of(folder))
    assert spool.views.counts().undecided == len(acknowledged)
    claimed: dict[str, Instance] = {claim.instance.id: claim.instance for claim in spool.decisions.claim(99)}
    assert set(claimed) == acknowledged
    assert [fault(spool.blob(one), instance) for one, instance in claimed.items()] == [""] * len(acknowledged)
    spool.close()


@pytest.mark.parametrize("at", [0, 20, -1])
def test_a_bit_of_a_data_set_is_noticed_before_it_is_sent(tmp_path: Path, at: int) -> None:
    spool = open_spool(settings_of(tmp_path / "spool"))
    one = received(spool)
    path = spool.blob(one.id)
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[at if at < 0 else one.offset + at] ^= 1
    for content in (changed, whole[:-1], whole + b"\0"):
        path.write_bytes(content)
        assert "digest" in fault(path, one)
    spool.close()


@pytest.mark.parametrize("at", [0, 140, 300, -1])
def test_a_bit_of_a_header_does_no_harm(tmp_path: Path, at: int) -> None:
    """It is not sent."""
    spool = open_spool(settings_of(tmp_path / "spool"))
    one = received(spool)
    path = spool.blob(one.id)
    changed = bytearray(path.read_bytes())
    changed[at if at >= 0 else one.offset + at] ^= 1
    path.write_bytes(changed)
    assert fault(path, one) == ""
    spool.close()
