"""Limits, callers, TLS and stopping: what the server does about who connects, and not about what they say."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
import warnings
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from router.association import server as association_server
from router.association.server import AssociationServer
from router.association.tls import Certificates, client_context
from router.config.settings import Accept, ClientTls, ServerTls
from tests.unit.receiving import (
    DATA_SET,
    ECHO,
    RELEASE_RQ,
    STORE,
    MemoryHandler,
    MemorySink,
    RawPeer,
    data_set,
    echoes,
    node,
    pdu,
    request,
    served,
    settings,
)

LIMIT = "RJ 2/3/2"


@pytest.mark.parametrize("limits", [{"associations": 2}, {"associations_per_peer": 2}])
def test_an_association_too_many_is_told_to_come_back_and_a_release_makes_room(limits: dict[str, int]) -> None:
    with served(node(idle=5.0, **limits)) as (port, _), RawPeer(port) as one, RawPeer(port) as two:
        one.associate()
        two.associate()
        with RawPeer(port) as three:
            assert three.send(request()).answers() == [LIMIT, "CLOSED"]
        assert one.send(RELEASE_RQ).answers() == ["RP", "CLOSED"]
        one.sock.close()
        assert eventually(lambda: echoes_or_not(port))


def test_silent_connections_beyond_the_limit_are_told_to_come_back_and_artim_makes_room() -> None:
    with served(node(unspoken_connections=4, artim=0.6)) as (port, _), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(RawPeer(port)) for _ in range(2)]
        with RawPeer(port) as third:  # half of the places is the most that one peer gets
            assert third.answers() == [LIMIT, "CLOSED"]
        assert [peer.answers() for peer in silent] == [["CLOSED"]] * 2
        assert eventually(lambda: echoes_or_not(port))


def test_half_sent_pdus_free_their_places() -> None:
    """PEERS trap 1: with pynetdicom, a dozen of these close the node to everybody."""
    with served(node(associations=6)) as (port, _), contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(port)).associate() for _ in range(6)]
        for peer in peers:
            peer.send(pdu(4, b"x" * 100, 10_000))
        assert all(peer.answers() == ["ABORT 2/0", "CLOSED"] for peer in peers)
        for peer in peers:
            peer.sock.close()
        assert eventually(lambda: echoes_or_not(port))


def test_a_handler_whose_disk_does_not_answer_refuses_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: MemoryHandler) -> bool:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(MemoryHandler, "refuse_association", gone)
    with served() as (port, _), RawPeer(port) as peer:
        assert peer.send(request()).answers() == ["RJ 2/3/2", "CLOSED"]


def test_a_handler_without_room_refuses_for_now() -> None:
    with served(handler=MemoryHandler(full=True)) as (port, handler):
        with RawPeer(port) as peer:
            assert peer.send(request()).answers() == [LIMIT, "CLOSED"]
        handler.full = False
        assert echoes(port)


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        (Accept("RAW", ip_network("127.0.0.0/8")), "AC"),
        (Accept("RAW"), "AC"),
        (Accept(None, ip_network("127.0.0.1/32")), "AC"),
        (Accept("OTHER", ip_network("127.0.0.0/8")), "RJ 1/1/3"),
        (Accept("RAW", ip_network("10.0.0.0/8")), "RJ 1/1/3"),
        (Accept("RAW", ip_network("::1/128")), "RJ 1/1/3"),
    ],
)
def test_callers_are_accepted_by_title_and_network(accept: Accept, answer: str) -> None:
    lines = (Accept("NOBODY", ip_network("10.9.9.9/32")), accept)
    with served(node(accept=lines)) as (port, _), RawPeer(port) as peer:
        assert peer.send(request()).answer() == answer


@pytest.mark.parametrize(("called", "answer"), [(b"ROUTER", "AC"), (b"OTHER", "RJ 1/1/7")])
def test_the_called_title_is_checked_where_it_is_required(called: bytes, answer: str) -> None:
    with served(node(require_called_ae=True)) as (port, _), RawPeer(port) as peer:
        assert peer.send(request(called=called.ljust(16))).answer() == answer


def test_a_reload_counts_from_the_next_connection() -> None:
    current = [node()]
    server = AssociationServer(lambda: settings(current[0]), MemoryHandler())
    port = server.start()
    try:
        assert echoes(port)
        current[0] = replace(current[0], accept=())
        with RawPeer(port) as peer:
            assert peer.send(request()).answer() == "RJ 1/1/3"
    finally:
        server.stop(time.monotonic() + 5)


def test_stopping_ends_what_rests_at_once_and_lets_a_data_set_under_way_finish() -> None:
    handler = MemoryHandler()
    server = AssociationServer(lambda: settings(node(idle=60.0, artim=60.0)), handler)
    port = server.start()
    with RawPeer(port) as silent, RawPeer(port) as resting, RawPeer(port) as busy:
        resting.associate()
        busy.associate().send(STORE, data_set(DATA_SET[:100], last=False))
        assert eventually(lambda: any(isinstance(sink, MemorySink) and sink.data for sink in handler.sinks))
        stopping = threading.Thread(target=server.stop, args=(time.monotonic() + 30,))
        stopping.start()
        assert resting.answers() == ["ABORT 0/0", "CLOSED"]
        assert silent.answers() == ["CLOSED"]
        assert busy.send(data_set(DATA_SET[100:])).answers() == ["STATUS 0000", "ABORT 0/0", "CLOSED"]
        for peer in (silent, resting, busy):
            peer.sock.close()
        stopping.join(10)
        assert not stopping.is_alive()
    assert handler.stored == [DATA_SET]
    with pytest.raises(ConnectionRefusedError):
        RawPeer(port)


def test_stopping_does_not_wait_beyond_its_deadline() -> None:
    handler = MemoryHandler()
    server = AssociationServer(lambda: settings(node(idle=60.0, artim=60.0)), handler)
    with RawPeer(server.start()) as busy:
        busy.associate().send(STORE, data_set(last=False))
        assert eventually(lambda: bool(handler.sinks))
        server.stop(time.monotonic())
        assert busy.answers() == ["CLOSED"]
    assert eventually(lambda: not server.associations)
    (sink,) = handler.sinks
    assert isinstance(sink, MemorySink)
    assert sink.ended == "abandoned"


def make_identity(folder: Path) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_identity(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def served_by_tls(identity: tuple[Path, Path], ca: Path | None = None):  # type: ignore[no-untyped-def]
    tls = ServerTls(identity[0], identity[1], port=0, ca=ca)
    handler = MemoryHandler()
    server = AssociationServer(lambda: settings(node(tls=tls, artim=1.0)), handler)
    server.start()
    try:
        yield server.tls_port, handler
    finally:
        server.stop(time.monotonic() + 5)


def secured(port: int, client: ClientTls) -> RawPeer:
    peer = RawPeer(port)
    return RawPeer(port, client_context(client).wrap_socket(peer.sock, server_hostname="localhost"))


def test_tls_carries_an_association(identity: tuple[Path, Path]) -> None:
    with served_by_tls(identity) as (port, handler), secured(port, ClientTls(ca=identity[0])) as peer:
        assert peer.associate().send(STORE, data_set(step=1000), ECHO).answer() == "STATUS 0000"
        assert peer.answer() == "STATUS 0000"
        assert handler.stored == [DATA_SET]
        assert peer.send(RELEASE_RQ).answers() == ["RP", "CLOSED"]


def test_clients_that_stay_silent_on_the_tls_port_delay_nobody(identity: tuple[Path, Path]) -> None:
    """PEERS trap 2: with pynetdicom the handshake is in the accept loop."""
    with served_by_tls(identity) as (port, _), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(RawPeer(port)) for _ in range(5)]
        with secured(port, ClientTls(ca=identity[0])) as peer:
            assert peer.associate().send(ECHO, RELEASE_RQ).answers() == ["STATUS 0000", "RP", "CLOSED"]
        assert all(peer.answers() == ["CLOSED"] for peer in silent)  # and ARTIM ends them


def test_stopping_does_not_wait_for_a_handshake(identity: tuple[Path, Path]) -> None:
    tls = ServerTls(*identity, port=0)
    server = AssociationServer(lambda: settings(node(tls=tls, artim=60.0)), MemoryHandler())
    server.start()
    assert server.tls_port
    with RawPeer(server.tls_port) as silent, RawPeer(server.tls_port) as second:
        second.send(b"\x16\3\1")  # taken up by now: connections are accepted in order
        stopping = threading.Thread(target=server.stop, args=(time.monotonic() + 60,), daemon=True)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
        assert silent.answers() == ["CLOSED"]


def test_a_handshake_that_begins_just_after_stop_has_looked_is_ended_too(
    identity: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`stop` looks while the thread still holds the plain socket, which the TLS socket then takes over."""
    began, looked = threading.Event(), threading.Event()
    shut_down = association_server._shutdown

    def shut_down_and_say_so(sock: socket.socket) -> None:
        shut_down(sock)
        if sock.fileno() == -1:  # the plain socket: TLS has its descriptor
            looked.set()

    class LateContext(ssl.SSLContext):
        def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
            secure = super().wrap_socket(*arguments, **options)
            began.set()
            assert looked.wait(10)
            return secure

    context = LateContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*identity)
    monkeypatch.setattr(Certificates, "context", lambda *_: context)
    monkeypatch.setattr(association_server, "_shutdown", shut_down_and_say_so)
    server = AssociationServer(lambda: settings(node(tls=ServerTls(*identity, port=0), artim=60.0)), MemoryHandler())
    server.start()
    assert server.tls_port
    with RawPeer(server.tls_port) as silent:
        assert began.wait(10)
        stopping = threading.Thread(target=server.stop, args=(time.monotonic() + 60,), daemon=True)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
        assert silent.answers() == ["CLOSED"]


def test_a_plain_caller_on_the_tls_port_is_closed(identity: tuple[Path, Path]) -> None:
    with served_by_tls(identity) as (port, _), RawPeer(port) as peer:
        peer.send(request())
        assert "AC" not in peer.answers()


def test_a_reload_without_tls_does_not_open_its_port_to_plain_callers(identity: tuple[Path, Path]) -> None:
    current = [node(tls=ServerTls(*identity, port=0))]
    server = AssociationServer(lambda: settings(current[0]), MemoryHandler())
    server.start()
    assert server.tls_port
    try:
        current[0] = node()
        with RawPeer(server.tls_port) as peer:
            assert "AC" not in peer.send(request()).answers()
        with secured(server.tls_port, ClientTls(ca=identity[0])) as peer:
            peer.associate()
    finally:
        server.stop(time.monotonic() + 5)


def test_mutual_tls_demands_a_certificate(identity: tuple[Path, Path]) -> None:
    with served_by_tls(identity, ca=identity[0]) as (port, _):
        with secured(port, ClientTls(identity[0], *identity)) as peer:
            peer.associate()
        with pytest.raises((ssl.SSLError, AssertionError)), secured(port, ClientTls(identity[0])) as peer:
            peer.associate()


def test_a_renewed_certificate_is_in_force_at_once_and_a_broken_one_never(tmp_path: Path) -> None:
    for name in ("served", "renewed"):
        (tmp_path / name).mkdir()
    served, renewed = make_identity(tmp_path / "served"), make_identity(tmp_path / "renewed")
    before = tmp_path / "before.pem"
    before.write_bytes(served[0].read_bytes())
    with served_by_tls(served) as (port, _):
        with secured(port, ClientTls(ca=before)) as peer:
            peer.associate()
        served[1].write_text("a robot's mistake")
        with secured(port, ClientTls(ca=before)) as peer:
            peer.associate()
        for new, old in zip(renewed, served, strict=True):
            new.replace(old)
        with secured(port, ClientTls(ca=served[0])) as peer:
            peer.associate()
        with pytest.raises(ssl.SSLError):
            secured(port, ClientTls(ca=before))


def test_old_tls_is_refused(identity: tuple[Path, Path]) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings(action="ignore"):  # Python warns of old TLS, which is what we want to offer
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with served_by_tls(identity) as (port, _), RawPeer(port) as peer, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(peer.sock)


def echoes_or_not(port: int) -> bool:
    with RawPeer(port) as peer:
        return peer.send(request(), ECHO, RELEASE_RQ).answers() == ["AC", "STATUS 0000", "RP", "CLOSED"]


def eventually(condition, seconds: float = 5.0) -> bool:  # type: ignore[no-untyped-def]
    """Whether a condition that other threads bring about comes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def test_open_is_said_only_while_connections_are_taken() -> None:
    server = AssociationServer(lambda: settings(node()), MemoryHandler())
    server.bind()
    said = [server.is_open]
    assert echoes(server.start())
    said.append(server.is_open)
    server.stop(time.monotonic() + 5)
    assert [*said, server.is_open] == [False, True, False]
