"""The requestor against peers that nobody here wrote: DCMTK, pynetdicom, and TLS in every direction."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, AllStoragePresentationContexts, evt

from router.association import pdu
from router.association.requestor import ConnectError, Requestor, connect
from router.association.server import AssociationServer
from router.config.settings import ClientTls, DestinationSettings, ServerTls
from router.flow import StoredFile
from tests.unit.peer import DX, EXPLICIT, IMPLICIT, J2K, UID, Peer, Talk, silent_until_closed, wait_for
from tests.unit.receiving import BIG as BIG_ENDIAN
from tests.unit.receiving import DEFLATED, INSTANCE, MemoryHandler, node, settings
from tests.unit.test_acceptor_interop import part10


def destination(port: int, **changes: Any) -> DestinationSettings:
    plain = DestinationSettings("dest", "DEST", "127.0.0.1", port, connect_timeout=5, response_timeout=10)
    return replace(plain, **changes)


@dataclass
class Sample:
    """One instance on disk, after some bytes that must never be sent."""

    path: Path
    data: bytes
    offset: int = 144

    def store(self, association: Requestor, syntax: str = EXPLICIT) -> int:
        return association.store(StoredFile(self.path, self.offset, len(self.data), DX, INSTANCE, syntax))

    def send(self, to: DestinationSettings, syntax: str, times: int = 1) -> list[int]:
        association = connect(to, "US", [(DX, syntax)])
        assert association.accepts(DX, syntax)
        statuses = [self.store(association, syntax) for _ in range(times)]
        association.release()
        return statuses


@pytest.fixture
def sample(tmp_path: Path) -> Callable[[str], Sample]:
    def make(syntax: str) -> Sample:
        native = syntax if syntax in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED) else EXPLICIT
        _, data = part10(native)
        path = tmp_path / "sample.dcm"
        path.write_bytes(b"\xaa" * 144 + data)
        return Sample(path, data)

    return make


# -- DCMTK -----------------------------------------------------------------------------------------------------------


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """DCMTK's storescp, which keeps data sets bit for bit."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["/usr/bin/storescp", "--bit-preserving", "--accept-all", *options, "-od", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: _listens(port))
            yield port
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    try:
        connect(destination(port), "US", (), echo=True).release()
    except ConnectError:
        return False
    return True


@pytest.mark.dcmtk
@pytest.mark.parametrize("options", [(), ("--max-pdu", "4096"), ("--max-pdu", "131072")])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, J2K])
def test_dcmtk_gets_every_byte(
    sample: Callable[[str], Sample], tmp_path: Path, syntax: str, options: tuple[str, ...]
) -> None:
    one = sample(syntax)
    with storescp(tmp_path / "got", *options) as port:
        assert one.send(destination(port), syntax, times=2) == [0, 0]
        connect(destination(port), "US", (), echo=True).release()
    (got,) = (tmp_path / "got").iterdir()
    raw = got.read_bytes()
    assert raw[144 + int.from_bytes(raw[140:144], "little") :] == one.data


@pytest.mark.dcmtk
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_dcmtk_takes_a_data_set_of_odd_length(sample: Callable[[str], Sample], tmp_path: Path, syntax: str) -> None:
    """It aborts at a last fragment that is odd, where it does not keep data sets bit for bit."""
    one = sample(syntax)
    one.data += b"\x09\0\x01\0" + (b"\3\0\0\0" if syntax == IMPLICIT else b"LO\3\0") + b"odd"
    one.path.write_bytes(b"\xaa" * 144 + one.data)
    with storescp(tmp_path / "got", "--normal") as port:
        assert one.send(destination(port), syntax, times=2) == [0, 0]


@pytest.mark.dcmtk
def test_dcmtk_that_refuses_and_aborts(tmp_path: Path) -> None:
    with storescp(tmp_path / "got") as port:
        association = connect(destination(port), "US", [(DX, "1.2.3.4")])
        assert not association.accepts(DX, "1.2.3.4")
        assert association.fallback(DX) == EXPLICIT
        association.abort()
        assert _listens(port)


# -- pynetdicom ------------------------------------------------------------------------------------------------------


@dataclass
class Pynetdicom:
    """A storage SCP that keeps the data sets as they came."""

    status: int = 0
    got: list[bytes] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    @contextmanager
    def serving(self, *syntaxes: str, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[int]:
        ae = AE("DEST")
        for name, value in options.items():
            setattr(ae, name, value)
        for context in AllStoragePresentationContexts[:120]:
            ae.add_supported_context(str(context.abstract_syntax), list(syntaxes) or [EXPLICIT, IMPLICIT])
        ae.add_supported_context(DX, list(syntaxes) or [EXPLICIT, IMPLICIT])
        ae.add_supported_context("1.2.840.10008.1.1")
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_RELEASED, lambda _: self.events.append("released")),
            (evt.EVT_ABORTED, lambda _: self.events.append("aborted")),
        ]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()

    def _store(self, event: Any) -> int:
        self.got.append(event.request.DataSet.getvalue())
        return self.status


@pytest.mark.parametrize("max_pdu", [0, 1024, 16382, 131072])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, DEFLATED, J2K])
def test_pynetdicom_gets_every_byte(sample: Callable[[str], Sample], syntax: str, max_pdu: int) -> None:
    one, peer = sample(syntax), Pynetdicom()
    with peer.serving(syntax, maximum_pdu_size=max_pdu) as port:
        assert one.send(destination(port), syntax, times=2) == [0, 0]
        wait_for(lambda: peer.events)
    assert peer.got == [one.data] * 2
    assert peer.events == ["released"]


def test_pynetdicom_refuses_for_its_reasons(sample: Callable[[str], Sample]) -> None:
    one, peer = sample(EXPLICIT), Pynetdicom(status=0xA700)
    with peer.serving() as port:
        assert one.send(destination(port), EXPLICIT) == [0xA700]
    with peer.serving(require_called_aet=True) as port, pytest.raises(ConnectError, match="called AE title"):
        one.send(destination(port, ae_title="OTHER"), EXPLICIT)
    with peer.serving(require_calling_aet=["THEM"]) as port, pytest.raises(ConnectError, match="calling AE title"):
        one.send(destination(port), EXPLICIT)


def test_pynetdicom_takes_an_abort() -> None:
    peer = Pynetdicom()
    with peer.serving() as port:
        connect(destination(port), "US", [(DX, EXPLICIT)]).abort()
        wait_for(lambda: peer.events)
    assert peer.events == ["aborted"]


# -- TLS -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


def self_signed(folder: Path, name: str) -> Pair:
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pair.key, "-out",
            pair.certificate,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return pair


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    """The destination's and ours."""
    folder = tmp_path_factory.mktemp("tls")
    return self_signed(folder, "theirs"), self_signed(folder, "ours")


def as_server(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


@contextmanager
def our_acceptor(pair: Pair, ca: Path | None = None) -> Iterator[tuple[int, MemoryHandler]]:
    handler = MemoryHandler()
    tls = ServerTls(pair.certificate, pair.key, port=0, ca=ca)
    server = AssociationServer(lambda: settings(node(tls=tls, idle=5.0, artim=5.0)), handler)
    server.start()
    try:
        yield server.tls_port or 0, handler
    finally:
        server.stop(time.monotonic() + 5)


def test_tls_to_our_own_acceptor(sample: Callable[[str], Sample], pairs: tuple[Pair, Pair]) -> None:
    theirs, _ = pairs
    one = sample(EXPLICIT)
    with our_acceptor(theirs) as (port, handler):
        to = destination(port, ae_title="ROUTER", tls=ClientTls(ca=theirs.certificate))
        association = connect(to, "US", [(DX, EXPLICIT)], echo=True)
        for _ in range(3):
            assert association.echo() == 0
            assert not association.lost()  # session tickets are no words of the peer
            assert one.store(association) == 0
        association.release()
    assert handler.stored == [one.data] * 3


def test_tls_with_a_certificate_of_ours(sample: Callable[[str], Sample], pairs: tuple[Pair, Pair]) -> None:
    theirs, ours = pairs
    one = sample(EXPLICIT)
    with our_acceptor(theirs, ca=ours.certificate) as (port, handler):
        with_ours = ClientTls(ca=theirs.certificate, certificate=ours.certificate, key=ours.key)
        association = connect(destination(port, tls=with_ours), "US", [(DX, EXPLICIT)])
        assert one.store(association) == 0
        association.release()
        with pytest.raises(ConnectError) as caught:
            connect(destination(port, tls=ClientTls(ca=theirs.certificate)), "US", [(DX, EXPLICIT)])
        assert caught.value.kind in ("tls", "aborted")
    assert len(handler.stored) == 1


@pytest.mark.parametrize("size", [0, 1, 131067, 700_001])
def test_tls_to_a_peer_that_counts(tmp_path: Path, pairs: tuple[Pair, Pair], size: int) -> None:
    theirs, _ = pairs
    path = tmp_path / "blob"
    data = bytes(i * 13 & 255 for i in range(size))
    path.write_bytes(b"head" + data)
    with Peer(tls=as_server(theirs), max_pdu=0) as peer:
        association = connect(peer.destination(tls=ClientTls(ca=theirs.certificate)), "US", [(DX, EXPLICIT)])
        assert association.store(StoredFile(path, 4, size, DX, UID, EXPLICIT)) == 0
        with pytest.raises(OSError, match="shorter"):
            association.store(StoredFile(path, 4, size + 5, DX, UID, EXPLICIT))
        association.abort()
        wait_for(lambda: peer.ends)
    assert [one.data for one in peer.stored] == [data + bytes(size % 2)]


def test_tls_to_pynetdicom(sample: Callable[[str], Sample], pairs: tuple[Pair, Pair]) -> None:
    theirs, _ = pairs
    one, peer = sample(EXPLICIT), Pynetdicom()
    with peer.serving(tls=as_server(theirs)) as port:
        assert one.send(destination(port, tls=ClientTls(ca=theirs.certificate)), EXPLICIT, times=3) == [0, 0, 0]
    assert peer.got == [one.data] * 3


def test_tls_from_pynetdicom(pairs: tuple[Pair, Pair]) -> None:
    theirs, _ = pairs
    with our_acceptor(theirs) as (port, _):
        context = ssl.create_default_context(cafile=str(theirs.certificate))
        ae = AE("THEM")
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", port, ae_title="ROUTER", tls_args=(context, "127.0.0.1"))
        assert association.is_established
        assert association.send_c_echo().Status == 0
        association.release()


def _refusal(to: DestinationSettings) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        connect(to, "US", [(DX, EXPLICIT)])
    return caught.value


def test_tls_that_cannot_be_trusted(pairs: tuple[Pair, Pair], tmp_path: Path) -> None:
    theirs, ours = pairs
    with our_acceptor(theirs) as (port, _):
        unknown = _refusal(destination(port, tls=ClientTls(ca=ours.certificate)))
        assert (unknown.kind, "not in ca" in unknown.reason) == ("tls", True)
        assert _refusal(destination(port, host="localhost", tls=ClientTls(ca=theirs.certificate))).kind == "tls"
        lax = ClientTls(ca=theirs.certificate, verify_host=False)
        connect(destination(port, host="localhost", tls=lax), "US", [(DX, EXPLICIT)]).release()
        for broken in (tmp_path / "none.pem", theirs.key):
            assert _refusal(destination(port, tls=ClientTls(ca=broken))).kind == "tls"


def test_tls_where_the_peer_speaks_none(pairs: tuple[Pair, Pair]) -> None:
    theirs, _ = pairs

    def plain(talk: Talk) -> None:
        talk.sock.recv(10_000)
        talk.send(pdu.abort(None))
        talk.until_closed()

    with Peer(plain) as peer:
        assert _refusal(peer.destination(tls=ClientTls(ca=theirs.certificate))).kind == "tls"
    with Peer(silent_until_closed) as peer:
        silent = peer.destination(tls=ClientTls(ca=theirs.certificate), connect_timeout=0.3)
        assert _refusal(silent).kind == "silent"
