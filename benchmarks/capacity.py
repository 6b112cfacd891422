"""What one instance costs each role, the database and the object store: the constants of benchmarks/capacity_model.py.

    python -m benchmarks.capacity --rounds 3 --json capacity.json

One node receives, one classifies, one forwards. They meet in a PostgreSQL server that syncs, and in an object store
(rclone, which writes files) or a shared folder. Processor time is what each process and its children spent, less what
the same process spends while nothing comes. Every line goes through a meter that counts bytes. Expiry is not in it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks.cluster import ROLES, Meter, Server, cluster, others
from benchmarks.measure import Spread, cpu_seconds, memory_mb, report
from benchmarks.route import Sink, radiographs, send
from tests import object_stores, postgres
from tests.object_stores import Line
from tests.postgres import programs

IDLE = 12.0
"""Seconds without traffic, of which the cost is measured."""
SETTLE = 2.5
"""Seconds after the last arrival, until what remains to be written is written."""
COUNTED = 11.0
"""Seconds until PostgreSQL has counted what idle connections did: it looks at them every ten."""
LONGEST = 120.0
"""Seconds in which all have arrived."""
LOADS = {"DX": ("dx", 24), "small": ("small", 60)}
AT_ONCE = {"one by one": 1, "8 at once": 8}
CLIENTS = (1, 4, 16)
PGBENCH_SECONDS = 5
WAL_PIECE = 8192


@dataclass(frozen=True)
class Now:
    """All counters at a moment."""

    at: float
    cpu: dict[str, float]
    server: Server
    bytes: dict[str, int]
    requests: int


@dataclass
class Site:
    """What is measured: processes by what they are, and meters by what passes them."""

    pids: dict[str, int]
    database: str
    meters: dict[str, Meter]
    line: Line | None
    stored: list[int] = field(default_factory=lambda: [0])

    def now(self) -> Now:
        server = Server.now(self.database)
        cpu = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        passed = {name: meter.bytes for name, meter in self.meters.items()} | {"store": self.stored[0]}
        requests = len(self.line.requests) if self.line else 0
        return Now(time.monotonic(), cpu | {"PostgreSQL": server.cpu}, server, passed, requests)


def spent(before: Now, after: Now) -> dict[str, float]:
    """Figures of a span, by their titles."""
    figures = {f"{name}, CPU ms": 1000 * (after.cpu[name] - before.cpu[name]) for name in after.cpu}
    figures["transactions"] = after.server.transactions - before.server.transactions
    figures["WAL syncs"] = after.server.syncs - before.server.syncs
    figures["WAL kB"] = (after.server.wal - before.server.wal) / 1000
    figures |= {f"{name}, kB": (after.bytes[name] - before.bytes[name]) / 1000 for name in after.bytes}
    figures["object requests"] = after.requests - before.requests
    return figures


def measure(
    paths: Sequence[Path], at_once: int, *, in_store: bool, database: str
) -> dict[str, dict[str, float]] | None:
    """Of one cluster: the cost of an instance, of a second without any, and memory. None: some did not arrive, because
    the machine was so busy that the store did not answer in time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sink = stack.enter_context(Sink(fork=True).running())
        socket_folder = Path(parse_qs(urlsplit(database).query)["host"][0])
        meters = {
            "to the database": stack.enter_context(Meter(socket_folder / ".s.PGSQL.5432")),
            "to the sink": stack.enter_context(Meter(sink.port)),
        }
        over_tcp = f"postgresql://postgres@127.0.0.1:{meters['to the database'].port}/{urlsplit(database).path[1:]}"
        line, blobs, stored, pids = None, "", [0], {}
        if in_store:
            server = stack.enter_context(object_stores.rclone(folder))

            def count(_is_answer: bool, data: bytes) -> None:
                stored[0] += len(data)

            line = stack.enter_context(Line(server.port, tap=count))
            blobs, pids = object_stores.url(line.through(server.bucket())), {"store": server.pid}
        one_each = dict.fromkeys(ROLES, 1)
        members = stack.enter_context(
            cluster(folder / "nodes", one_each, database=over_tcp, sink=meters["to the sink"].port, blobs=blobs)
        )
        meters["to the receiver"] = stack.enter_context(Meter(members["receive"][0].port))
        pids |= {role: several[0].pid for role, several in members.items()}
        site = Site(pids, database, meters, line, stored)
        send(meters["to the receiver"].port, list(paths[:4]), 1)
        assert sink.wait(4, 180), "the first instances did not arrive"
        time.sleep(SETTLE)
        quiet = site.now()
        time.sleep(IDLE)
        before = site.now()
        idle = {name: value / (before.at - quiet.at) for name, value in spent(quiet, before).items()}
        send(meters["to the receiver"].port, list(paths), at_once)
        if not sink.wait(4 + len(paths), LONGEST):
            return None
        time.sleep(COUNTED)
        after = site.now()
        seconds, whole = after.at - before.at, spent(before, after)
        each = {name: (value - idle[name] * seconds) / len(paths) for name, value in whole.items()}
        memory = {f"{role}, MB": memory_mb(several[0].pid)[0] for role, several in members.items()}
        return {"each": each, "idle": idle, "memory": memory}


def commits(database: str, seconds: int) -> dict[str, float]:
    """Commits a second that the server syncs for so many clients, each with one row, as pgbench counts them."""
    with tempfile.TemporaryDirectory() as name:
        script = Path(name) / "one.sql"
        script.write_text("INSERT INTO pgbench_commit VALUES (1);\n")
        bin_folder = programs()
        assert bin_folder is not None
        make = "CREATE TABLE IF NOT EXISTS pgbench_commit (n int)"
        subprocess.run([bin_folder / "psql", "-q", "-d", database, "-c", make], check=True, capture_output=True)
        found = {}
        for clients in CLIENTS:
            command = [
                str(bin_folder / "pgbench"), "-n", "-f", str(script), "-c", str(clients), "-j", "2", "-T", str(seconds),
                "-d", database,
            ]  # fmt: skip
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rate = re.search(r"tps = ([\d.]+)", said)
            assert rate is not None, said
            found[f"{clients} clients"] = float(rate[1])
        return found


def wal_rate(database: str) -> float:
    """MB of WAL a second that the server writes and syncs for one client that commits large rows."""
    import psycopg

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS wal_piece (data bytea)")
        connection.execute("ALTER TABLE wal_piece ALTER COLUMN data SET STORAGE EXTERNAL")
        before, began = Server.now(database).wal, time.monotonic()
        while time.monotonic() - began < PGBENCH_SECONDS:
            connection.execute(
                "INSERT INTO wal_piece SELECT decode(repeat('ab', %s), 'hex') FROM generate_series(1, 256)",
                (WAL_PIECE,),
            )
        return (Server.now(database).wal - before) / 1e6 / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    title = "capacity" + others()
    got: dict[str, dict[str, list[float]]] = {}

    def note(row: str, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            got.setdefault(row, {}).setdefault(name, []).append(value)
        print(f"  {row}: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()), flush=True)

    with postgres.server(postgres.SYNCED) as new_database, tempfile.TemporaryDirectory() as name:
        paths = {}
        for kind, (load, count) in LOADS.items():
            (Path(name) / load).mkdir()
            paths[kind] = radiographs(Path(name) / load, load, count)
        for _ in range(options.rounds):
            database = new_database()
            note("synced commits/s", commits(database, PGBENCH_SECONDS))
            note("synced WAL", {"MB/s": wal_rate(database)})
            for kind, files in paths.items():
                for how, at_once in AT_ONCE.items():
                    for in_store in (True, False)[: 1 + (at_once > 1)]:  # the folder only once
                        place = "object store" if in_store else "folder"
                        figures = measure(files, at_once, in_store=in_store, database=new_database())
                        if figures is None:
                            print(f"  {kind}, {place}, {how}: not all arrived, left out", flush=True)
                            continue
                        note(f"{kind}, {place}, {how}", figures["each"])
                        if in_store:
                            note("a second without traffic", figures["idle"])
                            note("memory", figures["memory"])
            # After each round: who stops it half-way has what was measured so far.
            table = {row: {name: Spread.of(values) for name, values in figures.items()} for row, figures in got.items()}
            report(title, table, options.json)


if __name__ == "__main__":
    main()
