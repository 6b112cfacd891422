"""A node with something to see: an hour of traffic in its record, phantoms that were really sent, and trouble."""

from __future__ import annotations

import json
import math
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from router.config import load, shipped
from router.config.settings import SpoolSettings
from router.demo import run
from router.demo.network import send
from router.demo.phantoms import PARTS, radiograph
from router.flow import CLASSES, Role
from router.pixels.wrap import wrap_image
from router.spool import open_spool
from router.web.access.passwords import hashed
from tests.unit.peer import wait_for

USER, PASSWORD = "mueller", "several good words"
SENDERS = ("XR_ROOM_1", "XR_ROOM_2", "MOBILE_7", "PAEDIATRIC_DX")
FULL, PAUSED = "abdominal-ai", "spine-ai"
RULES = {
    "adult_chest": ("adult chest by pixels", "adult-chest-ai"), "spine": ("spine", PAUSED),
    "pediatric_chest": ("pediatric chest by pixels", "pediatric-chest-ai"), "others": ("otherwise", "catch-all"),
    "abdominal": ("abdominal", FULL),
}  # fmt: skip
SHARES = (0.12, 0.52, 0.12, 0.16, 0.08)
SOP_CLASS, SYNTAX = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.4.70"


@contextmanager
def filled(folder: Path) -> Iterator[run.Stage]:
    """A running node on loopback with an hour behind it."""
    settings = run.without_limit(load(shipped(), {}), folder)
    full = replace(settings.destinations[FULL], limit=0)
    settings = replace(settings, destinations=settings.destinations | {FULL: full})
    open_spool(SpoolSettings(path=folder / "spool", reserve=0)).close()
    an_hour(folder / "spool" / "node.db", settings.rules.digest)
    with run.stage(settings, folder) as on:
        on.spool.users.add(USER, hashed(PASSWORD), tuple(Role), "a test")
        on.spool.orders.pause(PAUSED, USER)
        for place, part in enumerate(PARTS):
            picture = radiograph(part)
            for number in range(2):
                path = wrap_image(picture, folder / f"{place}-{number}.dcm", age="004Y" if "child" in part else "045Y")
                send([path], on.port, called_ae=on.ae_title, calling_ae=SENDERS[place % len(SENDERS)])
        wait_for(lambda: _is_settled(on), 60)
        two_in_doubt(folder / "spool" / "node.db")
        yield on


def _is_settled(on: run.Stage) -> bool:
    counts = on.spool.views.counts()
    return not counts.undecided and not {name for name, n in counts.open.items() if n and name != PAUSED}


def two_in_doubt(database: Path) -> None:
    """The model is sure of most phantoms, and of which ones may differ by a hair between processors."""
    here = "state <> 'gone'"
    with sqlite3.connect(database) as connection:
        connection.execute(f"UPDATE instance SET class = 'adult_chest' WHERE class = 'uncertain' AND {here}")
        latest = f"SELECT id FROM instance WHERE {here} ORDER BY id DESC LIMIT 2"
        connection.execute(f"UPDATE instance SET class = 'uncertain' WHERE id IN ({latest})")


def an_hour(database: Path, table: str) -> None:
    """Rows of the last hour, as if their blobs were gone again."""
    chance, now = random.Random(7), time.time()
    with sqlite3.connect(database) as connection:
        for number in range(420):
            minutes = chance.random() * 58 + 1.2
            at = now - 60 * minutes * (0.75 + 0.25 * math.sin(minutes / 6) ** 2)
            shown = chance.choices(CLASSES, SHARES)[0]
            confidence = min(0.999, max(0.42, chance.gauss(0.93, 0.08)))
            name = shown if confidence > 0.7 else "uncertain"
            rest = [chance.random() for _ in CLASSES]
            total = sum(r for c, r in zip(CLASSES, rest, strict=True) if c != shown)
            odds = [
                confidence if c == shown else (1 - confidence) * r / total for c, r in zip(CLASSES, rest, strict=True)
            ]
            rule, to = RULES[shown] if name != "uncertain" else ("otherwise", "catch-all")
            _row(connection, number, at, shown, name, confidence, odds, rule, to, table, chance.choice(SENDERS))


def _row(
    connection: sqlite3.Connection, number: int, at: float, top: str, name: str, confidence: float, odds: list[float],
    rule: str, to: str, table: str, caller: str,
) -> None:  # fmt: skip
    which = f"{int(at * 1e9):016x}{number:016x}"
    columns = {
        "id": which, "received_at": at, "calling_ae": caller, "called_ae": "ROUTER", "peer": "10.1.0.9",
        "sop_class": SOP_CLASS, "sop_instance": f"1.2.826.0.1.{number}", "transfer_syntax": SYNTAX, "offset": 500,
        "size": 9_000_000 + 1000 * number, "digest": f"{number:032x}", "state": "gone", "decided_at": at + 0.2,
        "finished_at": at + 1.1, "pixels": "decoded", "top": top, "class": name, "confidence": confidence,
        "probabilities": json.dumps([round(p, 6) for p in odds]), "novelty": 0.4, "novel": False, "model": "m" * 64,
        "facts": "{}", "rule": rule, "reason": f"rule '{rule}' (class): sent to {to}",
        "destinations": json.dumps([to]), "shadow": "[]", "table": table,
    }  # fmt: skip
    names = ", ".join(f'"{one}"' for one in columns)
    connection.execute(
        f"INSERT INTO instance ({names}) VALUES ({', '.join('?' * len(columns))})", list(columns.values())
    )
    connection.execute(
        "INSERT INTO delivery (instance_id, destination, state, owed_since, closed_at, tries, reason) "
        "VALUES (?, ?, 'done', ?, ?, 0, '')",
        (which, to, at + 0.2, at + 1.1),
    )
