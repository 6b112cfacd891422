"""More callers than a node takes, and callers that mean it ill: others are served, and nothing grows."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pynetdicom.sop_class import _STORAGE_CLASSES

from router.association import pdu
from router.association.negotiation import MOST_CONTEXTS, ProposedContext
from router.association.proposing import associate_rq
from router.association.requestor import ConnectError, connect
from router.config.settings import ClientTls, DestinationSettings
from router.flow import StoredFile
from tests.acceptance.corpus import node_as_destination, quick_node, rows, settled
from tests.acceptance.siege import Watch, proportional_memory
from tests.acceptance.small import instance_file, instance_files, store_all
from tests.chaos.traffic import SOP_CLASS, SYNTAX, Sinks
from tests.peers import NodeUnderTest, free_port, wait_for
from tests.unit.test_acceptor_limits import make_identity

PROBES = 10_000
AT_ONCE = 64
MIB = 1 << 20
LARGE = 25 * MIB
LIMITS = {"ARTIM": "4s", "IDLE": "20s", "ASSOCIATIONS": str(AT_ONCE), "ASSOCIATIONS_PER_PEER": str(AT_ONCE)}


@dataclass(frozen=True)
class Besieged:
    """A node with short limits, and what it forwards to."""

    node: NodeUnderTest
    pid: int
    sinks: Sinks
    tls_port: int
    certificate: Path

    @property
    def address(self) -> DestinationSettings:
        return node_as_destination(self.node)

    @property
    def tls_address(self) -> DestinationSettings:
        return replace(self.address, port=self.tls_port, tls=ClientTls(ca=self.certificate))

    def echo(self) -> int:
        association = connect(self.address, "ECHO", (), echo=True)
        status = association.echo()
        association.release()
        return status

    def answers(self) -> bool:
        """Whether a new association is taken and C-ECHO answered."""
        with suppress(ConnectError):
            return self.echo() == 0
        return False

    def held(self) -> tuple[int, int]:
        """Threads and open descriptors of the node's process."""
        process = Path(f"/proc/{self.pid}")
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    patch = pytest.MonkeyPatch()
    tls_port = free_port()
    certificate, key = make_identity(tmp_path_factory.mktemp("tls"))
    tls = {"TLS__PORT": str(tls_port), "TLS__CERTIFICATE": str(certificate), "TLS__KEY": str(key)}
    for name, value in (LIMITS | tls).items():
        patch.setenv(f"DICOM_ROUTER__NODE__{name}", value)
    rules = "rules: []\notherwise: {send: one}\n"
    try:
        with Sinks() as sinks:
            node = quick_node(tmp_path_factory.mktemp("overload"), {"one": sinks.ports["one"]}, rules=rules)
            with node.running() as child:
                yield Besieged(node, child.pid, sinks, tls_port, certificate)
    finally:
        patch.undo()


@contextmanager
def sockets(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]


def request() -> bytes:
    contexts = [ProposedContext(1, SOP_CLASS, (SYNTAX,))]
    return associate_rq("SLOW", "ROUTER", contexts)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def send(meta: StoredFile, to: DestinationSettings, together: threading.Barrier) -> int:
    """One instance on an association that is held until all have theirs and have stored."""
    association = connect(to, "MANY", [(meta.sop_class, meta.transfer_syntax)])
    together.wait(30)
    status = association.store(meta)
    together.wait(60)
    association.release()
    return status


def test_as_many_associations_as_allowed_store_at_once_and_one_more_is_told_to_come_back(
    besieged: Besieged, tmp_path: Path
) -> None:
    metas = instance_files(tmp_path, AT_ONCE)
    together = threading.Barrier(AT_ONCE + 1)
    before = proportional_memory(besieged.pid)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sent = [pool.submit(send, meta, besieged.address, together) for meta in metas]
        together.wait(60)  # each has its association
        with pytest.raises(ConnectError) as refused:
            connect(besieged.address, "ONE_MORE", (), echo=True)
        together.wait(60)  # each has its answer
        during = proportional_memory(besieged.pid)
        assert [future.result(60) for future in sent] == [0] * AT_ONCE
    assert refused.value.kind == "rejected"  # for now, not for good
    assert during - before < 2 * AT_ONCE * MIB
    wait_for(besieged.answers, 10, "room for another")
    wait_for(lambda: settled(besieged.node, AT_ONCE), 60, "all to be delivered")
    assert {meta.sop_instance for meta in metas} <= {arrival.uid for arrival in besieged.sinks.arrivals}


def test_large_instances_at_once_are_not_held_in_memory(besieged: Besieged, tmp_path: Path) -> None:
    """Ten at once, together far more than the node may grow by."""
    metas = instance_files(tmp_path, 10)
    for meta in metas:
        with meta.path.open("ab") as file:
            file.write(b"\xfc\xff\xfc\xffOB\0\0" + LARGE.to_bytes(4, "little"))  # Data Set Trailing Padding
            file.truncate(file.tell() + LARGE)
    before = proportional_memory(besieged.pid)
    watch = Watch(besieged.address, besieged.pid)
    watch.start()
    with ThreadPoolExecutor(len(metas)) as pool:
        assert list(pool.map(lambda meta: store_all([meta], besieged.address), metas)) == [[0]] * len(metas)
    wait_for(lambda: settled(besieged.node, len(metas)), 60, "all to be delivered")
    watch.stop()
    assert watch.failures == []
    assert watch.most_memory - before < 4 * LARGE < len(metas) * LARGE


def test_probes_that_connect_and_close_leave_nothing_behind(besieged: Besieged) -> None:
    """Load balancers do so every few seconds for years."""

    def probe(count: int) -> None:
        for n in range(count):
            sock = socket.create_connection(("127.0.0.1", besieged.node.port), 10)
            if n % 2:
                reset(sock)
            sock.close()

    probe(200)  # whatever is made at the first time
    wait_for(besieged.answers, 10, "the first probes to be forgotten")
    (threads, descriptors), memory = besieged.held(), proportional_memory(besieged.pid)
    with ThreadPoolExecutor(8) as pool:
        probing = [pool.submit(probe, PROBES // 8) for _ in range(8)]
        wait_for(besieged.answers, 20, "an association between the probes")
        for future in probing:
            future.result(120)
    wait_for(lambda: besieged.held() <= (threads + 1, descriptors + 64), 20, "threads and descriptors to go")
    wait_for(besieged.answers, 10, "an association after the probes")
    assert proportional_memory(besieged.pid) - memory < 30 * MIB


def test_slow_and_half_sent_requests_and_silent_tls_end_by_themselves_while_others_are_served(
    besieged: Besieged, tmp_path: Path
) -> None:
    """Fewer than one peer may have unspoken: the others' places are theirs."""
    port, tls_port = besieged.node.port, besieged.tls_port
    with sockets(port, 5) as silent, sockets(port, 8) as halves, sockets(port, 8) as lorises, sockets(tls_port, 8) as t:
        for sock in halves:
            sock.sendall(request()[:50])
        for sock in t[:4]:
            sock.sendall(b"\x16\x03\x01")  # the first bytes of a handshake
        trickling = threading.Thread(target=trickle, args=(lorises, request()))
        trickling.start()
        assert store_all([instance_file(tmp_path / "plain")], besieged.address) == [0]
        assert store_all([instance_file(tmp_path / "tls")], besieged.tls_address) == [0]
        for sock in (*silent, *halves, *t):
            sock.settimeout(30)
            assert ended(sock)
        trickling.join(30)
        assert not trickling.is_alive()
    wait_for(lambda: settled(besieged.node, 2), 30, "what was stored meanwhile to be delivered")


def ended(sock: socket.socket) -> bool:
    """Closed without a word, as ARTIM ends what has not spoken (PS3.8 section 9.2, AA-2)."""
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


def trickle(socks: list[socket.socket], data: bytes) -> None:
    """One byte to each in turn, until each has been closed."""
    left = list(socks)
    for byte in data:
        for sock in list(left):
            sock.settimeout(0.1)
            try:
                sock.sendall(bytes((byte,)))
                if sock.recv(100) == b"":
                    left.remove(sock)
            except TimeoutError:
                continue
            except OSError:
                left.remove(sock)
        if not left:
            return


def test_peers_that_abort_in_the_middle_give_their_places_back(besieged: Besieged, tmp_path: Path) -> None:
    """200 of them, three times as many as there are places, at every stage of an association."""
    begun = pdu.HEADER.pack(pdu.Kind.P_DATA, 1000) + b"\0" * 500

    def abort(how: int) -> None:
        sock = socket.create_connection(("127.0.0.1", besieged.node.port), 10)
        sock.sendall(request())
        if how % 4:
            sock.recv(1)
        if how % 4 > 1:
            sock.sendall(begun if how % 4 == 2 else pdu.abort(None))
        reset(sock) if how % 8 < 4 else sock.close()

    stored = len(rows(besieged.node))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(abort, range(200)))
    meta = instance_file(tmp_path / "after")
    wait_for(lambda: "dicom_router_open_associations 0.0" in besieged.node.metrics(), 20, "all places to be free")
    assert store_all([meta], besieged.address) == [0]
    assert len(rows(besieged.node)) == stored + 1


def test_more_kinds_of_instances_than_an_association_has_contexts_for(besieged: Besieged, tmp_path: Path) -> None:
    """PS3.8 section 9.3.2.2: presentation context IDs are the odd numbers to 255, so there are at most 128."""
    classes = sorted(_STORAGE_CLASSES.values())[:150]
    assert len(set(classes)) == 150 > MOST_CONTEXTS
    metas = [instance_file(tmp_path / f"{n}", sop_class) for n, sop_class in enumerate(classes)]
    for part in (metas[:60], metas[60:120], metas[120:]):
        assert store_all(part, besieged.address) == [0] * len(part)
    wanted = {meta.sop_instance for meta in metas}
    wait_for(lambda: wanted <= {arrival.uid for arrival in besieged.sinks.arrivals}, 60, "each kind to arrive")
