"""A database older than its blobs: nothing that was acknowledged is deleted, and what cannot be verified is shown."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from xxhash import xxh3_64_hexdigest

from router.commands.check_folder import inspect
from router.config.settings import SpoolSettings
from router.dicom.part10 import CREATOR_UID, NOTE_ROOM, file_meta
from router.dicom.uids import EXPLICIT
from router.flow import Caller, Instance
from router.spool import InstanceState, Spool, open_spool, queries
from router.spool.notes import CHECKSUM, UnverifiedError, agrees, note_for, read_note
from router.spool.orphans import SET_ASIDE, read_back
from tests.unit.spooling import (
    CALLERS,
    SEEN,
    SOP_CLASS,
    accept,
    decide,
    decision,
    files,
    instance_for,
    received,
    sealed,
    stored,
)

ROOT = Path(__file__).parents[2]
ODD = Caller('\\"\u0000\ufffd' * 4, "\ufffd" * 16, "2001:db8:ffff:ffff:ffff:ffff:255.255.255.255")
"""What no file may hold as an AE title, and what takes the most room in a note."""


def restarted(spool: Spool) -> Spool:
    spool.close()
    return open_spool(spool.settings)


def aside(settings: SpoolSettings) -> set[str]:
    return {path.name for path in (settings.path / SET_ASIDE).glob("*")}


# -- an older database


def without_nul(one: Instance) -> Instance:
    """As a row has it: PostgreSQL keeps no NUL in a text."""
    calling_ae, called_ae = (title.replace("\0", "\ufffd") for title in (one.caller.calling_ae, one.caller.called_ae))
    return replace(one, caller=Caller(calling_ae, called_ae, one.caller.peer))


def test_what_an_older_database_does_not_know_is_owed_again(settings: SpoolSettings) -> None:
    """A backup of the night is put back: what came since is decided anew, with all that its row knew."""
    spool = open_spool(settings)
    accept(spool, uid="1.1")
    spool.close()
    shutil.copy(settings.path / "node.db", settings.path.parent / "backup.db")
    spool = open_spool(settings)
    came = [stored(spool, f"1.2.{number}", caller) for number, caller in enumerate((*CALLERS, ODD))]
    spool.close()
    before = files(settings.path)
    shutil.copy(settings.path.parent / "backup.db", settings.path / "node.db")
    spool = open_spool(settings)
    try:
        assert files(settings.path) == before
        claimed = {claim.instance.id: claim.instance for claim in spool.decisions.claim(9)}
        assert [claimed[one.id] for one in came] == [without_nul(one) for one in came]
        assert spool.views.counts().bytes == len(b"pixels") + sum(one.size for one in came)
        events = [event for event in spool.views.events() if event.kind == "taken in again"]
        assert sorted(str(event.instance_id) for event in events) == sorted(one.id for one in came)
    finally:
        spool.close()


def test_the_blob_of_a_row_that_needs_it_no_more_goes(spool: Spool, settings: SpoolSettings) -> None:
    gone = accept(spool).instance_id
    decide(spool)
    whole = spool.blob(gone).read_bytes()
    assert spool.orders.wipe() == 1
    spool.blob(gone).write_bytes(whole)  # as if the power went between the change and the removal
    spool = restarted(spool)
    assert files(settings.path) == set()
    assert [row.state for row in spool.views.instances()] == [InstanceState.GONE]
    spool.close()


def test_many_blobs_are_taken_in(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts, since one change may touch only so many rows."""
    monkeypatch.setattr("router.spool.taking_in.BATCH", 3)
    ids = {received(spool, f"1.{number}").id for number in range(7)}
    spool = restarted(spool)
    assert {row.id for row in spool.views.instances()} == ids
    spool.close()


def test_what_a_damaged_database_still_owes_stays_owed(spool: Spool, settings: SpoolSettings) -> None:
    """The row of an instance is lost, its delivery is not: both belong together again, and it is owed once."""
    one = stored(spool)
    decide(spool, "ai")
    spool.close()
    with closing(sqlite3.connect(settings.path / "node.db")) as database, database:
        database.execute("DELETE FROM instance")
    spool = open_spool(settings)
    decide(spool, "ai", "pacs")
    owed = [(row.destination, row.instance_id) for row in spool.views.deliveries()]
    assert owed == [("ai", one.id), ("pacs", one.id)]
    spool.close()


@pytest.mark.parametrize("lost", ["pacs", "%"])
def test_what_lost_its_deliveries_is_decided_again(spool: Spool, settings: SpoolSettings, lost: str) -> None:
    """Pages of a damaged database held them: their instance must not wait for ever."""
    whole, one = stored(spool, "1.1"), stored(spool, "1.2")
    for claim in spool.decisions.claim(2):
        spool.decisions.record(claim, SEEN, decision("ai", "pacs"), {}).result()
    spool.close()
    with closing(sqlite3.connect(settings.path / "node.db")) as database, database:
        database.execute("DELETE FROM delivery WHERE instance_id = ? AND destination LIKE ?", (one.id, lost))
    spool = open_spool(settings)
    assert [claim.instance.id for claim in spool.decisions.claim(9)] == [one.id]
    assert [event.instance_id for event in spool.views.events() if "lost" in event.kind] == [one.id]
    assert whole.id != one.id
    spool.close()


@pytest.mark.slow
def test_a_database_put_together_from_what_can_be_read(spool: Spool, settings: SpoolSettings) -> None:
    """The page of operations, 'A damaged database', step 2: word for word, with the system's own sqlite3."""
    if not shutil.which("sqlite3"):
        pytest.skip("no sqlite3 command here")
    acknowledged = {stored(spool, f"1.{number}").id for number in range(150)}
    for claim in spool.decisions.claim(150):
        spool.decisions.record(claim, SEEN, decision("pacs"), {}).result()
    spool.close()
    database = settings.path / "node.db"
    with closing(sqlite3.connect(database)) as connection:
        pages = connection.execute("SELECT name, pageno FROM dbstat WHERE pagetype = 'leaf'").fetchall()
    content = bytearray(database.read_bytes())
    for table in ("instance", "delivery"):
        page = [number for name, number in pages if name == table][-1]
        content[(page - 1) * 4096 : page * 4096] = bytes(4096)
    database.write_bytes(content)
    command = re.search(r"`(sqlite3 node\.db \.dump [^`]+)`", (ROOT / "docs" / "operations.md").read_text())
    assert command
    subprocess.run(command[1], shell=True, check=True, cwd=settings.path)
    (settings.path / "recovered.db").replace(database)
    spool = open_spool(settings)
    known = {row.id: row.state for row in spool.views.instances(limit=1000)}
    assert set(known) == acknowledged
    owed = {row.instance_id for row in spool.views.deliveries(limit=1000)}
    assert {one for one, state in known.items() if state != InstanceState.NEW} <= owed
    assert 0 < len(owed) < 150
    spool.close()


# -- what is set aside


def cut(content: bytearray) -> None:
    del content[-1]


def longer(content: bytearray) -> None:
    content += b"\0"


def flip(at: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[at] ^= 1

    return change


def empty(content: bytearray) -> None:
    content.clear()


DAMAGES = {
    "cut by a byte": (cut, "shorter or longer"),
    "longer by a byte": (longer, "shorter or longer"),
    "a bit of the pixels": (flip(-1), "bytes have changed"),
    "a bit of the UID in the header": (flip(190), "header has changed"),
    "a bit of the note": (flip(-120), "header has changed"),
    "nothing is left": (empty, "not a file of this spool"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_set_aside_and_shown(spool: Spool, settings: SpoolSettings, name: str) -> None:
    damage, reason = DAMAGES[name]
    path = spool.blob(received(spool).id)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    spool = restarted(spool)
    assert files(settings.path) == set()
    assert (settings.path / SET_ASIDE / path.name).read_bytes() == content
    assert spool.views.counts().set_aside == 1
    (event,) = [event for event in spool.views.events() if event.kind == "set aside"]
    assert event.detail["file"] == path.name
    assert reason in event.detail["reason"]
    assert any(state == "warning" and "set aside" in text for state, text in inspect(settings))
    assert spool.views.instances() == []
    spool = restarted(spool)
    assert spool.views.counts().set_aside == 1
    spool.close()


def test_what_is_set_aside_takes_nothings_place(spool: Spool, settings: SpoolSettings) -> None:
    (settings.path / SET_ASIDE).mkdir()
    path = sealed(spool, b"no Part 10 file").path
    (settings.path / SET_ASIDE / path.name).write_text("an older one")
    (settings.path / "blobs" / "00" / "somebody's.dcm").write_text("not ours")
    spool = restarted(spool)
    assert aside(settings) == {path.name, f"{path.stem}-2.dcm", "somebody's.dcm"}
    assert (settings.path / SET_ASIDE / path.name).read_text() == "an older one"
    spool.close()


def test_another_instance_in_its_place_and_a_link_are_set_aside(spool: Spool, settings: SpoolSettings) -> None:
    one, other, third = (received(spool, f"1.{number}") for number in range(3))
    shutil.copy(spool.blob(one.id), spool.blob(other.id))
    spool.blob(third.id).rename(settings.path.parent / "elsewhere")
    spool.blob(third.id).symlink_to(settings.path.parent / "elsewhere")
    spool = restarted(spool)
    assert [row.id for row in spool.views.instances()] == [one.id]
    assert aside(settings) == {f"{other.id}.dcm", f"{third.id}.dcm"}
    spool.close()


def test_what_is_no_file_or_lies_elsewhere_keeps_no_node_from_starting(spool: Spool, settings: SpoolSettings) -> None:
    pipe, moved = (spool.blob(received(spool, f"1.{number}").id) for number in range(2))
    pipe.unlink()
    os.mkfifo(pipe)
    elsewhere = settings.path / "blobs" / ("00" if moved.parent.name != "00" else "01")
    moved.rename(elsewhere / moved.name)
    strange = os.fsdecode(b"\xff.dcm")
    (elsewhere / strange).touch()
    spool = restarted(spool)
    assert (aside(settings), spool.views.instances()) == ({pipe.name, moved.name, strange}, [])
    spool.close()


NO_NOTES: dict[str, Callable[[dict[str, object]], object]] = {
    "a list": lambda note: [note],
    "a part is missing": lambda note: {name: value for name, value in note.items() if name != "peer"},
    "no time": lambda note: note | {"received_at": float("nan")},
    "no number": lambda note: note | {"size": "many"},
    "not JSON": lambda _: None,
}


@pytest.mark.parametrize("name", NO_NOTES)
def test_what_bears_a_checksum_and_is_no_note_is_set_aside(spool: Spool, settings: SpoolSettings, name: str) -> None:
    one = received(spool)
    path = spool.blob(one.id)
    content = path.read_bytes()
    header, note = content[: one.offset - NOTE_ROOM], content[one.offset - NOTE_ROOM : one.offset]
    changed = NO_NOTES[name](json.loads(note[CHECKSUM:]))
    text = (json.dumps(changed) if changed else "{").encode().ljust(NOTE_ROOM - CHECKSUM)
    path.write_bytes(header + xxh3_64_hexdigest(header + text).encode() + text + content[one.offset :])
    spool = restarted(spool)
    assert (aside(settings), spool.views.instances()) == ({path.name}, [])
    spool.close()


GROUP_2 = b"\2\0\x10\0UI\x12\0001.2.840.10008.1.2\0"


def test_group_0002_in_a_data_set_is_part_of_it(spool: Spool) -> None:
    """Conquest sends such; what its elements say is not the spool's own word."""
    one = received(spool, before=GROUP_2)
    spool = restarted(spool)
    (claim,) = spool.decisions.claim(9)
    assert (claim.instance, claim.instance.transfer_syntax) == (one, EXPLICIT)
    header = spool.blob(one.id).read_bytes()[: one.offset]
    assert agrees(header, one)
    assert not agrees(header, replace(one, sop_instance="1.2.4"))
    spool.close()


# -- blobs of an earlier version, which say less of themselves


def without_note(spool: Spool, uid: str = "1.2.3") -> Path:
    path = spool.blob(received(spool, uid).id)
    content = path.read_bytes()
    begin = content.index(b"\2\0\0\1UI")
    path.write_bytes(content[:begin] + content[content.index(b"\2\0\2\1OB") + 12 + NOTE_ROOM :])
    return path


def test_a_blob_of_an_earlier_version_is_taken_in_where_it_reads_to_its_end(
    spool: Spool, settings: SpoolSettings
) -> None:
    path = without_note(spool)
    cut_one = without_note(spool, "1.2.4")
    cut_one.write_bytes(cut_one.read_bytes()[:-1])
    other = without_note(spool, "1.2.5")
    other.write_bytes(other.read_bytes().replace(b"1.2.5", b"1.2.6", 1))
    spool = restarted(spool)
    (claim,) = spool.decisions.claim(9)
    one = claim.instance
    assert (one.id, one.sop_instance, one.sop_class, one.transfer_syntax) == (path.stem, "1.2.3", SOP_CLASS, EXPLICIT)
    assert one.caller == Caller("", "", "")
    assert one.offset + one.size == path.stat().st_size
    assert pydicom.dcmread(io.BytesIO(path.read_bytes())).SOPInstanceUID == "1.2.3"
    assert abs(one.received_at - path.stat().st_mtime) < 60
    assert aside(settings) == {cut_one.name, other.name}
    spool.close()


# -- what the file says


@pytest.mark.parametrize("caller", [*CALLERS, ODD, Caller("x" * 500, "y" * 500, "z" * 500)])
def test_a_note_has_its_room_whoever_sent_it(spool: Spool, caller: Caller) -> None:
    header = file_meta(SOP_CLASS, "1.2.3", EXPLICIT, caller)
    blob = spool.intake.begin(header)
    note = note_for(header, instance_for(blob, caller=caller))
    blob.discard()
    assert len(note) == NOTE_ROOM
    assert read_note(header) is None
    found = read_note(header[:-NOTE_ROOM] + note)
    assert found is not None
    assert found.caller == Caller(caller.calling_ae[:16], caller.called_ae[:16], caller.peer[:45])


def test_other_readers_find_who_sent_it(spool: Spool) -> None:
    meta = pydicom.dcmread(spool.blob(received(spool).id)).file_meta
    assert (meta.SendingApplicationEntityTitle, meta.ReceivingApplicationEntityTitle) == ("XRAY_1", "ROUTER")
    assert meta.PrivateInformationCreatorUID == CREATOR_UID
    meta = pydicom.dcmread(spool.blob(received(spool, caller=ODD).id)).file_meta
    assert "SendingApplicationEntityTitle" not in meta


def test_a_note_is_read_back_as_it_was_written(spool: Spool) -> None:
    one = received(spool, caller=ODD)
    assert read_back(spool.blob(one.id)) == one
    path = spool.blob(one.id)
    with pytest.raises(UnverifiedError, match="not one that the spool gives"):
        read_back(path.rename(path.with_name("x.dcm")))
    assert replace(one, id="") != one


def test_the_state_after_a_start_is_that_of_new_work(spool: Spool) -> None:
    received(spool)
    spool = restarted(spool)
    assert [row.state for row in spool.views.instances()] == [InstanceState.NEW]
    spool = restarted(spool)
    assert [row.state for row in spool.views.instances()] == [InstanceState.NEW]
    spool.close()


def test_a_start_asks_by_id_only_where_files_and_rows_differ(
    settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a start asks the database does not grow with the blobs that are simply there."""
    asked: list[int] = []

    def counted(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asks(connection: object, ids: Sequence[str]) -> object:
            asked.append(len(ids))
            return ask(connection, ids)

        return asks

    monkeypatch.setattr(queries, "unneeded", counted(queries.unneeded))
    monkeypatch.setattr(queries, "states", counted(queries.states))
    spool = open_spool(settings)
    kept = [accept(spool, uid=f"1.{n}").instance_id for n in range(20)]
    spool.close()
    open_spool(settings).close()
    assert asked == []
    orphan = settings.path / "blobs" / kept[0][-2:] / ("0" * 30 + kept[0][-2:] + ".dcm")
    orphan.write_bytes(b"not a blob")
    spool = open_spool(settings)
    assert not orphan.exists()
    assert aside(settings) == {orphan.name}
    assert all(spool.blob(one).exists() for one in kept)
    assert sum(asked) == 1 + sum(one[-2:] == kept[0][-2:] for one in kept) + 1
    spool.close()
