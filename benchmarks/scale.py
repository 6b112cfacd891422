"""What one small instance costs as the queue, the destinations, the rules and the associations grow: flat lines.

    python -m benchmarks.scale --json scale.json

CPU milliseconds of the whole node for an instance and instances a second, each thing grown alone. The queue waits for a
destination that is down. Untrained weights: what they answer means nothing here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.measure import Spread, cpu_seconds, report
from benchmarks.route import Sink, radiographs, send
from benchmarks.spool import fill
from router.config.settings import SpoolSettings
from router.model.untrained import save_random_model
from router.spool import open_spool
from tests.peers import free_port, process


@dataclass(frozen=True)
class Size:
    """What the node has to carry beside the instances that are measured."""

    queue: int = 0
    destinations: int = 1
    rules: int = 1
    associations: int = 1


GROWN = {
    "queue": (0, 1000, 10_000, 100_000),
    "destinations": (1, 10, 100),
    "rules": (1, 10, 100, 1000),
    "associations": (1, 4, 16, 64),
}


@contextmanager
def node(folder: Path, sink: int, size: Size) -> Iterator[tuple[int, int]]:
    """A node whose rules send to the sink after all others have been asked in vain."""
    port = free_port()
    save_random_model(folder / "model")
    others = "".join(f"  d{n}: {{ae_title: D{n}, host: 127.0.0.1, port: 1}}\n" for n in range(size.destinations - 1))
    rules = "".join(
        f"  - {{name: r{n}, when: {{StationName: room-{n}, BodyPartExamined: [CHEST, THORAX]}}, send: sink}}\n"
        for n in range(size.rules)
    )
    (folder / "routing.yaml").write_text(
        f"node: {{ae_title: ROUTER, address: 127.0.0.1, port: {port}, associations: 300, associations_per_peer: 250}}\n"
        f"web: {{address: 127.0.0.1, port: {free_port()}}}\n"
        "model: {path: model, engine: torch, device: cpu, threads: 1}\n"
        "spool: {path: spool, keep: 1s}\n"
        f"destinations:\n  sink: {{ae_title: SINK, host: 127.0.0.1, port: {sink}}}\n"
        f"  down: {{ae_title: DOWN, host: 127.0.0.1, port: 1}}\n{others}"
        f"rules:\n{rules}otherwise: {{send: sink}}\n"
    )
    if size.queue:
        spool = open_spool(SpoolSettings(path=folder / "spool", reserve=0))
        fill(spool, size.queue, 0)
        spool.close()
    command = [sys.executable, "-m", "router", "serve", "--config", folder / "routing.yaml"]
    with process(command, port, folder / "node.log", cwd=folder, seconds=180) as child:
        yield port, child.pid


def measure(size: Size, paths: list[Path]) -> tuple[float, float]:
    """(CPU ms an instance, instances a second)."""
    import time

    with (
        tempfile.TemporaryDirectory() as name,
        Sink().running() as sink,
        node(Path(name), sink.port, size) as (port, pid),
    ):
        send(port, paths[:10], 1)
        assert sink.wait(10, 60)
        cpu, began = cpu_seconds(pid), time.monotonic()
        send(port, paths, size.associations)
        assert sink.wait(10 + len(paths), 120)
        seconds = sink.arrivals[-1] - began
        return 1000 * (cpu_seconds(pid) - cpu) / len(paths), len(paths) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="*", choices=list(GROWN), default=list(GROWN))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = radiographs(Path(folder), "small")
        for what in options.what:
            for value in GROWN[what]:
                got = [measure(replace(Size(), **{what: value}), paths) for _ in range(options.rounds)]
                table[f"{what} {value:,}"] = {
                    "cpu_ms": Spread.of([cpu for cpu, _ in got]),
                    "instances_per_s": Spread.of([rate for _, rate in got]),
                }
                print(f"{what} {value:,}", *table[f"{what} {value:,}"].values(), flush=True)
    report("scale", table, options.json)


if __name__ == "__main__":
    main()
