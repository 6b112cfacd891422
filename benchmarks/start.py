"""What a start costs: a spool in which many instances wait, and a routing.yaml with many conditions.

    python -m benchmarks.start --rows 1000 1000000 --folder /var/tmp --json start.json

Of the instances half have no decision, and half are owed to a destination that is down. Each has its blob. A spool that
lies in the folder already is taken again, and left there. Each start is a process of its own. Quote the seconds of a
processor on a machine that does other work.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.measure import Spread, report
from benchmarks.spool import fill
from router.config import load
from router.config.settings import SpoolSettings
from router.spool import open_spool

RUNS = 3
CONDITIONS = 20_000
OPEN = """
import sys, time
from pathlib import Path
from router.config.settings import SpoolSettings
from router.spool import open_spool
began, used = time.perf_counter(), time.process_time()
spool = open_spool(SpoolSettings(path=Path(sys.argv[1]), reserve=0))
print(time.perf_counter() - began, time.process_time() - used)
spool.close()
"""
HEAD = """destinations: {a: {ae_title: A, host: 10.0.0.1, port: 104}}
otherwise: {send: a}
rules:
"""


def waiting(path: Path, rows: int) -> None:
    """A spool with so many that wait."""
    if path.exists():
        return
    spool = open_spool(SpoolSettings(path=path, reserve=0))
    fill(spool, rows, 0)
    spool.close()
    with closing(sqlite3.connect(path / "node.db")) as connection:
        undecided = "SELECT id FROM instance WHERE rowid % 2"
        connection.execute(f"DELETE FROM delivery WHERE instance_id IN ({undecided})")
        connection.execute(f"UPDATE instance SET state = 'new' WHERE id IN ({undecided})")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for (one,) in connection.execute("SELECT id FROM instance"):
            os.close(os.open(path / "blobs" / one[-2:] / f"{one}.dcm", os.O_WRONLY | os.O_CREAT, 0o600))


def opened(path: Path) -> tuple[float, float]:
    """Seconds, and of a processor, until a spool is open to work."""
    said = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True, check=True).stdout
    seconds, used = said.splitlines()[-1].split()
    return float(seconds), float(used)


def tables() -> dict[str, str]:
    when = "  - name: one\n    send: a\n    when:\n"
    return {
        f"{CONDITIONS:,} conditions under any": HEAD + when + "      any:\n"
        + "".join(f"        - StationName: S{n}\n" for n in range(CONDITIONS)),
        f"{CONDITIONS:,} values in one list": HEAD + when
        + f"      StationName: [{', '.join(f'S{n}' for n in range(CONDITIONS))}]\n",
        f"{CONDITIONS:,} rules": HEAD
        + "".join(f"- {{name: r{n}, when: {{frames: {n + 1}}}, send: a}}\n" for n in range(CONDITIONS)),
    }  # fmt: skip


def loaded(text: str) -> tuple[float, float]:
    began, used = time.perf_counter(), time.process_time()
    load(Path("routing.yaml"), {}, text=text)
    return time.perf_counter() - began, time.process_time() - used


def spread(taken: list[tuple[float, float]]) -> dict[str, object]:
    return {"s": Spread.of([seconds for seconds, _ in taken]), "CPU s": Spread.of([used for _, used in taken])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 1_000_000])
    parser.add_argument("--folder", type=Path, required=True, help="where the spools are: 6 kB for each row")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    for rows in options.rows:
        path = options.folder / f"waiting-{rows}"
        waiting(path, rows)
        table[f"a spool in which {rows:,} wait"] = spread([opened(path) for _ in range(RUNS)])
    for name, text in tables().items():
        table[f"routing.yaml: {name}"] = spread([loaded(text) for _ in range(RUNS)])
    report("start (on a machine with other work: quote the processor time)", table, options.json)


if __name__ == "__main__":
    main()
