"""Nodes in roles on one PostgreSQL server, each a process: what the benchmarks of many nodes share.

They have the shipped model, one thread for it and one worker for pixels, so that a replica is as small as it can be.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.measure import cpu_seconds, tree
from tests.peers import free_port, process

ROLES = ("receive", "classify", "forward")


def others() -> str:
    """What else the machine does, said at the start of a benchmark; nothing on a machine of its own."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    if load <= cores / 2:
        return ""
    return f" (on a machine with other work, load {load:.0f} on {cores} cores: quote processor time and ratios)"


@dataclass(frozen=True)
class Member:
    """One node of one role."""

    role: str
    port: int
    pid: int

    def freeze(self) -> None:
        """It and its children do nothing until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for pid in tree(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@contextmanager
def cluster(
    folder: Path, counts: Mapping[str, int], *, database: str, sink: int, blobs: str = ""
) -> Iterator[dict[str, list[Member]]]:
    """So many nodes of each role. Without `blobs` they share a folder, as on a network file system."""
    with ExitStack() as stack:
        members: dict[str, list[Member]] = {}
        for role, count in counts.items():
            for number in range(count):
                place = folder / f"{role}-{number}"
                place.mkdir(parents=True)
                port, web = free_port(), free_port()
                spool = f"path: spool, blobs: '{blobs}'" if blobs else f"path: {folder / 'spool'}"
                (place / "routing.yaml").write_text(
                    f"node: {{ae_title: ROUTER, address: 127.0.0.1, port: {port}, name: {place.name}, "
                    f"associations_per_peer: 250, roles: [{role}]}}\n"
                    f"web: {{address: 127.0.0.1, port: {web}}}\n"
                    "model: {device: cpu, threads: 1, workers: 1}\n"
                    f"spool: {{{spool}, database: '{database}', reserve: 1 MB}}\n"
                    f"destinations:\n  sink: {{ae_title: SINK, host: 127.0.0.1, port: {sink}}}\n"
                    "rules:\n  - {name: spine, when: {class: spine}, send: sink}\notherwise: {send: sink}\n"
                )
                command = [sys.executable, "-m", "router", "serve", "--config", place / "routing.yaml"]
                answers = port if role == "receive" else web
                child = stack.enter_context(process(command, answers, place / "node.log", cwd=place, seconds=180))
                members.setdefault(role, []).append(Member(role, port, child.pid))
        try:
            yield members
        finally:
            for member in [one for several in members.values() for one in several]:
                member.thaw()


@dataclass(frozen=True)
class Server:
    """What PostgreSQL has spent and done so far."""

    cpu: float
    """Seconds of all its processes."""
    transactions: int
    """That ended well, also those that only read."""
    syncs: int
    """Of the write-ahead log: several commits may share one."""
    wal: int
    """Bytes."""

    @classmethod
    def now(cls, database: str) -> Server:
        with psycopg.connect(database, autocommit=True) as connection:
            ended, syncs, wal = connection.execute(
                "SELECT xact_commit, wal_sync, pg_current_wal_lsn() - '0/0' FROM pg_stat_database, pg_stat_wal "
                "WHERE datname = current_database()"
            ).fetchone() or (0, 0, 0)
        return cls(cpu_seconds(postmaster(database)), int(ended), int(syncs), int(wal))


def postmaster(database: str) -> int:
    """The first process of the server."""
    with psycopg.connect(database, autocommit=True) as connection:
        (folder,) = connection.execute("SHOW data_directory").fetchone() or ("",)
    return int((Path(folder) / "postmaster.pid").read_text().split()[0])


class Meter:
    """A line on loopback to a port, or to a socket of the file system, that counts the bytes which pass."""

    def __init__(self, to: int | Path) -> None:
        self.to = to
        self.bytes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Meter:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self.to, int):
            return socket.create_connection(("127.0.0.1", self.to))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self.to))
        return server

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) if source.family == socket.AF_INET else None
        with suppress(OSError):
            while data := source.recv(1 << 18):
                with self._lock:
                    self.bytes += len(data)
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
