"""Where the CPU milliseconds of one instance go on its whole way, by step.

    python -m benchmarks.budget --load dx --json budget.json

The machine can spend 1000 × cores / rate milliseconds of CPU on an instance; sender and sink are part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from xxhash import xxh3_128

from benchmarks import node_with_thread_cpu
from benchmarks.measure import TICK, Spread, report, tree
from benchmarks.node_with_thread_cpu import ACCOUNT, EVERY
from benchmarks.route import LOADS, Sink, radiographs, send
from benchmarks.routers import ours

STEPS = {"forward": ("forward",), "spool": ("spool",), "decide": ("classify", "inference")}
"""Steps of the node by the names of their threads; what is left is receive, and next to nothing of web and control."""


def by_step(pid: int, folder: Path) -> dict[str, float]:
    """CPU seconds so far of the node's steps, of inference (the model) and of the pixel workers."""
    found: dict[str, float] = defaultdict(float)
    for process in tree(pid):
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        spent = process_seconds(process)
        if process == pid:
            threads = json.loads((folder / ACCOUNT).read_text())
            for step, names in STEPS.items():
                found[step] = sum(value for name, value in threads.items() if name.startswith(names))
            found["receive, with digest"] = spent - sum(found[step] for step in STEPS) - threads["account"]
        elif b"router.inference" in command and b"pixel" not in command:
            found["model"] += spent
        else:
            found["pixels"] += spent
    return found


def process_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def digest_ms(path: Path) -> float:
    """Of it, the digest alone: the best of some."""
    content = path.read_bytes()

    def once() -> float:
        began = time.perf_counter()
        xxh3_128(content).digest()
        return 1000 * (time.perf_counter() - began)

    return min(once() for _ in range(20))


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def one_round(paths: list[Path]) -> dict[str, float]:
    """CPU milliseconds an instance of each step, and of the whole."""
    program = (node_with_thread_cpu.__file__,)
    with (
        tempfile.TemporaryDirectory() as name,
        Sink().running() as sink,
        ours(Path(name), sink.port, program=program) as (port, pid),
    ):
        sink_pid = next(p for p in tree(os.getpid()) if b"storescp" in Path(f"/proc/{p}/cmdline").read_bytes())
        send(port, paths[:5], 1)
        sink.wait(5, 60)
        time.sleep(2 * EVERY)
        before, sinks, senders = by_step(pid, Path(name)), process_seconds(sink_pid), children_seconds()
        began = time.monotonic()
        send(port, paths, 1)
        sink.wait(5 + len(paths), 120)
        seconds = time.monotonic() - began
        time.sleep(2 * EVERY)
        after = by_step(pid, Path(name))
        spent = {key: after[key] - before.get(key, 0.0) for key in after}
        spent["sink: storescp"] = process_seconds(sink_pid) - sinks
        spent["sender: dcmsend"] = children_seconds() - senders
        each = {key: 1000 * value / len(paths) for key, value in spent.items()}
        cores = len(os.sched_getaffinity(0))
        return each | {
            "all": sum(each.values()),
            "available at this rate": 1000 * cores * seconds / len(paths),
            "of receive, the digest alone": digest_ms(paths[0]),
        }


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
