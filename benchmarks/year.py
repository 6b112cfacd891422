"""A spool after a year beside an empty one: what an instance costs, what each command takes, what expiry does to all.

    python -m benchmarks.year --rows 1000000 --json year.json

The records are made by SQL: of each two instances three deliveries, almost all done, their blobs removed; a few
thousand still wait for a destination that is down. Empty and full are measured in turn, on one machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread, report
from benchmarks.spool import instance, measure
from router.config.settings import SpoolSettings
from router.spool import DeliveryState, InstanceState, Spool, open_spool

DAY = 86400.0
WAITING = 5000
"""Deliveries that wait."""
EXPIRY = 60.0
"""Seconds in which records expire: all of them would take much longer, and show nothing else."""
PAUSE = 9.0
"""As the node does between two bites of retention (`router.node.node`)."""
CONFIG = """
node: {{ae_title: ROUTER, address: 127.0.0.1, port: 11112}}
spool: {{path: {path}, database: "{database}"}}
destinations:
  up: {{ae_title: UP, host: 127.0.0.1, port: 1}}
  other: {{ae_title: OTHER, host: 127.0.0.1, port: 1}}
  down: {{ae_title: DOWN, host: 127.0.0.1, port: 1}}
rules: []
otherwise: {{send: up}}
"""


def fill(spool: Spool, rows: int) -> None:
    """A year of records, the oldest a year ago; ids are in the order of time, as real ones are."""
    now = time.time()
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    at = f"({now - 365 * DAY} + i * {365 * DAY / rows})"
    which = "substr('00000000000000000000000000000000' || i, length('' || i) + 1)"
    columns = (
        'id, received_at, calling_ae, called_ae, peer, sop_class, sop_instance, transfer_syntax, "offset", size, '
        "digest, state, decided_at, finished_at, pixels, top, class, rule, reason, destinations, facts"
    )
    made = (
        f"{which}, {at}, 'XRAY_' || (i % 20), 'ROUTER', '10.0.0.9', '1.2.840.10008.5.1.4.1.1.1.1', "
        f"'1.2.3.9.' || i, '1.2.840.10008.1.2.1', 400, 1000, {which}, '{{state}}', {at}, {{finished}}, "
        "'decoded', 'adult_chest', 'adult_chest', 'adult chest by pixels', 'class is adult_chest', "
        """'["up"]', '{{"photometric": "MONOCHROME2", "rows": 3000, "columns": 2500}}'"""
    )
    owed = "INSERT INTO delivery (instance_id, destination, state, owed_since, ready_at, tries, closed_at)"
    waits = f"i > {rows - WAITING}"

    def change(statement: str) -> None:
        spool.database.run(lambda c: c.exec_driver_sql(statement) and None)

    is_sqlite = spool.settings.database == "sqlite"
    for state, finished, where in ((InstanceState.GONE, at, f"NOT {waits}"), (InstanceState.DECIDED, "NULL", waits)):
        values = made.format(state=state, finished=finished)
        if not is_sqlite:
            values = values.replace("%", "%%")
        change(f"INSERT INTO instance ({columns}) {numbers} SELECT {values} FROM n WHERE {where}")
    modulo = "%" if is_sqlite else "%%"
    change(f"{owed} {numbers} SELECT {which}, 'up', '{DeliveryState.DONE}', {at}, 0, 1, {at} FROM n WHERE NOT {waits}")
    change(
        f"{owed} {numbers} SELECT {which}, 'other', '{DeliveryState.DONE}', {at}, 0, 1, {at} FROM n "
        f"WHERE i {modulo} 2 = 0"
    )
    change(
        f"{owed} {numbers} SELECT {which}, 'down', '{DeliveryState.OPEN}', {at}, {now + DAY}, 3, NULL FROM n "
        f"WHERE {waits}"
    )
    change(
        f"INSERT INTO event (at, kind, instance_id, detail) {numbers} "
        f"SELECT {at}, 'same UID again', {which}, '' FROM n WHERE i {modulo} 10 = 0"
    )


@contextmanager
def opened(folder: Path, database: str, **settings: float) -> Iterator[Spool]:
    spool = open_spool(SpoolSettings(path=folder, database=database, reserve=0, **settings))  # type: ignore[arg-type]
    try:
        yield spool
    finally:
        spool.close()


def _opened_and_closed(path: Path, database: str) -> None:
    open_spool(SpoolSettings(path=path, database=database, reserve=0)).close()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def questions(spool: Spool) -> dict[str, Callable[[], object]]:
    """What the stages ask, and what a scrape of metrics does."""
    known = f"1.2.3.9.{WAITING}"
    return {
        "known_digests": lambda: spool.deliveries.known_digests("up", known),
        "next_due": lambda: spool.deliveries.next_due("up"),
        "claim, nothing due": lambda: spool.deliveries.claim("other", 8),
        "claim, all of 5,000 in a pause": lambda: spool.deliveries.claim("down", 8),
        "counts (/metrics)": spool.views.counts,
        "sweep, nothing to remove": spool.retention.sweep,
        "events, the latest": lambda: spool.views.events(limit=200),
        "deliveries of one destination": lambda: spool.views.deliveries(to="up"),
    }


def command(folder: Path, *words: str) -> Callable[[], object]:
    line = [sys.executable, "-m", "router", *words, "--config", str(folder / "routing.yaml")]
    return lambda: subprocess.run(line, check=False, capture_output=True, timeout=600)


COMMANDS = (
    ("queue", "list"), ("queue", "list", "--to", "up"), ("queue", "list", "--buried"), ("queue", "show", "5"),
    ("events",), ("events", "--last", "1000"),
)  # fmt: skip


def commands(folder: Path, database: str, path: Path) -> dict[str, Callable[[], object]]:
    (folder / "routing.yaml").write_text(CONFIG.format(path=path, database=database))
    return {" ".join(words): command(folder, *words) for words in COMMANDS}


def expiry(spool: Spool, base: int) -> dict[str, Any]:
    """Half of the records are to go while instances come: how many go in a minute, and what those who store wait."""

    def receive(until: Callable[[], bool]) -> list[float]:
        taken: list[float] = []
        while not until():
            blob = spool.intake.begin(b"")
            blob.write(memoryview(b"x" * 1000))
            blob.seal()
            taken.append(1000 * seconds(partial(spool.intake.accept, blob, instance(base + len(taken), blob))))
            time.sleep(0.02)
        return sorted(taken)

    end = time.monotonic() + 10
    before = receive(lambda: time.monotonic() > end)
    removed = [0]
    done = threading.Event()

    def remove() -> None:
        end = time.monotonic() + EXPIRY
        while time.monotonic() < end:
            begin = time.monotonic()
            count = spool.retention.sweep()
            if not count:
                break
            removed[0] += count
            time.sleep(PAUSE * (time.monotonic() - begin))
        done.set()

    begin = time.monotonic()
    threading.Thread(target=remove, daemon=True).start()
    during = receive(done.is_set)
    rate = round(removed[0] / (time.monotonic() - begin))

    def both(share: float) -> dict[str, float]:
        return {
            which: round(values[int(share * len(values))], 2)
            for which, values in (("a year", before), ("while records expire", during))
        }

    return {
        "records that expire, in a second": {"while records expire": rate},
        "accept_ms p50": both(0.5), "accept_ms p95": both(0.95),
    }  # fmt: skip


def in_turn(both: dict[str, dict[str, Callable[[], object]]], runs: int) -> dict[str, dict[str, Spread]]:
    """Milliseconds of each, empty and full one after the other."""
    taken: dict[str, dict[str, list[float]]] = {}
    for _ in range(runs):
        for what in next(iter(both.values())):
            for which, work in both.items():
                taken.setdefault(what, {}).setdefault(which, []).append(1000 * seconds(work[what]))
    return {what: {which: Spread.of(values) for which, values in one.items()} for what, one in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--databases", nargs=2, default=("sqlite", "sqlite"), help="PostgreSQL: two empty ones")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names = ("empty", "a year")
    table: dict[str, dict[str, Any]] = {"instances": {"empty": 0, "a year": options.rows}}
    with tempfile.TemporaryDirectory() as name:
        folders = {which: Path(name) / which.replace(" ", "-") for which in names}
        for folder in folders.values():
            folder.mkdir()
        where = {which: (folder / "spool", url) for (which, folder), url in zip(folders.items(), options.databases,
                                                                                strict=True)}  # fmt: skip
        with opened(*where["empty"]) as empty, opened(*where["a year"]) as full:
            print("filled", round(seconds(lambda: fill(full, options.rows))), "s", flush=True)
            both = {"empty": empty, "a year": full}
            costs = {which: measure(spool, 10**9, options.count) for which, spool in both.items()}
            table |= {step: {which: costs[which][step] for which in names} for step in costs["empty"]}
            table |= in_turn({which: questions(spool) for which, spool in both.items()}, options.runs)
            table |= in_turn(
                {which: commands(folders[which], where[which][1], where[which][0]) for which in names}, options.runs
            )
            print("measured", flush=True)
        table["start_ms"] = {which: 1000 * seconds(partial(_opened_and_closed, *where[which])) for which in names}
        with opened(*where["a year"], keep_records=182 * DAY, keep=365 * DAY) as full:
            table |= expiry(full, 2 * 10**9)
    report("year", table, options.json)


if __name__ == "__main__":
    main()
