"""Where the CPU milliseconds of one instance go on its whole way, by process.

    python -m benchmarks.budget --load dx --json budget.json

The machine can spend 1000 × cores / rate milliseconds of CPU on an instance; sender and sink are part of it.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.measure import TICK, Spread, report, tree
from benchmarks.route import LOADS, Sink, radiographs, send
from benchmarks.routers import ours


def by_process(pid: int) -> dict[str, float]:
    """CPU seconds so far of the node's process, of inference (the model) and of the pixel workers."""
    found: dict[str, float] = defaultdict(float)
    for process in tree(pid):
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        spent = (int(fields[11]) + int(fields[12])) / TICK
        if process == pid:
            name = "node: receive, digest, spool, decide, forward"
        elif b"router.inference" in command and b"pixel" not in command:
            name = "inference: the model"
        else:
            name = "pixel workers: read, decode, prepare"
        found[name] += spent
    return found


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def one_round(paths: list[Path]) -> dict[str, float]:
    """CPU milliseconds an instance of each process, and of the whole."""
    with tempfile.TemporaryDirectory() as name, Sink().running() as sink, ours(Path(name), sink.port) as (port, pid):
        sink_pid = next(p for p in tree(os.getpid()) if b"storescp" in Path(f"/proc/{p}/cmdline").read_bytes())
        send(port, paths[:5], 1)
        sink.wait(5, 60)
        before, sinks, senders = by_process(pid), by_process(sink_pid), children_seconds()
        began = time.monotonic()
        send(port, paths, 1)
        sink.wait(5 + len(paths), 120)
        seconds = time.monotonic() - began
        after = by_process(pid)
        spent = {key: after[key] - before.get(key, 0.0) for key in after}
        spent["sink: storescp"] = sum(by_process(sink_pid).values()) - sum(sinks.values())
        spent["sender: dcmsend"] = children_seconds() - senders
        each = {key: 1000 * value / len(paths) for key, value in spent.items()}
        cores = len(os.sched_getaffinity(0))
        return each | {"all": sum(each.values()), "available at this rate": 1000 * cores * seconds / len(paths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=list(LOADS), default="dx")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = radiographs(Path(folder), options.load)
        rounds = [one_round(paths) for _ in range(options.rounds)]
    table = {key: {"cpu_ms": Spread.of([got[key] for got in rounds])} for key in rounds[0]}
    report(f"budget of {options.load}", table, options.json)


if __name__ == "__main__":
    main()
