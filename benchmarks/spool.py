"""The spool alone: accept, decide, claim and finish, with few and with many rows in the database.

    python -m benchmarks.spool --rows 1000 100000 --json spool.json

Flat lines are the aim: what one instance costs must not depend on how many are there.
"""

from __future__ import annotations

import argparse
import itertools
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.measure import Spread, report
from router.config.settings import SpoolSettings
from router.flow import Caller, Decision, Instance, Seen
from router.spool import DeliveryState, Spool, open_spool
from router.spool.blobs import new_id

AT_ONCE = 500_000
"""Rows that are written in one transaction."""
CALLER = Caller("XRAY", "ROUTER", "127.0.0.1")


def instance(n: int, blob: Any = None) -> Instance:
    identity = blob.id if blob else new_id()
    return Instance(identity, time.time(), CALLER, "1.2.840.10008.5.1.4.1.1.1.1", f"1.2.{n}", "1.2.840.10008.1.2.1",
                    128, 1000, "0" * 32)  # fmt: skip


INSTANCES = """
    INSERT INTO instance (id, received_at, calling_ae, called_ae, peer, sop_class, sop_instance, transfer_syntax,
        "offset", size, digest, state)
    WITH RECURSIVE n(i) AS (SELECT ? UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)
    SELECT printf('%016x%016x', ? + i, abs(random())), ?, 'XRAY', 'ROUTER', '127.0.0.1', '1.2.840.10008.5.1.4.1.1.1.1',
        '1.2.' || i, '1.2.840.10008.1.2.1', 128, 1000, printf('%032x', i), 'decided' FROM n
"""
DELIVERIES = """
    INSERT INTO delivery (instance_id, destination, state, owed_since)
    SELECT id, 'down', 'open', 0.0 FROM instance WHERE rowid > ?
"""


def fill(spool: Spool, rows: int, already: int) -> None:
    """Waiting instances, each owed to a destination that is down: by SQL, with the indexes made anew at the end."""
    if rows <= already:
        return
    with closing(sqlite3.connect(spool.settings.path / "node.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type = 'index' "
            "AND tbl_name IN ('instance', 'delivery')"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f'DROP INDEX "{name}"')
        for start in range(already, rows, AT_ONCE):
            (last,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM instance").fetchone()
            first_at = time.time_ns() - 2 * rows
            connection.execute(INSTANCES, (start, min(start + AT_ONCE, rows), first_at, time.time()))
            connection.execute(DELIVERIES, (last,))
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def timed(count: int, call: Callable[[int], object]) -> float:
    began = time.perf_counter()
    for n in range(count):
        call(n)
    return 1000 * (time.perf_counter() - began) / count


def measure(spool: Spool, base: int, count: int) -> dict[str, object]:
    numbers = itertools.count(base)

    def accept(_: int) -> None:
        blob = spool.intake.begin(b"")
        blob.write(memoryview(b"x" * 1000))
        blob.seal()
        spool.intake.accept(blob, instance(next(numbers), blob))

    def decide(_: int) -> None:
        (claim,) = spool.decisions.claim(1)
        spool.decisions.record(claim, Seen("none"), Decision("r", ("up",), ""), {}).result()

    def finish(_: int) -> None:
        (delivery,) = spool.deliveries.claim("up", 1)
        spool.deliveries.close(delivery, DeliveryState.DONE).result()

    return {
        name: Spread.of([timed(count // 5, step) for _ in range(5)])
        for name, step in (("accept_ms", accept), ("decide_ms", decide), ("finish_ms", finish))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="where the spool is while it is measured: 2 kB for each row")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tempfile.tempdir = str(options.folder) if options.folder else None
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        spool = open_spool(SpoolSettings(path=Path(name) / "spool", reserve=0))
        filled = 0
        for rows in sorted(options.rows):
            fill(spool, rows, filled)
            filled = rows
            table[f"{rows:,} rows"] = measure(spool, 10**9 + rows, options.count)
            print(rows, flush=True)
        spool.close()
    report("spool", table, options.json)


if __name__ == "__main__":
    main()
