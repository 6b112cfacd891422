"""Peers that nobody here wrote: pynetdicom, DCMTK, and a corpus of malformed streams, each followed by a C-ECHO."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID
from pynetdicom import AE, _config
from pynetdicom.association import Association

from tests.unit.receiving import (
    BIG,
    DEFLATED,
    DX,
    EXPLICIT,
    IMPLICIT,
    INSTANCE,
    VERIFICATION,
    MemoryHandler,
    MemorySink,
    RawPeer,
    node,
    served,
)

NEVER_STORED = ("dimse_never_last", "dimse_abort_midway", "dimse_close_midway", "pdata_over_max")


def instance(syntax: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DX, INSTANCE
    dataset.Rows, dataset.Columns, dataset.BitsAllocated = 100, 3000, 8
    dataset.add_new(0x7FE00010, "OB", bytes(i * 31 & 255 for i in range(300_000)))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = UID(DX), UID(INSTANCE)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    return dataset


def part10(syntax: str) -> tuple[bytes, bytes]:
    """A Part 10 file and its data set."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, instance(syntax), enforce_file_format=True)
    raw = buffer.getvalue()
    return raw, raw[144 + int.from_bytes(raw[140:144], "little") :]


@contextlib.contextmanager
def associated(port: int, *contexts: tuple[str, str]) -> Iterator[Association]:
    ae = AE("PYNETDICOM")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
    for sop_class, syntax in contexts or ((VERIFICATION, IMPLICIT),):
        ae.add_requested_context(sop_class, syntax)
    association = ae.associate("127.0.0.1", port, ae_title="ROUTER")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def echoes(port: int) -> bool:
    with associated(port) as association:
        return bool(association.send_c_echo().Status == 0)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
def test_c_store_by_pynetdicom_is_byte_identical(syntax: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, data = part10(syntax)
    path = tmp_path / "instance.dcm"
    path.write_bytes(file)
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    with (
        served(node(idle=30.0, artim=10.0)) as (port, handler),
        associated(port, (DX, syntax), (VERIFICATION, IMPLICIT)) as peer,
    ):
        assert peer.acceptor.maximum_length == 131072
        assert peer.acceptor.asynchronous_operations == (1, 1)  # PEERS trap 9: never a window
        assert not peer.acceptor.role_selection
        for _ in range(3):
            assert peer.send_c_store(path).Status == 0x0000
        assert peer.send_c_echo().Status == 0x0000
    assert handler.stored == [data] * 3


def test_an_asynchronous_window_is_not_granted() -> None:
    with served() as (port, _):
        ae = AE()
        ae.add_requested_context(VERIFICATION)
        from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

        window = AsynchronousOperationsWindowNegotiation()
        window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 8
        association = ae.associate("127.0.0.1", port, ext_neg=[window])
        assert association.acceptor.asynchronous_operations == (1, 1)
        association.release()


def test_a_slow_sender_is_not_cut_while_it_keeps_the_least_rate() -> None:
    """PEERS trap 4, the acceptor's half: no time limit holds a whole transfer, so it may last longer than any."""
    slow = node(idle=0.3, artim=0.3, least_rate=100_000)
    with served(slow) as (port, handler), contextlib.closing(socket.create_server(("127.0.0.1", 0))) as relay:
        threading.Thread(target=trickle, args=(relay, port), daemon=True).start()
        with associated(relay.getsockname()[1], (DX, IMPLICIT)) as peer:
            assert peer.send_c_store(instance(IMPLICIT)).Status == 0x0000
    assert len(handler.stored) == 1


def trickle(relay: socket.socket, port: int) -> None:
    """Relay one connection, the sender's bytes at about 300 kB/s, so that the instance takes a second."""
    sender, _ = relay.accept()
    with sender, socket.create_connection(("127.0.0.1", port)) as router:
        threading.Thread(target=pump, args=(router, sender, 0.0), daemon=True).start()
        pump(sender, router, 0.02)


def pump(source: socket.socket, sink: socket.socket, pause: float) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(6000):
            sink.sendall(piece)
            threading.Event().wait(pause if len(piece) == 6000 else 0)
        sink.shutdown(socket.SHUT_WR)


@pytest.mark.dcmtk
@pytest.mark.parametrize(
    ("syntax", "sender"),  # dcmsend itself transcodes what is not explicit little endian, so storescu sends the others
    [
        (EXPLICIT, ["dcmsend", "--decompress-never"]),
        (DEFLATED, ["dcmsend", "--decompress-never"]),
        (IMPLICIT, ["storescu", "-xi"]),
        (BIG, ["storescu", "-xb"]),
    ],
)
def test_c_store_by_dcmtk_is_byte_identical(syntax: str, sender: list[str], tmp_path: Path) -> None:
    file, data = part10(syntax)
    path = tmp_path / "instance.dcm"
    path.write_bytes(file)
    with served(node(idle=30.0, artim=10.0)) as (port, handler):
        command = [*sender, "-aec", "ROUTER", "127.0.0.1", str(port), str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    (sink,) = handler.sinks
    assert isinstance(sink, MemorySink)
    assert sink.request.transfer_syntax == syntax
    assert handler.stored == [data]


@pytest.mark.dcmtk
def test_echoscu_is_answered() -> None:
    with served(node(idle=30.0, artim=10.0)) as (port, _):
        subprocess.run(["echoscu", "127.0.0.1", str(port)], check=True, capture_output=True, timeout=20)


@pytest.mark.shared
def test_after_each_malformed_stream_of_the_corpus_an_echo_is_answered(shared: Path) -> None:
    """Played by many threads on one server, which must end every association by itself and serve on."""
    streams = sorted((shared / "data/dicom/4-network").glob("*.pdu"))
    assert len(streams) > 100
    handler = MemoryHandler()
    with served(node(associations=400, associations_per_peer=400, unspoken_connections=400), handler) as (port, _):
        with ThreadPoolExecutor(24) as players:
            played = players.map(lambda stream: play(port, stream), streams)
            answers = dict(zip((stream.stem for stream in streams), played, strict=True))
        assert echoes(port)
    assert [name for name, got in answers.items() if got[-1:] != ["CLOSED"]] == []
    good = {name: got for name, got in answers.items() if name.startswith("good_")}
    assert all("RP" in got and not any("ABORT" in one for one in got) for got in good.values()), good
    assert all(not any("STATUS 0000" in one for one in answers[name]) for name in NEVER_STORED)
    assert all(isinstance(sink, int) or (isinstance(sink, MemorySink) and sink.ended) for sink in handler.sinks)


def play(port: int, stream: Path) -> list[str]:
    """One stream of the corpus: S sends, S* repeats, R reads an answer, C closes our side, W pauses briefly."""
    got: list[str] = []
    with RawPeer(port) as peer:
        for line in stream.read_text().splitlines():
            match line.split():
                case ["S", data]:
                    peer.send(bytes.fromhex(data))
                case ["S*", count, data]:
                    repeated = bytes.fromhex(data)
                    for _ in range(int(count)):
                        peer.send(repeated)
                case ["R", *_]:
                    got.append(peer.answer())
                case ["W", pause]:
                    threading.Event().wait(min(float(pause), 0.02))
                case ["C"]:
                    with contextlib.suppress(OSError):
                        peer.sock.shutdown(socket.SHUT_WR)
        return got + peer.answers()
