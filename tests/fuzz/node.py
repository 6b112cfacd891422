"""A running node that is sent mutated streams on several connections, while others send C-ECHO beside them.

Promises held against it: every C-STORE that it acknowledged is in its spool with a blob that has the digest of its
row; C-ECHO goes on; afterwards it has no more threads and descriptors than before, and its memory has not grown.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from xxhash import xxh3_128_hexdigest

from router.association import pdu
from router.association.dimse import CommandError, decode_command
from router.association.pdu import ProtocolError
from router.demo.network import Downstream
from tests.acceptance.corpus import database, node_as_destination, settled, untrained_node
from tests.acceptance.siege import Watch, proportional_memory
from tests.fuzz.campaign import Slice, keep
from tests.fuzz.cases import case
from tests.fuzz.targets import WrongError
from tests.peers import NodeUnderTest, wait_for

CONNECTIONS = 6
PATIENCE = 60.0
"""Seconds in which a connection must have ended: beyond ARTIM, idle and lingering of this node."""
LIMITS = {"DICOM_ROUTER__NODE__ARTIM": "20s", "DICOM_ROUTER__NODE__IDLE": "20s"}
"""Streams end with a closed connection, so nobody waits for these; on a busy machine C-ECHO must not run into them."""
SETTLING = 600.0
"""Seconds for what was accepted to be finished: on a busy machine the downstream answers late, and waits grow."""
WARM = 150
"""Inputs before the first measure: caches, pools and allocators have filled by then."""
MOST_PROCESSES = 2 + 2 * 2 + 2
"""The node, inference, and the pixel workers of two cores: twice two and two more, started on demand."""
OF_A_WORKER = 12
"""Descriptors, or threads, that a pixel worker started on demand has, with those of inference that belong to it."""
GROWTH = 150 << 20
"""Bytes of PSS between two rests that are no leak: what an allocator keeps of the largest images."""
SLOWEST_ECHO = 60.0
"""Seconds; below one on a quiet machine, thirteen seen on one with ten times as much to do as it can."""


@dataclass
class Sent:
    """What the node said to one stream."""

    stored: set[str] = field(default_factory=set)
    closed: bool = False


@dataclass(frozen=True)
class Level:
    """What a node holds at rest, all of its processes together."""

    memory: int
    own: int
    """Descriptors of the node's own process."""
    descriptors: int
    threads: int
    processes: int


def run_node(seed: int, seconds: float, out: Path, root: Path, most: int = 1 << 62) -> Slice:
    """One slice; a broken promise is a finding without bytes of its own, but its seed says which streams they were."""
    done = Slice("node", seed)
    began = time.monotonic()
    with TemporaryDirectory(prefix="fuzz-") as folder, _running(Path(folder)) as (node, pid):
        watch = Watch(replace(node_as_destination(node), connect_timeout=PATIENCE, response_timeout=PATIENCE), pid)
        stored: set[str] = set()
        try:
            _send(node, done, stored, out, root, lambda: done.inputs < min(WARM, most))
            before = at_rest(node, pid)
            watch.start()
            began = time.monotonic()
            _send(node, done, stored, out, root, lambda: time.monotonic() - began < seconds and done.inputs < most)
            watch.stop()
            after = at_rest(node, pid)
            check(node, watch, stored, before, after)
        except Exception as error:
            keep(error, (Path(folder) / "node" / "node.log").read_bytes()[-200_000:], done, out)
        finally:
            if watch.is_alive():
                watch.stop()
        done.peak_mib = watch.most_memory >> 20
        done.slowest_ms = round(1000 * watch.slowest, 1)
        done.outcomes = {"node: stored": len(stored), "node: C-ECHO": watch.echoes}
    done.seconds = round(time.monotonic() - began, 1)
    return done


@contextmanager
def _running(folder: Path) -> Iterator[tuple[NodeUnderTest, int]]:
    downstream = Downstream("everything", "EVERYTHING")
    patch = pytest.MonkeyPatch()
    for name, value in LIMITS.items():
        patch.setenv(name, value)
    downstream.start()
    try:
        node = untrained_node(
            folder / "node", {"everything": downstream.port}, rules="rules: []\notherwise: {send: everything}\n"
        )
        with node.running() as child:
            yield node, child.pid
    finally:
        downstream.stop()
        patch.undo()


def _send(node: NodeUnderTest, done: Slice, stored: set[str], out: Path, root: Path, more) -> None:  # type: ignore[no-untyped-def]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        while more():
            streams = [case("node", done.seed, done.inputs + n, root) for n in range(CONNECTIONS)]
            for data, sent in zip(streams, pool.map(lambda data: play(node.port, data), streams), strict=True):
                stored |= sent.stored
                done.bytes += len(data)
                if not sent.closed:
                    keep(WrongError("the node does not end a connection"), data, done, out)
                done.inputs += 1


def play(port: int, data: bytes) -> Sent:
    """Send everything while reading what comes back, say that no more comes, and read until the node closes."""
    sent, got = Sent(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(_send_all, sock, data)
        deadline = time.monotonic() + PATIENCE
        while not sent.closed and time.monotonic() < deadline:
            try:
                piece = sock.recv(65536)
            except TimeoutError:
                break
            except OSError:
                piece = b""
            got += piece
            sent.closed = not piece
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sending.result()
    sent.stored = acknowledged(got)
    return sent


def _send_all(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def acknowledged(answers: bytes) -> set[str]:
    """SOP Instance UIDs of the C-STORE responses with status 0x0000; what a reset cut is passed over."""
    found: set[str] = set()
    at, command = 0, b""
    while len(answers) - at >= 6:
        kind, length = struct.unpack_from(">BxL", answers, at)
        body = answers[at + 6 : at + 6 + length]
        at += 6 + length
        if kind != 4 or len(body) < length:
            continue
        with suppress(ProtocolError, CommandError):
            for pdv in pdu.pdvs(memoryview(body)):
                command += bytes(pdv.fragment)
                if pdv.is_last:
                    answer, command = decode_command(command), b""
                    if answer.field == 0x8001 and answer.number(0x0900) == 0:
                        found.add(answer.text(0x1000))
    return found


def at_rest(node: NodeUnderTest, pid: int) -> Level:
    """What the node holds once nothing is on its way and no connection is left."""
    wait_for(lambda: settled(node, 0), SETTLING, "every accepted instance to be finished")
    wait_for(lambda: _connections(node.port) == 0, 60, "every connection to end")
    time.sleep(2.5)  # pooled associations are released after two seconds
    own = len(os.listdir(f"/proc/{pid}/fd"))
    return Level(proportional_memory(pid), own, _each(pid, "fd"), _each(pid, "task"), _processes(pid))


def check(node: NodeUnderTest, watch: Watch, stored: set[str], before: Level, after: Level) -> None:
    """Raise WrongError for a promise that was broken."""
    with database(node) as connection:
        there = dict(connection.execute("SELECT id, digest FROM instance"))
        known = {row[0] for row in connection.execute("SELECT sop_instance FROM instance")}
        offsets = dict(connection.execute('SELECT id, "offset" FROM instance'))
    if stored - known:
        raise WrongError(f"{len(stored - known)} acknowledged instances are not in the spool")
    for path in (node.folder / "spool" / "blobs").glob("*/*.dcm"):
        if path.stem not in there or xxh3_128_hexdigest(path.read_bytes()[offsets[path.stem] :]) != there[path.stem]:
            raise WrongError("a blob has no row, or not the digest of its row")
    if watch.failures:
        raise WrongError(f"C-ECHO failed {len(watch.failures)} times: {sorted(set(watch.failures))[:3]}")
    if watch.slowest > SLOWEST_ECHO:
        raise WrongError("C-ECHO waited for others")
    started = after.processes - before.processes
    if (
        after.processes > MOST_PROCESSES
        or after.own > before.own + 4
        or (
            after.descriptors > before.descriptors + 4 + OF_A_WORKER * started
            or after.threads > before.threads + 4 + OF_A_WORKER * started
        )
    ):
        raise WrongError(f"descriptors, threads or processes are left over: {before} to {after}")
    if after.memory > before.memory + GROWTH:
        raise WrongError(f"memory has grown from {before.memory >> 20} to {after.memory >> 20} MiB")
    if "Traceback" in node.log.read_text(errors="replace"):
        raise WrongError("a traceback is in the log")


def _processes(pid: int) -> int:
    """A process and its descendants."""
    count = 1
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            count += sum(_processes(int(child)) for child in (task / "children").read_text().split())
    return count


def _each(pid: int, what: str) -> int:
    """How many entries /proc has of a process and its descendants under `what`."""
    count = 0
    with suppress(OSError):
        count = len(os.listdir(f"/proc/{pid}/{what}"))
        for task in Path(f"/proc/{pid}/task").iterdir():
            count += sum(_each(int(child), what) for child in (task / "children").read_text().split())
    return count


def _connections(port: int) -> int:
    """Established connections to a port of this machine."""
    count = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, _, state = line.split()[1:4]
        count += state in ("01", "08") and int(local.split(":")[1], 16) == port
    return count
