"""How fast a spool is copied from SQLite to PostgreSQL and back, with the comparison at the end.

    python -m benchmarks.copy --rows 200000 --json copy.json

The records are those of `benchmarks.year`. The server syncs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.measure import report
from benchmarks.year import fill
from router.commands.copy_spool import copy_spool
from router.config.settings import SpoolSettings
from router.spool import open_spool
from tests import postgres


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="instances; there are 1.6 times as many other rows")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name, postgres.server(postgres.SYNCED) as new_database:
        path, url = Path(name) / "spool", new_database()
        spool = open_spool(SpoolSettings(path=path, reserve=0))
        fill(spool, options.rows)
        spool.close()
        for source, target in (("sqlite", url), (url, "sqlite")):
            begin = time.perf_counter()
            done = copy_spool(SpoolSettings(path=path, database=source, reserve=0), target, lambda *_: None)
            seconds = time.perf_counter() - begin
            kind = "SQLite to PostgreSQL" if source == "sqlite" else "PostgreSQL to SQLite"
            table[kind] = {"rows": done.rows, "s": round(seconds, 1), "rows a second": round(done.rows / seconds)}
            if source == "sqlite":
                (path / "node.db").rename(path / "node.db.old")
    report("copy", table, options.json)


if __name__ == "__main__":
    main()
