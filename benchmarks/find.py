"""What it takes to look for an instance among a million, and to try other rules on the latest of them.

    python -m benchmarks.find --rows 1000000 --json find.json
    python -m benchmarks.find --rows 1000000 --database postgresql --json find-postgresql.json

The records are made by SQL: a year of them, of twenty callers, most of them delivered. Each question is asked as the
first page of `find`, so with a limit of 100; "all pages" goes on until nothing is left. For PostgreSQL it starts a
server of its own, with syncs, unless it is given the URL of an empty database.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.measure import Spread, report
from benchmarks.year import DAY, seconds
from router.config import load
from router.config.settings import SpoolSettings
from router.decide.header_facts import asked, facts_of
from router.decide.replay import replay
from router.flow import CLASSES
from router.spool import DeliveryState, InstanceState, Spool, open_spool
from router.spool.find import FIRST_PAGE, Filter, State
from router.spool.header_facts import as_text
from router.spool.keyed import make_key
from router.spool.schema import delivery, instance
from tests import postgres

PAGE = 100
CHUNK = 5000
"""Rows of one transaction."""
RULES = Path(__file__).resolve().parent.parent / "routing.yaml"
SHARES = (0.2, 0.55, 0.03, 0.12, 0.1)
"""Of each class among the instances."""
PLACES = {"abdominal": "abdominal-ai", "adult_chest": "chest-ai", "pediatric_chest": "child-ai", "spine": "spine-ai",
          "others": "catch-all"}  # fmt: skip
BURIED, DISCARDED, WAITING = 0.002, 0.001, 5000
"""Shares of the deliveries; and how many of the latest still wait."""
HEADER = {
    0x00080060: ("DX",), 0x00080008: ("ORIGINAL", "PRIMARY"), 0x00080068: ("FOR PRESENTATION",), 0x00080070: ("ACME",),
    0x00081030: ("Thorax p.a. und seitlich",), 0x0008103E: ("Thorax stehend",), 0x00181030: ("THORAX PA",),
    0x00081010: ("ROOM3",), 0x00180015: ("CHEST",), 0x00185101: ("PA",), 0x00280004: ("MONOCHROME2",),
    0x00101010: ("044Y",), 0x00280010: ("2500",), 0x00280011: ("2048",), 0x00100040: ("F",),
}  # fmt: skip


def fill(spool: Spool, rows: int) -> None:
    """A year of records, the oldest a year ago."""
    rng, key, rules = random.Random(1), make_key(spool.settings.path), load(RULES).rules
    header = as_text(facts_of(HEADER, asked(rules)))
    begin = time.time() - 365 * DAY
    for start in range(0, rows, CHUNK):
        instances, deliveries = [], []
        for n in range(start, min(rows, start + CHUNK)):
            at = begin + (n + 0.5) * 365 * DAY / rows
            (top,) = rng.choices(CLASSES, SHARES)
            waits = n >= rows - WAITING
            which = f"{int(at * 1e9):016x}{n:016x}"
            chances = [0.96 if name == top else 0.01 for name in CLASSES]
            caller, rule = n % 20, f"{top.replace('_', ' ')} by pixels"
            instances.append({
                "id": which, "received_at": at, "calling_ae": f"XRAY_{caller}", "called_ae": "ROUTER",
                "peer": f"10.0.0.{caller}", "sop_class": "1.2.840.10008.5.1.4.1.1.1.1", "sop_instance": f"1.2.3.9.{n}",
                "transfer_syntax": "1.2.840.10008.1.2.1", "offset": 400, "size": 1000, "digest": f"{n:032x}",
                "state": InstanceState.DECIDED if waits else InstanceState.GONE, "decided_at": at,
                "finished_at": None if waits else at, "pixels": "decoded", "top": top,
                "class": "uncertain" if n % 50 == 0 else top, "confidence": 0.96, "probabilities": json.dumps(chances),
                "novelty": 0.1, "novel": False, "model": "m" * 64, "why_no_prediction": "",
                "facts": json.dumps({"photometric": "MONOCHROME2", "rows": 2500, "columns": 2048, "frames": 1}),
                "rule": rule, "reason": f"rule '{rule}' (class): sent to {PLACES[top]}, pacs",
                "destinations": json.dumps([PLACES[top], "pacs"]), "shadow": "[]", "view": "frontal",
                "study": key.study(f"1.2.9.{n // 2}"), "accession": key.accession(f"A{n // 2}"),
                "table": rules.digest, "header": header,
            })  # fmt: skip
            for to in (PLACES[top], "pacs"):
                end = rng.choices(
                    (DeliveryState.BURIED, DeliveryState.DISCARDED, DeliveryState.DONE),
                    (BURIED, DISCARDED, 1 - BURIED - DISCARDED),
                )[0]
                deliveries.append({
                    "instance_id": which, "destination": to, "state": DeliveryState.OPEN if waits else end,
                    "owed_since": at, "tries": 1, "closed_at": None if waits else at, "reason": "",
                })  # fmt: skip
        spool.database.run(partial(_insert, instances=instances, deliveries=deliveries))


def _insert(
    connection: sa.Connection, instances: Sequence[dict[str, Any]], deliveries: Sequence[dict[str, Any]]
) -> None:
    connection.execute(instance.insert(), instances)
    connection.execute(delivery.insert(), deliveries)


def analyse(url: str) -> None:
    """As PostgreSQL does by itself a minute after so many rows came."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def questions(rows: int) -> dict[str, Filter]:
    """All kinds of them."""
    now = time.time()
    return {
        "the latest": Filter(),
        "a SOP Instance UID": Filter(text=f"1.2.3.9.{rows // 3}"),
        "a Study Instance UID": Filter(text=f"1.2.9.{rows // 5}"),
        "an accession number": Filter(text=f"a{rows // 7}"),
        "nothing like it": Filter(text="1.2.3.4.5.6.7.8.9"),
        "a common class": Filter(class_name="adult_chest"),
        "a rare class": Filter(class_name="pediatric_chest"),
        "a rule": Filter(rule="spine by pixels"),
        "a caller": Filter(calling_ae="XRAY_7"),
        "a destination of all": Filter(to="pacs"),
        "a destination of few": Filter(to="child-ai"),
        "waiting": Filter(state=State.WAITING),
        "waiting for a destination": Filter(state=State.WAITING, to="spine-ai"),
        "done": Filter(state=State.DONE),
        "done at a destination": Filter(state=State.DONE, to="pacs"),
        "buried": Filter(state=State.BURIED),
        "discarded at a destination": Filter(state=State.DISCARDED, to="chest-ai"),
        "skipped: none": Filter(state=State.SKIPPED),
        "the last hour": Filter(since=now - 3600),
        "half a year ago": Filter(until=now - 180 * DAY),
        "class, caller, destination, done": Filter(
            class_name="adult_chest", calling_ae="XRAY_3", to="pacs", state=State.DONE
        ),
        "class, buried, half a year ago": Filter(class_name="spine", state=State.BURIED, until=now - 180 * DAY),
        "two of many each, none together": Filter(class_name="adult_chest", rule="spine by pixels"),
        "four of many each, none together": Filter(
            class_name="abdominal", to="spine-ai", state=State.DONE, calling_ae="XRAY_3"
        ),
        "a caller from another's address": Filter(calling_ae="XRAY_3", peer="10.0.0.4"),
    }  # fmt: skip


def all_pages(spool: Spool, wanted: Filter) -> int:
    """How many pages there are until nothing is left."""
    count, before = 0, FIRST_PAGE
    while before:
        page = spool.views.find_page(wanted, before=before, limit=PAGE)
        count, before = count + 1, page.go_on or ""
    return count


def measured(work: Callable[[], object], runs: int) -> dict[str, Spread]:
    """Milliseconds by the clock, and of this process's processor time (on SQLite, the database's too)."""
    clock, processor = [], []
    for _ in range(runs):
        begin = time.process_time()
        clock.append(1000 * seconds(work))
        processor.append(1000 * (time.process_time() - begin))
    return {"ms": Spread.of(clock), "CPU ms": Spread.of(processor)}


def results(spool: Spool, rows: int, runs: int) -> Iterator[tuple[str, dict[str, Any]]]:
    asked_for = questions(rows)
    for name, wanted in asked_for.items():
        yield name, measured(partial(spool.views.find_page, wanted, limit=PAGE), runs)
    for name in ("two of many each, none together", "four of many each, none together"):
        pages = all_pages(spool, asked_for[name])
        yield f"{name}: all {pages} pages", measured(partial(all_pages, spool, asked_for[name]), 1)
    settings = load(RULES)
    for last in (5000, min(rows, 100_000)):
        yield f"replay of the latest {last}", measured(partial(_replayed, spool, settings, last), 1)


def _replayed(spool: Spool, settings: Any, last: int) -> None:
    found = replay(settings.rules, spool.rules.came(last=last), settings.enabled)
    assert found.instances == last
    assert not found.without_facts


@contextmanager
def the_database(wanted: str) -> Iterator[str]:
    """A database for `spool.database`. `postgresql`: an empty one of a server that ends with the block."""
    if wanted != "postgresql":
        yield wanted
        return
    with postgres.server(postgres.SYNCED) as new_database:
        yield new_database()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--database", default="sqlite", help="`postgresql`: a server of its own; or the URL of an empty one"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, the_database(options.database) as database:
        settings = SpoolSettings(path=Path(name) / "spool", database=database, reserve=0)
        with closing(open_spool(settings)) as spool:
            print("filled", round(seconds(partial(fill, spool, options.rows))), "s", flush=True)
            if not spool.database.is_sqlite:
                analyse(database)
            table = dict(results(spool, options.rows, options.runs))
    report(f"find among {options.rows} instances", table, options.json)


if __name__ == "__main__":
    main()
