"""After an outage of the busiest destination: how fast its backlog drains, and what live traffic to another one feels.

    python -m benchmarks.backlog --instances 300 --json backlog.json

One node with its own folder and SQLite. The busiest destination is paused while DX instances of 10 MB wait for it. Then
the kernel forgets the files, so that they come from the disk as after six hours, and the destination takes again. All
the time somebody sends DX to another destination at a steady pace. The drain goes on and is paused in turns, so that
what else the machine does is in both. The wait is the time from the end of the sender to the arrival at the sink.

Drain of 8,750 instances (350 GB a day, six hours): 8,750 ÷ the rate measured here. The least time for it on cores that
do nothing else: 8,750 × processor time of an instance ÷ cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.cluster import others
from benchmarks.measure import Spread, cpu_seconds, percentile, report
from benchmarks.route import SEND, Sink, radiographs
from benchmarks.steady import renamed
from tests.peers import DCMTK, free_port, process

OUTAGE = 8750
"""DX instances of six hours at 350 GB a day."""
LIVE_EVERY = 0.7
"""Seconds between live instances: about 1.4 a second where the hospital sends 0.4."""
DIFFERENT = 10
"""Images; each is sent many times under new UIDs."""


@dataclass(frozen=True)
class Node:
    folder: Path
    port: int
    pid: int

    def queue(self, *words: str) -> None:
        command = [sys.executable, "-m", "router", "queue", *words, "--config", "routing.yaml"]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, timeout=120)


@contextmanager
def node(folder: Path, busy: int, live: int) -> Iterator[Node]:
    """Instances of the caller LIVE go to one destination, all others to the busy one."""
    port = free_port()
    (folder / "routing.yaml").write_text(
        f"node: {{ae_title: ROUTER, address: 127.0.0.1, port: {port}}}\n"
        f"web: {{address: 127.0.0.1, port: {free_port()}}}\nmodel: {{device: cpu}}\nspool: {{path: spool}}\n"
        f"destinations:\n  busy: {{ae_title: BUSY_AI, host: 127.0.0.1, port: {busy}}}\n"
        f"  live: {{ae_title: LIVE_AI, host: 127.0.0.1, port: {live}}}\n"
        "rules:\n  - {name: live, when: {calling_ae: LIVE}, send: live}\notherwise: {send: busy}\n"
    )
    command = [sys.executable, "-m", "router", "serve", "--config", folder / "routing.yaml"]
    with process(command, port, folder / "node.log", cwd=folder, seconds=180) as child:
        yield Node(folder, port, child.pid)


def send(port: int, paths: list[Path], calling: str) -> None:
    command = [str(DCMTK / "dcmsend"), *SEND, "--aetitle", calling, "127.0.0.1", str(port), *map(str, paths)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=300)


class Live(threading.Thread):
    """Sends one instance after the other at a steady pace, and notes how long each waits to be delivered."""

    def __init__(self, port: int, path: Path, folder: Path, sink: Sink) -> None:
        super().__init__(daemon=True)
        self.waits_ms: list[float] = []
        self.until = threading.Event()
        self._port, self._path, self._folder, self._sink = port, path, folder, sink

    def run(self) -> None:
        self._folder.mkdir()
        while not self.until.is_set():
            began = time.monotonic()
            ((path,),) = renamed([self._path], self._folder, 1)
            already = len(self._sink.arrivals)
            send(self._port, [path], "LIVE")
            sent = time.monotonic()
            if not self._sink.wait(already + 1, 300):
                return
            self.waits_ms.append(1000 * max(0.0, self._sink.arrivals[already] - sent))
            self.until.wait(max(0.0, LIVE_EVERY - (time.monotonic() - began)))

    def end(self) -> list[float]:
        self.until.set()
        self.join()
        return self.waits_ms


def fill(one: Node, paths: list[Path], folder: Path, count: int) -> None:
    """Send so many instances for the paused destination."""
    folder.mkdir()
    for group in renamed(paths, folder, count):
        send(one.port, group, "XRAY")


def decided(one: Node) -> int:
    import sqlite3

    with sqlite3.connect(f"file:{one.folder}/spool/node.db?mode=ro", uri=True) as connection:
        (count,) = connection.execute("SELECT count(*) FROM delivery WHERE destination = 'busy'").fetchone()
    return int(count)


def forget(spool: Path) -> int:
    """The kernel keeps nothing of these files in memory. Returns the bytes that they have."""
    size = 0
    for path in (one for one in spool.rglob("*") if one.is_file() and not one.name.startswith("node.db")):
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            size += os.fstat(file).st_size
        finally:
            os.close(file)
    return size


@dataclass(frozen=True)
class Gone:
    """What the busy destination took in one turn, from its first instance to its last."""

    count: int
    seconds: float
    began: float
    """Seconds from the order to the first."""


@dataclass(frozen=True)
class Turn:
    """A span of live traffic, with or without a drain."""

    waits_ms: list[float]
    cpu: float
    seconds: float
    gone: Gone | None


def take(one: Node, busy: Sink, target: int, count: int) -> Gone | None:
    """Let the destination take until so many have arrived. None: all had arrived before the last pause took hold."""
    already, ordered = len(busy.arrivals), time.monotonic()
    if already == count:
        return None
    one.queue("resume", "busy")
    assert busy.wait(max(target, already + 2), 900), f"{len(busy.arrivals)} of {target} arrived"
    if target < count:
        one.queue("pause", "busy")
        time.sleep(1.0)  # what was under way arrives
    first, last = busy.arrivals[already], busy.arrivals[-1]
    return Gone(len(busy.arrivals) - already - 1, last - first, first - ordered)


def turn(one: Node, folder: Path, path: Path, calm: Sink, what: Callable[[], Gone | None]) -> Turn:
    """Live traffic while something happens."""
    live = Live(one.port, path, folder, calm)
    cpu, began = cpu_seconds(one.pid), time.monotonic()
    live.start()
    gone = what()
    spent, seconds = cpu_seconds(one.pid) - cpu, time.monotonic() - began
    return Turn(live.end(), spent, seconds, gone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=300)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--pause", type=float, default=12.0, help="seconds of live traffic alone in each turn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    title = "backlog, DX of 10 MB" + others()
    count = options.instances
    with tempfile.TemporaryDirectory() as name, Sink().running() as busy, Sink().running() as calm:
        folder = Path(name)
        (folder / "files").mkdir()
        paths = radiographs(folder / "files", "dx", DIFFERENT)
        each_size = paths[0].stat().st_size
        with node(folder, busy.port, calm.port) as one:
            one.queue("pause", "busy")
            fill(one, paths, folder / "sent", count)
            until = time.monotonic() + 600
            while decided(one) < count:
                assert time.monotonic() < until, f"{decided(one)} of {count} have a decision"
                time.sleep(1.0)
            print(f"{count} instances wait", flush=True)
            size = forget(folder / "spool")
            print(f"{size / 1e9:.1f} GB forgotten", flush=True)
            quiet, drained = [], []
            for number in range(options.turns):
                quiet.append(turn(one, folder / f"quiet-{number}", paths[0], calm, lambda: time.sleep(options.pause)))
                target = count * (number + 1) // options.turns
                drains = partial(take, one, busy, target, count)
                drained.append(turn(one, folder / f"drain-{number}", paths[0], calm, drains))
                print(f"  turn {number + 1}: {len(busy.arrivals)} have arrived", flush=True)
    live_cpu = sum(one.cpu for one in quiet) / sum(one.seconds for one in quiet)
    spent = sum(one.cpu - live_cpu * one.seconds for one in drained)
    gone = [one.gone for one in drained if one.gone]
    rate = sum(one.count for one in gone) / sum(one.seconds for one in gone)
    each = 1000 * spent / len(busy.arrivals)
    before, during = ([wait for one in turns for wait in one.waits_ms] for turns in (quiet, drained))
    ratio = percentile(during, 0.95) / percentile(before, 0.95)
    cores = len(os.sched_getaffinity(0))
    report(title, {
        "drain": {
            "instances": count, "instances/s": round(rate, 2), "MB/s": round(rate * each_size / 1e6, 1),
            "CPU ms each": round(each, 1), "turns": len(gone),
            "order to first, s": Spread.of([one.began for one in gone]),
        },
        "live without drain": _waits(before), "live with drain": _waits(during),
        "with ÷ without": {"wait ms p95": round(ratio, 2)},
        f"{OUTAGE:,} DX": {
            "minutes at this rate": round(OUTAGE / rate / 60, 1),
            "least minutes by processor": round(OUTAGE * each / 1000 / cores / 60, 1),
        },
    }, options.json)  # fmt: skip


def _waits(waits: list[float]) -> dict[str, object]:
    return {"n": len(waits), "wait ms": Spread.of(waits), "wait ms p95": round(percentile(waits, 0.95), 1)}


if __name__ == "__main__":
    main()
