"""How long small images are in the node while two senders keep it at 80 % of what it can do.

    python -m benchmarks.latency --seconds 60 --json latency.json

First two senders store as fast as they are answered: that rate is what the node can sustain. Then both keep 80 % of it.
The time is the node's own: from the last byte in (`received_at`) to the answer of the destination, which is a little
more than to the last byte out. In the second part, a third caller sends large JPEG 2000 images and hostile ones all the
time, also while the rate is found. There the destination takes two associations at a time, since it needs as long for a
hostile data set as it likes. Senders, node and sink share the cores.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks.cluster import others
from benchmarks.hostile import PATIENCE, File, deflated, j2k, query, store
from benchmarks.measure import percentile, report
from benchmarks.route import Sink, radiographs
from benchmarks.routers import ours
from router.association.requestor import connect
from router.config.settings import DestinationSettings
from router.dicom.uids import JPEG_2000_LOSSLESS
from router.pixels.wrap import wrap_image

SHARE = 0.8
"""Of the rate that can be sustained."""
SENDERS = ("FIRST", "SECOND")
OTHER_EVERY = 1.0
"""Seconds between two images of the third caller."""
QUESTION = (
    "SELECT i.received_at, d.closed_at FROM instance i JOIN delivery d ON d.instance_id = i.id "
    "WHERE i.calling_ae IN ('FIRST', 'SECOND') AND d.state = 'done' AND i.received_at >= {since}"
)


def keep_storing(
    port: int, caller: str, files: list[File], folder: Path, every: float, until: threading.Event, stored: list[float]
) -> None:
    """One image after the other, `every` so many seconds on average; 0: as fast as it is answered.

    The time between two varies evenly between half and one and a half of it, so that two senders do not stay in step.
    Who is late does not catch up.
    """
    chance = random.Random(caller)
    folder.mkdir()
    node = DestinationSettings("node", "ROUTER", "127.0.0.1", port, response_timeout=PATIENCE)
    association = connect(node, caller, sorted({(file.sop_class, file.syntax) for file in files}))
    due = time.monotonic()
    for file in cycle(files):
        due = max(due + every * chance.uniform(0.5, 1.5), time.monotonic())
        if until.wait(max(0.0, due - time.monotonic())):
            break
        store(association, file, folder)
        stored.append(time.monotonic())
    association.release()


@contextmanager
def storing(port: int, callers: dict[str, list[File]], folder: Path, every: dict[str, float]) -> Iterator[list[float]]:
    """All callers at once, each in a thread of its own; gives the moments of the two small senders' answers."""
    until, stored, aside = threading.Event(), list[float](), list[float]()
    threads = [
        threading.Thread(
            target=partial(
                keep_storing, port, caller, files, folder / caller, every[caller], until,
                stored if caller in SENDERS else aside,
            )
        )
        for caller, files in callers.items()
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    try:
        yield stored
    finally:
        until.set()
        for thread in threads:
            thread.join()


def delivered(folder: Path, since: float, count: int) -> list[float]:
    """Seconds from last byte in to the destination's answer, of all that were stored since."""
    until = time.monotonic() + PATIENCE
    while True:
        rows = query(folder, QUESTION.format(since=since))
        if len(rows) >= count:
            return sorted(float(closed or 0) - float(received or 0) for received, closed in rows)
        assert time.monotonic() < until, f"{len(rows)} of {count} were delivered"
        time.sleep(0.5)


def part(seconds: float, *, disturbed: bool) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name, Sink(fork=True).running() as sink:
        folder = Path(name)
        (folder / "files").mkdir()
        small = [File.read(path) for path in radiographs(folder / "files", "small", 10)]
        callers = dict.fromkeys(SENDERS, small)
        if disturbed:
            callers["OTHER"] = troublesome(folder / "files")
        with ours(folder, sink.port, to=2 if disturbed else 1) as (port, _):
            for run, warm in (("warm", seconds / 6), ("most", seconds / 2)):
                (folder / run).mkdir()
                since, began = time.time(), time.monotonic()
                with storing(
                    port, callers, folder / run, dict.fromkeys(SENDERS, 0.0) | {"OTHER": OTHER_EVERY}
                ) as stored:
                    time.sleep(warm)
                delivered(folder, since, len(stored))
                most = len(stored) / (time.monotonic() - began)
            pace = dict.fromkeys(SENDERS, len(SENDERS) / (SHARE * most)) | {"OTHER": OTHER_EVERY}
            (folder / "paced").mkdir()
            since, began = time.time(), time.monotonic()
            with storing(port, callers, folder / "paced", pace) as stored:
                time.sleep(seconds)
            rate = len(stored) / (time.monotonic() - began)
            waits = delivered(folder, since, len(stored))
    return {
        "sustained/s": round(most, 1), "sent/s": round(rate, 1), "share": round(rate / most, 2),
        "p50_ms": round(1000 * percentile(waits, 0.5), 1), "p95_ms": round(1000 * percentile(waits, 0.95), 1),
        "p99_ms": round(1000 * percentile(waits, 0.99), 1), "max_ms": round(1000 * waits[-1], 1), "n": len(waits),
    }  # fmt: skip


def troublesome(folder: Path) -> list[File]:
    """JPEG 2000 as large as a DX, one that takes a decoder 15 seconds, and one of 900,000 items."""
    grey = np.random.default_rng(1).integers(0, 4096, (2500, 2048), np.uint16)
    large = wrap_image(grey, folder / "large.dcm", transfer_syntax=JPEG_2000_LOSSLESS)
    return [File.read(path) for path in (large, j2k(folder / "j2k.dcm"), large, deflated(folder / "deflated.dcm"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    title = f"latency of small images at {100 * SHARE:.0f} %" + others()
    table = {}
    for name, disturbed in (("two senders", False), ("beside JPEG 2000 and hostile images", True)):
        table[name] = part(options.seconds, disturbed=disturbed)
        print(name, table[name], flush=True)
    report(title, table, options.json)


if __name__ == "__main__":
    main()
