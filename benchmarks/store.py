"""What an object store costs beside a folder: receiving alone, and the whole way.

    python -m benchmarks.store --rounds 5 --json store.json

All spools are on one PostgreSQL server that syncs. The stores take turns in each round. rclone and moto serve S3 on
loopback and share the cores with everything else: rclone writes files and does not sync them, moto keeps objects in
memory and is slow itself. So the ratio is the cost of the work here, and the wait for a network is not in it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import routers
from benchmarks.measure import Spread, cpu_seconds, report
from benchmarks.route import Sink, send
from router.pixels.wrap import wrap_image
from tests import object_stores, postgres
from tests.peers import free_port, process

COUNT, AT_ONCE = 24, 4


@contextmanager
def receiver(folder: Path, spool: str) -> Iterator[tuple[int, int]]:
    """Our receiving stage and nothing else: its port and process."""
    port = free_port()
    (folder / "routing.yaml").write_text(
        f"node: {{address: 127.0.0.1, port: {port}}}\nspool: {{path: spool{spool}}}\n"
        "destinations: {sink: {ae_title: SINK, host: 127.0.0.1, port: 104}}\nrules: []\notherwise: {send: sink}\n"
    )
    command = [sys.executable, "-m", "benchmarks.store", "--serve", folder / "routing.yaml"]
    with process(command, port, folder / "receiver.log") as child:
        yield port, child.pid


def serve(file: Path) -> None:
    import logging

    import structlog

    from router.config import load
    from router.receive import Receiver
    from router.spool import open_spool

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    settings = load(file, {})
    Receiver(lambda: replace(settings), open_spool(settings.spool).intake).start()
    signal.sigwait({signal.SIGTERM})


def receive(spool: str, paths: list[Path], associations: int) -> tuple[float, float]:
    """(instances a second, CPU milliseconds each)."""
    with tempfile.TemporaryDirectory() as name, receiver(Path(name), spool) as (port, pid):
        send(port, paths[:2], 1)
        cpu, began = cpu_seconds(pid), time.monotonic()
        send(port, paths, associations)
        return len(paths) / (time.monotonic() - began), 1000 * (cpu_seconds(pid) - cpu) / len(paths)


def route(spool: str, paths: list[Path]) -> float:
    """Instances a second from the first byte in to the last byte out."""
    with ExitStack() as stack:
        name, sink = stack.enter_context(tempfile.TemporaryDirectory()), stack.enter_context(Sink().running())
        port, _ = stack.enter_context(routers.ours(Path(name), sink.port, spool=spool))
        send(port, paths[:3], 1)
        sink.wait(3, 60)
        already, began = len(sink.arrivals), time.monotonic()
        send(port, paths, AT_ONCE)
        if not sink.wait(already + len(paths), 120):
            raise SystemExit(f"{already + len(paths) - len(sink.arrivals)} instances did not arrive")
        return len(paths) / (sink.arrivals[-1] - began)


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    others = " (on a machine with other work: quote the processor time)" if os.getloadavg()[0] > cores else ""
    titles = ("received/s, 1 association", "CPU ms each", f"received/s, {AT_ONCE}", f"routed/s, {AT_ONCE}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        new_database = stack.enter_context(postgres.server(postgres.SYNCED))
        servers: dict[str, object_stores.Server | None] = {"folder": None}
        for name, start in {"rclone": object_stores.rclone, "moto": object_stores.moto}.items():
            (folder / name).mkdir()
            servers[name] = stack.enter_context(start(folder / name))
        noise = np.random.default_rng(1)
        paths = [
            wrap_image(noise.integers(0, 4096, (2500, 2048), np.uint16), folder / f"{n}.dcm") for n in range(COUNT)
        ]

        def spool(server: object_stores.Server | None) -> str:
            """A new database, and a new bucket."""
            blobs = f", blobs: '{object_stores.url(server.bucket())}'" if server else ""
            return f", database: '{new_database()}'{blobs}"

        got: dict[str, list[tuple[float, ...]]] = {name: [] for name in servers}
        for number in range(options.rounds):
            for name, server in servers.items():
                one, cpu = receive(spool(server), paths, 1)
                several, _ = receive(spool(server), paths, AT_ONCE)
                figures = (one, cpu, several, route(spool(server), paths))
                got[name].append(figures)
                print(f"  round {number + 1} {name:8s}" + "".join(f"{one:8.1f}" for one in figures), flush=True)
    table = {
        name: {title: Spread.of([figures[n] for figures in rounds]) for n, title in enumerate(titles)}
        for name, rounds in got.items()
    }
    report("store, DX of 10 MB" + others, table, options.json, against="folder")


if __name__ == "__main__":
    main()
