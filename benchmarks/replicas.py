"""Throughput against the number of replicas of each role, and SQLite against PostgreSQL on the same work.

    python -m benchmarks.replicas --rounds 3 --json replicas.json

Four nodes of each role run all the time, and those that a measurement does without are stopped (SIGSTOP) while idle,
so that it is the same processes that are measured. One role has 1 to 4 replicas, the others 2. Small images, shipped
model, a folder that all share, a PostgreSQL server that syncs. Sender, sink, server and all nodes share the cores of
one machine: more replicas than cores can only show that they do not harm each other. The processor time of an instance
says what a replica costs.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import routers
from benchmarks.capacity import SETTLE
from benchmarks.cluster import ROLES, Member, cluster, others, postmaster
from benchmarks.measure import Spread, cpu_seconds, report
from benchmarks.route import SEND, Sink, radiographs, send
from tests import postgres
from tests.peers import DCMTK

MOST, OTHERS, SENDERS = 4, 2, 8


@dataclass(frozen=True)
class Result:
    rate: float
    """Instances a second, from the first byte in to the last byte out."""
    cpu_ms: float
    """Of all nodes for an instance."""
    server_ms: float
    """Of PostgreSQL."""

    def row(self) -> dict[str, float]:
        return {"routed/s": self.rate, "nodes, CPU ms": self.cpu_ms, "PostgreSQL, CPU ms": self.server_ms}


def spread_over(ports: list[int], paths: list[Path]) -> None:
    """Send as a balancer would: several associations, in turn to each receiver."""
    senders = [
        subprocess.Popen(
            [str(DCMTK / "dcmsend"), *SEND, "127.0.0.1", str(ports[n % len(ports)]), *map(str, paths[n::SENDERS])],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for n in range(SENDERS)
    ]  # fmt: skip
    for sender in senders:
        sender.wait(300)


def with_counts(
    members: dict[str, list[Member]], counts: dict[str, int], sink: Sink, paths: list[Path], server: int
) -> Result:
    """One measurement with so many of each role; the others are stopped meanwhile."""
    used = [one for role in ROLES for one in members[role][: counts[role]]]
    idle = [one for role in ROLES for one in members[role][counts[role] :]]
    for one in idle:
        one.freeze()
    try:
        already, before = len(sink.arrivals), sum(cpu_seconds(one.pid) for one in used)
        at_server, began = cpu_seconds(server), time.monotonic()
        spread_over([one.port for one in used if one.role == "receive"], paths)
        if not sink.wait(already + len(paths), 300):
            raise SystemExit(f"{already + len(paths) - len(sink.arrivals)} instances did not arrive with {counts}")
        seconds = sink.arrivals[already + len(paths) - 1] - began
        cpu = sum(cpu_seconds(one.pid) for one in used) - before
        spent = cpu_seconds(server) - at_server
        return Result(len(paths) / seconds, 1000 * cpu / len(paths), 1000 * spent / len(paths))
    finally:
        for one in idle:
            one.thaw()
        time.sleep(SETTLE)


def one_node(spool: str, paths: list[Path], server: int | None) -> Result:
    """All roles in one process, and a folder."""
    with ExitStack() as stack:
        name, sink = stack.enter_context(tempfile.TemporaryDirectory()), stack.enter_context(Sink().running())
        port, pid = stack.enter_context(routers.ours(Path(name), sink.port, threads=1, workers=1, spool=spool))
        send(port, paths[:3], 1)
        assert sink.wait(3, 180)
        time.sleep(SETTLE)
        cpu, at_server = cpu_seconds(pid), cpu_seconds(server) if server else 0.0
        began = time.monotonic()
        send(port, paths, SENDERS)
        assert sink.wait(3 + len(paths), 300)
        seconds = sink.arrivals[2 + len(paths)] - began
        spent = cpu_seconds(server) - at_server if server else 0.0
        return Result(len(paths) / seconds, 1000 * (cpu_seconds(pid) - cpu) / len(paths), 1000 * spent / len(paths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=80)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    title = "replicas, small images" + others()
    got: dict[str, list[Result]] = {}

    def note(row: str, result: Result) -> None:
        got.setdefault(row, []).append(result)
        print(f"  {row}: " + ", ".join(f"{name} {value:.1f}" for name, value in result.row().items()), flush=True)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        paths = radiographs(folder, "small", options.instances)
        new_database = stack.enter_context(postgres.server((*postgres.SYNCED[:1], "max_connections=200")))
        database = new_database()
        server = postmaster(database)
        with (
            Sink(fork=True).running() as sink,
            cluster(folder / "nodes", dict.fromkeys(ROLES, MOST), database=database, sink=sink.port) as members,
        ):
            spread_over([one.port for one in members["receive"]], paths)  # each has loaded its model
            assert sink.wait(len(paths), 300)
            time.sleep(SETTLE)
            for _ in range(options.rounds):
                for role in ROLES:
                    for count in range(1, MOST + 1):
                        counts = dict.fromkeys(ROLES, OTHERS) | {role: count}
                        note(f"{role} × {count}", with_counts(members, counts, sink, paths, server))
        for _ in range(options.rounds):
            note("one node, SQLite", one_node("", paths, None))
            note("one node, PostgreSQL", one_node(f", database: '{new_database()}'", paths, server))
    table: dict[str, dict[str, object]] = {}
    for row, results in got.items():
        base = got[row if row.startswith("one") else f"{row[:-1]}1"]
        if row == "one node, PostgreSQL":
            base = got["one node, SQLite"]
        ratios = [one.rate / other.rate for one, other in zip(results, base, strict=True)]
        table[row] = {name: Spread.of([one.row()[name] for one in results]) for name in results[0].row()}
        table[row]["of the first, ×"] = Spread.of(ratios)
    report(title, table, options.json)


if __name__ == "__main__":
    main()
