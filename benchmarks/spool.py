"""The spool alone: accept, decide, claim and finish, with few and with many rows in the database.

    python -m benchmarks.spool --rows 1000 100000 --json spool.json

Flat lines are the aim: what one instance costs must not depend on how many are there.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.measure import Spread, report
from router.config.settings import SpoolSettings
from router.flow import Caller, Decision, Instance, Seen
from router.spool import DeliveryState, InstanceState, Spool, open_spool, schema
from router.spool.blobs import new_id

CALLER = Caller("XRAY", "ROUTER", "127.0.0.1")
BATCH = 5000


def instance(n: int, blob: Any = None) -> Instance:
    identity = blob.id if blob else new_id()
    return Instance(identity, time.time(), CALLER, "1.2.840.10008.5.1.4.1.1.1.1", f"1.2.{n}", "1.2.840.10008.1.2.1",
                    128, 1000, "0" * 32)  # fmt: skip


def fill(spool: Spool, rows: int, already: int) -> None:
    """Waiting instances, each owed to a destination that is down, written in bulk."""
    from router.spool.rows import columns_of

    def add(connection: sa.Connection, start: int) -> None:
        made = [instance(n) for n in range(start, min(start + BATCH, rows))]
        connection.execute(schema.instance.insert(), [columns_of(i) | {"state": InstanceState.DECIDED} for i in made])
        connection.execute(schema.delivery.insert(), [
            {"instance_id": i.id, "destination": "down", "state": DeliveryState.OPEN, "owed_since": 0.0} for i in made
        ])  # fmt: skip

    for start in range(already, rows, BATCH):
        spool.database.run(lambda c, start=start: add(c, start))  # type: ignore[misc]


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
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
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
