"""Receive: from C-STORE to blob and row, the first elements, and the statuses of PS3.4 §B.2.3."""

from __future__ import annotations

import errno
import io
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from structlog.testing import capture_logs
from xxhash import xxh3_128_hexdigest

from router.dicom.first_elements import MOST, SopUids, UnreadableError, plain_texts, sop_uids
from router.dicom.part10 import file_meta
from router.flow import Caller, Header, Instance
from router.receive import Receiver
from router.spool import Accepted, Blob, SpoolError
from router.spool.blobs import BlobStore
from tests.unit.receiving import (
    BIG,
    CT,
    DATA_SET,
    DEFLATED,
    DX,
    ECHO,
    EXPLICIT,
    IMPLICIT,
    INSTANCE,
    J2K_LOSSLESS,
    RawPeer,
    command,
    context,
    data_set,
    element,
    node,
    p_data,
    pdv,
    request,
    settings,
)

UIDS = SopUids(DX, INSTANCE)
CALLER = Caller("XRAY_1", "ROUTER", "10.0.0.1")


@dataclass
class FakeSpool:
    """Real blobs, rows in a list; `error` is raised by `failing`."""

    store: BlobStore
    rows: list[Instance] = field(default_factory=list)
    failing: str = ""
    error: Exception = field(default_factory=lambda: SpoolError("full"))
    full: bool = False
    made_room: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def begin(self, header: bytes) -> Blob:
        if self.failing == "begin":
            raise self.error
        blob = self.store.begin(header)
        if self.failing == "seal":
            blob.seal = self._fail(blob)  # type: ignore[method-assign]
        return blob

    def accept(self, blob: Blob, new: Instance, named: Header) -> Accepted:
        if self.failing == "accept":
            blob.discard()
            raise self.error
        assert blob.path.exists()
        self.rows.append(new)
        return Accepted(new.id, merged=False)

    def event(self, kind: str, **detail: Any) -> None:
        self.events.append({"kind": kind, **detail})

    def room(self) -> bool:
        return not self.full

    def make_room(self) -> None:
        self.made_room += 1

    def files(self) -> list[Path]:
        return list(self.store.files())

    def _fail(self, blob: Blob):  # type: ignore[no-untyped-def]
        def seal(note: bytes) -> None:
            blob.discard()
            raise self.error

        return seal


@pytest.fixture
def spool(tmp_path: Path) -> FakeSpool:
    store = BlobStore(tmp_path / "blobs")
    store.prepare()
    return FakeSpool(store)


@contextmanager
def receiving(spool: FakeSpool) -> Iterator[int]:
    receiver = Receiver(lambda: settings(node(idle=5.0)), spool)
    port = receiver.start()
    try:
        yield port
    finally:
        receiver.stop(time.monotonic() + 5)


def stored(
    peer: RawPeer, data: bytes = DATA_SET, instance: str = INSTANCE, sop_class: str = DX, step: int = 999
) -> str:
    store = p_data(pdv(3, 3, command(1, data=True, sop_class=sop_class, instance=instance)))
    return peer.send(store, data_set(data, step)).answer()


def test_an_acknowledged_instance_is_a_blob_and_a_row(spool: FakeSpool) -> None:
    with receiving(spool) as port, RawPeer(port) as peer:
        before = time.time()
        assert stored(peer.associate()) == "STATUS 0000"
    (row,) = spool.rows
    (blob,) = spool.files()
    assert blob.name == f"{row.id}.dcm"
    assert blob.read_bytes()[row.offset :] == DATA_SET
    assert (row.size, row.digest) == (len(DATA_SET), xxh3_128_hexdigest(DATA_SET))
    assert (row.sop_class, row.sop_instance, row.transfer_syntax) == (DX, INSTANCE, IMPLICIT)
    assert row.caller == Caller("RAW", "ROUTER", "127.0.0.1")
    assert before <= row.received_at <= time.time()
    assert pydicom.dcmread(blob).SOPInstanceUID == INSTANCE


STATUSES: dict[str, tuple[dict[str, Any], str]] = {
    "no UID": ({"instance": "../../x"}, "a900"),
    "UID of 65 characters": ({"instance": "1." + "2" * 63}, "a900"),
    "UID empty": ({"instance": ""}, "a900"),
    "no UID in command and data set alike": (
        {"instance": "../../x", "data": element(8, 0x16, DX) + element(8, 0x18, "../../x")},
        "a900",
    ),
    "another instance": ({"instance": "1.2.3"}, "a900"),
    "another class in the data set": ({"data": element(8, 0x16, CT) + element(8, 0x18, INSTANCE)}, "a900"),
    "class not in the context": ({"sop_class": CT}, "0122"),
    "empty data set": ({"data": b""}, "c000"),
    "garbage": ({"data": bytes(i * 57 + 3 & 255 for i in range(3000))}, "c000"),
    "cut before the UID": ({"data": DATA_SET[:40]}, "c000"),
    "a Part 10 file": ({"data": file_meta(DX, INSTANCE, IMPLICIT, CALLER) + DATA_SET}, "c000"),
    "no SOP Instance UID": ({"data": element(8, 0x16, DX) + element(8, 0x20, "20200101")}, "c000"),
    "explicit where implicit was agreed": ({"data": b"\x08\0\x16\0UI\x04\x001.2\0" + bytes(100)}, "c000"),
}


@pytest.mark.parametrize("name", STATUSES)
@pytest.mark.parametrize("step", [50, 100_000])
def test_what_does_not_match_is_refused_and_leaves_nothing(spool: FakeSpool, name: str, step: int) -> None:
    sent, status = STATUSES[name]
    with receiving(spool) as port, RawPeer(port) as peer:
        assert stored(peer.associate(), step=step, **sent) == f"STATUS {status}"
        assert (spool.rows, spool.files()) == ([], [])
        assert stored(peer) == "STATUS 0000"


def test_what_breaks_beyond_the_first_elements_is_stored_as_it_came(spool: FakeSpool) -> None:
    broken = DATA_SET[:100] + b"\xff" * 333
    with receiving(spool) as port, RawPeer(port) as peer:
        assert stored(peer.associate(), broken) == "STATUS 0000"
    (blob,) = spool.files()
    assert blob.read_bytes()[spool.rows[0].offset :] == broken


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        *((where, error) for where in ("begin", "accept") for error in (SpoolError("full"), OSError(28, "full"))),
        ("seal", OSError(5, "fsync failed")),
        *((where, RuntimeError("bug")) for where in ("begin", "seal", "accept")),
    ],
)
def test_a_failing_spool_is_a_status_and_leaves_nothing(spool: FakeSpool, failing: str, error: Exception) -> None:
    spool.failing, spool.error = failing, error
    with receiving(spool) as port, RawPeer(port) as peer:
        assert stored(peer.associate()) == "STATUS a700"
        assert (spool.rows, spool.files()) == ([], [])
        spool.failing = ""
        assert stored(peer) == "STATUS 0000"


@pytest.mark.parametrize("failing", ["begin", "seal"])
def test_a_full_disk_refuses_one_and_makes_room_for_the_next(spool: FakeSpool, failing: str) -> None:
    spool.failing, spool.error = failing, OSError(errno.ENOSPC, "No space left on device")
    with receiving(spool) as port, RawPeer(port) as peer:
        assert stored(peer.associate()) == "STATUS a700"
        assert spool.made_room == 1
        spool.error = OSError(errno.EIO, "Input/output error")
        assert stored(peer) == "STATUS a700"
        assert spool.made_room == 1


@pytest.mark.parametrize("end", ["abort", "close"])
def test_a_broken_transfer_leaves_nothing_behind(
    spool: FakeSpool, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEERS trap 3: pynetdicom's chunked receive leaves the data set in the system's temporary folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with receiving(spool) as port:
        with RawPeer(port) as peer:
            store = p_data(pdv(3, 3, command(1, data=True, sop_class=DX, instance=INSTANCE)))
            peer.associate().send(store, data_set(DATA_SET * 50, last=False))
            peer.send(b"\x07\0\0\0\0\x04\0\0\0\0") if end == "abort" else peer.sock.shutdown(1)
            assert peer.answers() == ["CLOSED"]
        with RawPeer(port) as peer:
            assert peer.associate().send(ECHO).answer() == "STATUS 0000"
    assert (spool.rows, spool.files(), list(temporary.iterdir())) == ([], [], [])


def test_a_full_spool_refuses_new_associations_for_now(spool: FakeSpool) -> None:
    spool.full = True
    with receiving(spool) as port, RawPeer(port) as peer:
        for other in (peer, RawPeer(port), RawPeer(port)):
            assert other.send(request()).answers() == ["RJ 2/3/2", "CLOSED"]
            other.sock.close()
    (event,) = spool.events  # the same from one address is recorded once
    assert (event["kind"], event["peer"], event["calling_ae"]) == ("refused", "127.0.0.1", "RAW")
    assert "no room" in event["why"]


def test_what_is_not_stored_has_its_reason_in_the_log(spool: FakeSpool) -> None:
    store = p_data(pdv(3, 3, command(1, data=True, sop_class=DX, instance=INSTANCE)))
    another = p_data(pdv(3, 3, command(1, data=True, sop_class=DX, instance="1.2.3")))
    no_uid = p_data(pdv(3, 3, command(1, data=True, sop_class=DX, instance="../1")))
    with capture_logs() as logs, receiving(spool) as port, RawPeer(port) as peer:
        peer.associate()
        for one, data in ((store, b"\x08\0"), (another, DATA_SET), (no_uid, DATA_SET)):
            peer.send(one, data_set(data)).answer()
    told = [(line["status"], line["reason"]) for line in logs if line["event"] == "not stored"]
    assert told == [
        ("c000", "the data set breaks off before its SOP Instance UID"),
        ("a900", "its SOP UIDs are not those of the command"),
        ("a900", "the command's SOP Class or Instance UID is not a UID"),
    ]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, J2K_LOSSLESS])
def test_each_syntax_is_received_byte_for_byte(spool: FakeSpool, syntax: str) -> None:
    data = encoded(syntax)
    with receiving(spool) as port, RawPeer(port) as peer:
        peer.associate(context(1) + context(3, DX, syntax))
        assert stored(peer, data) == "STATUS 0000"
        assert stored(peer, data, instance="1.2.3") == "STATUS a900"
    (row,) = spool.rows
    (blob,) = spool.files()
    assert row.transfer_syntax == syntax
    assert blob.read_bytes()[row.offset :] == data
    assert pydicom.dcmread(blob).SOPInstanceUID == INSTANCE


def plain() -> Dataset:
    """A data set with everything before the UIDs that may stand there."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    code = Dataset()
    code.CodeValue = "en"
    code.SOPInstanceUID = "9.9.9"  # a trap: nested, so not the instance's own
    dataset.LanguageCodeSequence = Sequence([code])
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Rows = DX, INSTANCE, 3
    return dataset


def encoded(syntax: str, undefined: bool = False) -> bytes:
    """The data set in a syntax, by pydicom."""
    dataset = plain()
    dataset["LanguageCodeSequence"].is_undefined_length = undefined
    dataset.LanguageCodeSequence[0].is_undefined_length_sequence_item = undefined
    buffer = io.BytesIO()
    implicit, little = syntax == IMPLICIT, syntax != BIG
    pydicom.dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    raw = buffer.getvalue()
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        raw = packer.compress(raw) + packer.flush()
    return raw


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, J2K_LOSSLESS])
def test_first_elements_in_each_syntax(syntax: str, undefined: bool) -> None:
    assert sop_uids(encoded(syntax, undefined), syntax) == UIDS


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, J2K_LOSSLESS])
def test_what_people_look_for_in_each_syntax(syntax: str, undefined: bool) -> None:
    found = plain_texts(encoded(syntax, undefined), syntax, frozenset({0x00080018, 0x0020000D, 0x00080050}))
    assert found[0x00080018] == (INSTANCE,)


def test_what_people_look_for_is_left_out_where_it_cannot_be_read() -> None:
    wanted = frozenset({0x00080050, 0x0020000D})
    begin = element(8, 0x16, DX.encode())
    uid = element(0x20, 0x0D, b"1.2.3\0")
    assert plain_texts(begin + uid, IMPLICIT, wanted) == {0x0020000D: ("1.2.3",)}
    for data in (b"", b"\xff" * 100, begin + uid[:-2], begin + uid + uid, begin + b"\x20\0\x0d\0\xff\xff\0\0",
                 begin + element(0x20, 0x0D, "ü".encode()), element(8, 8, b"X" * MOST) + uid):  # fmt: skip
        assert plain_texts(data, IMPLICIT, wanted) == {}, data[:40]
    assert plain_texts(b"no zlib", DEFLATED, wanted) == {}


def test_padding_of_uids_is_stripped_whatever_it_is() -> None:
    for padding in (b"\0", b" ", b"\0\0\0", b" \0"):
        head = element(8, 0x16, DX.encode() + padding) + element(8, 0x18, INSTANCE.encode() + padding)
        assert sop_uids(head, IMPLICIT) == UIDS


def test_uids_beyond_the_bound_are_not_looked_for() -> None:
    filler = element(8, 8, b"X" * MOST)
    with pytest.raises(UnreadableError):
        sop_uids(filler + DATA_SET, IMPLICIT)


@pytest.mark.parametrize("group", [0x0001, 0x0002, 0x0005])
def test_groups_before_the_identifying_one_are_passed_over(group: int) -> None:
    assert sop_uids(element(group, 0x0010, b"OTHER ") + DATA_SET, IMPLICIT) == UIDS


def test_a_command_is_no_data_set() -> None:
    with pytest.raises(UnreadableError, match="group 0000 in a data set"):
        sop_uids(element(0, 0x0102, b"SECRET") + DATA_SET, IMPLICIT)


@pytest.mark.parametrize("vr", [b"??", b"  ", bytes(2), b"-1"])
def test_a_vr_that_is_none_is_passed_over(vr: bytes) -> None:
    data = encoded(EXPLICIT)
    assert data[4:6].isupper()
    assert sop_uids(data[:4] + vr + data[6:], EXPLICIT) == UIDS


@pytest.mark.parametrize("syntax", [EXPLICIT, J2K_LOSSLESS])
def test_a_data_set_in_implicit_vr_is_none_of_an_explicit_syntax(syntax: str) -> None:
    with pytest.raises(UnreadableError, match="implicit VR"):
        sop_uids(encoded(IMPLICIT), syntax)


def test_uids_may_stand_out_of_order() -> None:
    uids = element(8, 0x16, DX.encode()) + element(8, 0x18, INSTANCE.encode())
    assert sop_uids(element(8, 0x20, b"20240105") + element(0x10, 0x20, b"1 ") + uids, IMPLICIT) == UIDS


def test_deflated_with_a_zlib_header() -> None:
    packed = zlib.compress(encoded(EXPLICIT))
    assert sop_uids(packed, DEFLATED) == UIDS


def test_a_deflate_bomb_costs_no_more_than_the_bound() -> None:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(element(8, 8, bytes(1 << 20))) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableError):
            sop_uids(bomb, DEFLATED)
        assert tracemalloc.get_traced_memory()[1] < 16 * MOST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_a_uid_that_is_cut_is_unreadable_and_not_another(syntax: str) -> None:
    data = encoded(syntax)
    end = data.index(INSTANCE.encode()) + len(INSTANCE)
    with pytest.raises(UnreadableError):
        sop_uids(data[: end - 3], syntax)


@pytest.mark.parametrize("failing", ["begin", "accept"])
def test_the_log_says_why_an_instance_was_not_stored(spool: FakeSpool, failing: str) -> None:
    spool.failing, spool.error = failing, SpoolError("the spool is full: inodes: none")
    with capture_logs() as said, receiving(spool) as port, RawPeer(port) as peer:
        assert stored(peer.associate()) == "STATUS a700"
    (line,) = [line for line in said if line["event"] == "not stored"]
    assert (line["reason"], line["calling_ae"]) == ("the spool is full: inodes: none", "RAW")


@given(st.binary(max_size=300), st.sampled_from([IMPLICIT, EXPLICIT, BIG, DEFLATED]), st.integers(0, 120))
def test_whatever_comes_is_uids_or_unreadable(noise: bytes, syntax: str, keep: int) -> None:
    try:
        assert isinstance(sop_uids(encoded(syntax)[:keep] + noise, syntax), SopUids)
    except UnreadableError:
        pass


@pytest.mark.parametrize("instance", ["1.2", "1.2.3"])
def test_file_meta_is_part_10(instance: str) -> None:
    meta = file_meta(DX, instance, EXPLICIT, CALLER)
    read = pydicom.dcmread(io.BytesIO(meta))
    assert not len(read)
    assert read.file_meta.MediaStorageSOPClassUID == DX
    assert read.file_meta.MediaStorageSOPInstanceUID == instance
    assert read.file_meta.TransferSyntaxUID == EXPLICIT
    assert read.file_meta.FileMetaInformationVersion == b"\0\1"
    assert read.file_meta.FileMetaInformationGroupLength == len(meta) - 144
