"""PostgreSQL with ten million instances beside ten thousand: what each statement on an instance's way reads.

    python -m benchmarks.claims --rows 10000 10000000 --folder /var/tmp --json claims.json

It starts a server of its own, with syncs, and fills it by SQL. Of ten instances seven are records of the past, one
waits for its decision, one for a destination that takes, and one for a destination that is down. Then it measures
claims in batches, and has the server explain every statement: rows and pages that it read, and whole tables.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from benchmarks.measure import Spread, report
from benchmarks.spool import measure
from router.config.settings import SpoolSettings
from router.flow import Decision, Seen
from router.spool import DeliveryState, InstanceState, Spool, open_spool
from router.spool.find import Filter, State
from router.spool.schema import delivery, instance
from tests import postgres

DAY = 86400.0
SERVER = (*postgres.SYNCED, "shared_buffers=1GB", "max_wal_size=16GB", "wal_level=minimal", "max_wal_senders=0",
          "maintenance_work_mem=1GB", "autovacuum=off", "checkpoint_timeout=30min")  # fmt: skip
"""The memory of a small server. The benchmark vacuums once by itself, so that no run of autovacuum is measured."""
AT_ONCE = 64
"""Jobs in one claim."""
BATCHES, WARM_UP, RUNS = 5, 2, 7
LARGE = ("instance", "delivery", "event")
INSTANCES = """
    INSERT INTO instance (id, received_at, calling_ae, called_ae, peer, sop_class, sop_instance, transfer_syntax,
        "offset", size, digest, state, ready_at, tries, decided_at, finished_at, pixels, top, class, confidence, rule,
        reason, destinations, facts, header, study, accession, "table")
    SELECT lpad(to_hex((at * 1e9)::bigint), 16, '0') || lpad(to_hex(i), 16, '0'), at, 'XRAY_' || i %% 20, 'ROUTER',
        '10.0.0.' || i %% 20, '1.2.840.10008.5.1.4.1.1.1.1', '1.2.3.9.' || i, '1.2.840.10008.1.2.1', 400, 1000,
        md5(i::text), state, 0, CASE state WHEN 'new' THEN 0 ELSE 1 END, CASE state WHEN 'new' THEN NULL ELSE at END,
        CASE state WHEN 'gone' THEN at END, 'decoded', class, class, 0.97, class || ' by pixels',
        'rule ''' || class || ' by pixels'': sent to up, pacs', '["up", "pacs"]',
        '{"photometric": "MONOCHROME2", "rows": 3000, "columns": 2500}', '{"00080060": ["DX"]}',
        md5('s' || i / 2), md5('a' || i / 2), md5('rules')
    FROM (SELECT i, %(now)s - %(span)s * (1 - i::float8 / %(rows)s) AS at,
              CASE WHEN i <= %(rows)s * 0.7 THEN 'gone' WHEN i <= %(rows)s * 0.9 THEN 'decided' ELSE 'new' END AS state,
              (ARRAY['adult_chest', 'adult_chest', 'abdominal', 'spine', 'others'])[1 + i %% 5] AS class
          FROM generate_series(1, %(rows)s) i) one
"""
DELIVERIES = """
    INSERT INTO delivery (instance_id, destination, state, owed_since, ready_at, tries, closed_at, reason)
    SELECT id, place, CASE state WHEN 'gone' THEN 'done' ELSE 'open' END, received_at,
        CASE WHEN place = 'down' THEN %(now)s + 86400 ELSE 0 END, 1, CASE state WHEN 'gone' THEN received_at END, ''
    FROM instance, LATERAL unnest(CASE
        WHEN state = 'gone' AND right(id, 1) > '7' THEN ARRAY['up', 'pacs'] WHEN state = 'gone' THEN ARRAY['up']
        WHEN right(id, 1) > '7' THEN ARRAY['down'] ELSE ARRAY['up'] END) place
    WHERE state != 'new' ORDER BY id
"""
EVENTS = """
    INSERT INTO event (at, kind, instance_id, detail)
    SELECT received_at, 'same UID again', id, '{"merged": false}' FROM instance WHERE right(id, 1) = '1'
"""


def fill(url: str, rows: int) -> None:
    """Without indexes and checks of foreign keys, which are made again afterwards."""
    values = {"rows": rows, "now": time.time(), "span": 365 * DAY}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY(%s) AND indexname NOT LIKE '%%_pkey'",
            (list(LARGE),),
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f'DROP INDEX "{name}"')
        for statement in (INSTANCES, DELIVERIES, EVENTS):
            connection.execute(statement, values)
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


@dataclass(frozen=True)
class Plan:
    """What one statement did, as the server explains it."""

    rows: int
    """Rows that its nodes gave out, and rows that a filter dropped."""
    pages: int
    ms: float
    scans: tuple[str, ...]
    """Tables that it read as a whole."""


def explained(connection: sa.Connection, statement: str, parameters: Any) -> Plan:
    """Run and undo a statement."""
    inner = connection.begin_nested()
    found = connection.exec_driver_sql("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement, parameters).scalar_one()
    inner.rollback()
    nodes = list(_nodes(found[0]["Plan"]))
    rows = sum((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in nodes)
    top = found[0]["Plan"]
    scans = tuple(node["Relation Name"] for node in nodes if node["Node Type"].endswith("Seq Scan"))
    pages = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return Plan(int(rows), pages, found[0]["Execution Time"], tuple(one for one in scans if one in LARGE))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)


@contextmanager
def statements() -> Iterator[dict[str, Any]]:
    """The statements about the large tables that are executed meanwhile, with their parameters."""
    asked: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        is_one = statement.split()[0] in ("SELECT", "UPDATE", "DELETE", "WITH")
        if is_one and any(table in statement for table in LARGE):
            asked[statement] = parameters

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)


def steps(spool: Spool) -> dict[str, Callable[[], object]]:
    """An instance's way, and what is asked about all of them."""

    def one_way() -> None:
        measure(spool, time.time_ns(), 5)

    def renew() -> None:
        spool.deliveries.claim("up", AT_ONCE)
        spool.decisions.claim(AT_ONCE)
        spool.database.renew()

    return {
        "claim 64 instances": lambda: spool.decisions.claim(AT_ONCE),
        "claim 64 deliveries": lambda: spool.deliveries.claim("up", AT_ONCE),
        "claim, nothing due": lambda: spool.deliveries.claim("down", AT_ONCE),
        "probe of a circuit": lambda: spool.deliveries.claim_untried("up"),
        "accept, decide, close": one_way,
        "renew": renew,
        "when is work due": lambda: (spool.deliveries.next_due("down"), spool.decisions.next_due()),
        "expiry": spool.retention.sweep,
        "find, first page": lambda: spool.views.find_page(Filter(), limit=100),
        "find, done at a place": lambda: spool.views.find_page(Filter(to="pacs", state=State.DONE), limit=100),
        "find, a class that waits": lambda: spool.views.find_page(Filter(class_name="spine", state=State.WAITING)),
        "known digests": lambda: spool.deliveries.known_digests("up", "1.2.3.9.77"),
        "the page's minutes": lambda: spool.overview.minutes(["up", "pacs", "down"]),
        "counts of all that waits": spool.views.counts,
        "bytes of all blobs": spool.tidy_up,
    }


def plans(spool: Spool) -> dict[str, list[tuple[str, Plan]]]:
    """Of each step its statements, each explained once it has run."""
    found = {}
    for name, step in steps(spool).items():
        with statements() as asked:
            step()
        found[name] = [
            (text, spool.database.run(partial(explained, statement=text, parameters=values)))
            for text, values in asked.items()
        ]
        _free(spool)
    return found


def _free(spool: Spool) -> None:
    """Nothing stays claimed."""
    for table, state in ((instance, InstanceState.NEW), (delivery, DeliveryState.OPEN)):
        held = (table.c.state == state) & (table.c.token != 0)
        change = table.update().where(held, table.c.ready_at > 0).values(token=0, ready_at=0, tries=0)
        spool.database.run(partial(sa.Connection.execute, statement=change))


def rates(spool: Spool) -> dict[str, float]:
    """Jobs a second: claimed 64 at a time; then decided or closed, as many in one commit as wait."""
    found: dict[str, float] = {}

    def timed(name: str, jobs: int, begin: float) -> None:
        found[name] = jobs / (time.perf_counter() - begin)

    begin = time.perf_counter()
    claims = [one for _ in range(BATCHES) for one in spool.decisions.claim(AT_ONCE)]
    timed("claimed to classify a second", len(claims), begin)
    begin = time.perf_counter()
    done = [spool.decisions.record(one, Seen("none"), Decision("r", ("up",), ""), {}) for one in claims[:AT_ONCE]]
    [one.result() for one in done]
    timed("decided a second", len(done), begin)
    begin = time.perf_counter()
    owed = [one for _ in range(BATCHES) for one in spool.deliveries.claim("up", AT_ONCE)]
    timed("claimed to forward a second", len(owed), begin)
    begin = time.perf_counter()
    done = [spool.deliveries.close(one, DeliveryState.DONE) for one in owed[:AT_ONCE]]
    [one.result() for one in done]
    timed("closed a second", len(done), begin)
    _free(spool)
    return found


def in_turn(spools: dict[str, Spool]) -> dict[str, dict[str, Spread]]:
    """The rates of each, one after the other in each round: what else the machine does slows all alike."""
    taken: dict[str, dict[str, list[float]]] = {}
    for number in range(WARM_UP + RUNS):
        for title, spool in spools.items():
            for name, rate in rates(spool).items():
                if number >= WARM_UP:
                    taken.setdefault(name, {}).setdefault(title, []).append(rate)
    return {name: {title: Spread.of(values) for title, values in one.items()} for name, one in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 10_000_000])
    parser.add_argument("--folder", type=Path, help="where the server's files are while it runs: 2 kB for each row")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tempfile.tempdir = str(options.folder) if options.folder else None
    table: dict[str, dict[str, object]] = {}
    scanned: list[str] = []
    with postgres.server(SERVER) as new_database, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spools = {f"{rows:,} rows": _filled(stack, folder / str(rows), new_database(), rows) for rows in options.rows}
        for name, figures in in_turn(spools).items():
            table[name] = dict(figures)
        for title, spool in spools.items():
            for name, value in measure(spool, 10**12, 100).items():
                table.setdefault(name, {})[title] = value
            for name, found in plans(spool).items():
                table.setdefault(f"{name}: rows read", {})[title] = sum(plan.rows for _, plan in found)
                table.setdefault(f"{name}: pages read", {})[title] = sum(plan.pages for _, plan in found)
                table.setdefault(f"{name}: ms", {})[title] = round(sum(plan.ms for _, plan in found), 1)
                scanned += [f"{title}, {name}: {plan.scans} {text}" for text, plan in found if plan.scans]
    report("claims", table, options.json)
    for line in scanned:
        print("whole table read:", line)


def _filled(stack: ExitStack, path: Path, url: str, rows: int) -> Spool:
    settings = SpoolSettings(path=path, database=url, reserve=0, keep=DAY, keep_records=360 * DAY)
    open_spool(settings).close()
    begin = time.perf_counter()
    fill(url, rows)
    print(f"{rows:,} rows: filled in {time.perf_counter() - begin:.0f} s", flush=True)
    spool = open_spool(settings)
    stack.callback(spool.close)
    return spool


if __name__ == "__main__":
    main()
