"""A bulk job over many rows beside writers that store: how long each waits for its commit, with and without the job.

    python -m benchmarks.bulk --rows 100000 --json bulk.json

Rounds are paired: a span without a job, then one with it. The job works as in a node, in its own thread. Several
writers store at once; the blob is written before, so only row and commit are measured. A file beside the database that
is synced every 50 ms shows what the disk itself does in that time. A new decision for many is not measured here: it is
ordered 16 at a time, and only while few others wait.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Spread, percentile, report
from benchmarks.spool import fill, instance
from router.config.settings import SpoolSettings
from router.node.bulk_worker import BulkWorker
from router.spool import Act, Spool, open_spool
from router.spool.bulk_rows import WORKING
from router.spool.find import Filter

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITERS = 4
ACTS = {
    "retry": (Act.RETRY, ""),
    "move": (Act.MOVE, "other"),
}


class Waits:
    """Milliseconds that each commit took, and each sync of a file beside them."""

    def __init__(self) -> None:
        self.commits: list[float] = []
        self.syncs: list[float] = []


def store(spool: Spool, until: threading.Event, waits: list[float]) -> None:
    while not until.is_set():
        blob = spool.intake.begin(b"")
        blob.write(memoryview(b"x" * 1000))
        blob.seal()
        about = instance(time.time_ns(), blob)
        began = time.perf_counter()
        spool.intake.accept(blob, about)
        waits.append(1000 * (time.perf_counter() - began))


def sync(path: Path, until: threading.Event, waits: list[float]) -> None:
    """What a commit of one page costs on this disk just now."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    while not until.wait(0.05):
        began = time.perf_counter()
        os.pwrite(fd, b"x" * 4096, 0)
        os.fdatasync(fd)
        waits.append(1000 * (time.perf_counter() - began))
    os.close(fd)


def span(spool: Spool, folder: Path, seconds: float) -> Waits:
    over, waits = threading.Event(), Waits()
    threads = [threading.Thread(target=store, args=(spool, over, waits.commits)) for _ in range(WRITERS)]
    threads.append(threading.Thread(target=sync, args=(folder / "beside", over, waits.syncs)))
    for one in threads:
        one.start()
    time.sleep(seconds)
    over.set()
    for one in threads:
        one.join()
    return waits


@contextmanager
def job(spool: Spool, act: Act, to: str) -> Iterator[int]:
    """A job under way; at the end it is cancelled, and what it did is taken back where that can be."""
    number = spool.bulk.begin(act, Filter(to="down"), to, "a benchmark", "")
    yield number
    spool.bulk.cancel(number, "a benchmark")
    while (found := spool.bulk.job(number)) is not None and found.state in WORKING:
        time.sleep(0.05)


def measured(spool: Spool, folder: Path, name: str, rounds: int, seconds: float) -> dict[str, dict[str, object]]:
    act, to = ACTS[name]
    without, beside, ratios, rates = Waits(), Waits(), [], []
    for number in range(rounds):
        alone = span(spool, folder, seconds)
        with job(spool, act, to) as which:
            found = spool.bulk.job(which)
            while found is not None and not found.chosen and found.state in WORKING:  # it counts first, and rests
                time.sleep(0.01)
                found = spool.bulk.job(which)
            before = found.chosen if found else 0
            with_it = span(spool, folder, seconds)
            found = spool.bulk.job(which)
            rates.append(((found.chosen if found else 0) - before) / seconds)
        ratios.append((percentile(with_it.commits, 0.99) / percentile(alone.commits, 0.99),
                       max(with_it.commits) / max(alone.commits)))  # fmt: skip
        for all_of, one in ((without, alone), (beside, with_it)):
            all_of.commits += one.commits
            all_of.syncs += one.syncs
        print(f"  {name} round {number + 1}: p99 {ratios[-1][0]:.2f}, max {ratios[-1][1]:.2f} times; "
              f"max {max(alone.commits):.0f} and {max(with_it.commits):.0f} ms", flush=True)  # fmt: skip
    return {
        f"{name}: without": figures(without),
        f"{name}: with": figures(beside) | {"rows of the job a second": Spread.of(rates)},
        f"{name}: with / without": {
            "commit p99": Spread.of([one for one, _ in ratios]), "commit max": Spread.of([one for _, one in ratios]),
        },
    }  # fmt: skip


def figures(waits: Waits) -> dict[str, object]:
    return {
        "commits": len(waits.commits), "commit p50": round(percentile(waits.commits, 0.50), 1),
        "commit p99": round(percentile(waits.commits, 0.99), 1), "commit max": round(max(waits.commits), 1),
        "sync p99": round(percentile(waits.syncs, 0.99), 1), "sync max": round(max(waits.syncs), 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--acts", nargs="*", choices=list(ACTS), default=list(ACTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spool = open_spool(SpoolSettings(path=folder / "spool", reserve=0))
        fill(spool, options.rows, 0)
        worker = BulkWorker(spool)
        worker.start()
        for act in options.acts:
            table |= measured(spool, folder, act, options.rounds, options.seconds)
        worker.stop(time.monotonic() + 10)
        spool.close()
    report("bulk", table, options.json)


if __name__ == "__main__":
    main()
