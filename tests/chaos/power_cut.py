"""Power cuts: whatever the disk may have kept at any moment of a traced run, the node goes on from it and owes nothing.

A node is sent instances under strace; `disk` replays its writes to a crash point, without what was not synced there, or
with a part of it by chance. The product then opens what is left. That the harness sees a loss is shown by ignoring the
syncs of one kind. `python -m tests.chaos.power_cut --help` runs as many crash points as there is time for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from router.config.settings import SpoolSettings
from router.spool import SpoolError, open_spool
from tests.acceptance.corpus import database, settled
from tests.chaos import disk
from tests.chaos.disk import Disk, Pick
from tests.chaos.kills import quiet
from tests.chaos.recording import SENDERS, Recording, node_on, record
from tests.chaos.traffic import Sinks
from tests.peers import wait_for

KINDS: dict[str, Callable[[str], bool]] = {
    "blob": lambda path: bool(re.search(r"/blobs/[0-9a-f]{2}/", path)),
    "blob's folder": lambda path: bool(re.search(r"/blobs/[0-9a-f]{2}$", path)),
    "folder of the blobs' folders": lambda path: path.endswith("/blobs"),
    "database": lambda path: path.endswith("/node.db"),
    "database's log": lambda path: path.endswith("/node.db-wal"),
    "spool's folder": lambda path: path.endswith("/spool"),
    "folder above the spool": lambda path: path.endswith("/disk"),
}
"""What is synced, by its path."""
ONCE = ("blob", "blob's folder", "database's log")
"""Synced for every instance."""


@dataclass(frozen=True)
class CrashPoint:
    """The power goes before the event with this number."""

    index: int
    at: float
    acknowledged: frozenset[str]
    arrived: Counter[tuple[str, str, str]]
    """(SOP Instance UID, digest, place), as often as it was there."""

    def is_done(self, run: Recording, uid: str) -> bool:
        """Whether the instance had arrived wherever it must: nothing of it can be lost any more."""
        one = run.sent[uid]
        return all(self.arrived[uid, one.digest, place] for place in one.expected)


@dataclass
class Outcome:
    """What the replays came to."""

    instances: int = 0
    points: int = 0
    states: int = 0
    restarts: int = 0
    acknowledged_at_points: int = 0
    faults: list[str] = field(default_factory=list)


# -- replaying -----------------------------------------------------------------------------------------------------


def crash_points(run: Recording, count: int, seed: str) -> list[CrashPoint]:
    """After each answer, and `count` more by chance (the end of the run among them)."""
    lines = [event.line for event in run.events]
    after_answers = {next((n for n, at in enumerate(lines) if at > line), len(lines)) for line, _ in run.answers}
    others = random.Random(seed).sample(range(len(lines)), min(count, len(lines)))
    return [_point(run, index) for index in sorted(after_answers | set(others) | {len(lines)})]


def _point(run: Recording, index: int) -> CrashPoint:
    end = run.events[index].line if index < len(run.events) else sys.maxsize
    at = max((event.call.at for event in run.events[:index]), default=0.0)
    acknowledged = frozenset(uid for line, uid in run.answers if line < end)
    arrived = Counter((one.uid, one.digest, one.place) for when, one in run.arrivals if when <= at)
    return CrashPoint(index, at, acknowledged, arrived)


def replay(
    run: Recording, points: Sequence[CrashPoint], folder: Path, seed: str, *, picks: Sequence[str] = ("synced", "some"),
    ignored: Callable[[str], bool] = lambda _: False, restarts: int = 0, stop_at_fault: bool = False,
) -> Outcome:  # fmt: skip
    """Open what each crash point leaves, `picks` in turn, and restart a node at `restarts` of them."""
    outcome = Outcome(instances=len(run.sent), points=len(points))
    with_restart = set(random.Random(seed).sample(range(len(points)), min(restarts, len(points))))
    model, fed = Disk(run.root, ignored), 0
    for number, point in enumerate(points):
        for event in run.events[fed : point.index]:
            model.feed(event)
        fed = point.index
        outcome.acknowledged_at_points += len(point.acknowledged)
        for name in picks:
            pick = _pick(name, f"{seed}/{point.index}")
            with tempfile.TemporaryDirectory(dir=folder) as left:
                model.materialise(Path(left) / "disk", pick)
                faults = examine(run, point, Path(left) / "disk" / "spool")
                outcome.states += 1
                if number in with_restart and not faults:
                    faults = restart(run, point, Path(left))
                    outcome.restarts += 1
            outcome.faults += [f"event {point.index}, {name}: {fault}" for fault in faults]
            if outcome.faults and stop_at_fault:
                return outcome
    return outcome


def _pick(name: str, seed: str) -> Pick:
    return {"synced": disk.synced, "names": disk.names, "some": disk.some(seed), "everything": disk.everything}[name]


# -- examining -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An instance's row with what its deliveries are in."""

    id: str
    uid: str
    digest: str
    offset: int
    size: int
    state: str
    deliveries: dict[str, str]


def examine(run: Recording, point: CrashPoint, spool: Path) -> list[str]:
    """Let the product open the spool, then hold what is there against what was promised."""
    try:
        open_spool(SpoolSettings(path=spool, reserve=0)).close()
    except SpoolError as error:
        return [f"the spool does not open: {error}"]
    with closing(sqlite3.connect(f"file:{spool / 'node.db'}?mode=ro", uri=True)) as connection:
        integrity = connection.execute("PRAGMA integrity_check").fetchall()
        rows = list(_rows(connection))
    faults = [] if integrity == [("ok",)] else [f"not whole: {integrity[:3]}"]
    blobs = {path.stem: path for path in (spool / "blobs").glob("*/*")}
    known = {(row.uid, row.digest) for row in rows}
    unknown = [uid for uid in point.acknowledged if (uid, run.sent[uid].digest) not in known]
    faults += [
        f"delivered already, and forgotten: {uid}" if point.is_done(run, uid) else f"lost: {uid}" for uid in unknown
    ]
    for row in rows:
        faults += _broken(run, point, row, blobs.pop(row.id, None) if row.state != "gone" else None)
        faults += _done_too_early(run, point, row)
    return faults + [f"a file that nobody removes: {path.name}" for path in blobs.values()]


def _rows(connection: sqlite3.Connection) -> Iterator[Row]:
    query = "SELECT id, sop_instance, digest, offset, size, state FROM instance"
    for id_, uid, digest, offset, size, state in connection.execute(query).fetchall():
        deliveries = connection.execute("SELECT destination, state FROM delivery WHERE instance_id = ?", (id_,))
        yield Row(id_, uid, digest, offset, size, state, dict(deliveries.fetchall()))


def _broken(run: Recording, point: CrashPoint, row: Row, blob: Path | None) -> list[str]:
    """A row without its blob, or with another."""
    if row.state == "gone":
        return []
    if blob is None:
        return _without_blob(run, point, row)
    data = blob.read_bytes()[row.offset :]
    return [] if (len(data), xxh3_128_hexdigest(data)) == (row.size, row.digest) else [f"lost: bytes of {row.uid}"]


def _without_blob(run: Recording, point: CrashPoint, row: Row) -> list[str]:
    """Where the database cannot say first that a blob goes, the blobs of finished instances go before it does
    (`Retention.remove_files`): else a full disk would stay full. No delivery needs them. Nobody else may do that."""
    if not point.is_done(run, row.uid):
        return [f"lost: the blob of {row.uid}"]
    if run.failing and row.state == "finished":
        return []
    return [f"delivered already, and its blob is gone: {row.uid}"]


def _done_too_early(run: Recording, point: CrashPoint, row: Row) -> list[str]:
    """Deliveries that are called done, and destinations that have nothing; decisions that lack a destination."""
    done = {place for place, state in row.deliveries.items() if state == "done"}
    faults = [f"not at {one}: {row.uid}" for one in done if not point.arrived[row.uid, row.digest, one]]
    if row.state != "new" and set(row.deliveries) != run.sent[row.uid].expected:
        faults.append(f"owed elsewhere: {row.uid}")
    if row.state in ("finished", "gone") and done != run.sent[row.uid].expected:
        faults.append(f"finished, and not everywhere: {row.uid}")
    return faults


def restart(run: Recording, point: CrashPoint, folder: Path) -> list[str]:
    """Start a node on what is left: what was acknowledged arrives everywhere, and at most once more."""
    arrived = Counter(point.arrived)
    with Sinks() as sinks:
        node = node_on(folder, folder / "disk" / "spool", sinks.ports)
        with node.running():
            wait_for(lambda: settled(node, 0), 120, "every delivery to be done")
        with database(node) as connection:
            states = Counter(state for (state,) in connection.execute("SELECT state FROM delivery"))
        arrived.update((one.uid, one.digest, one.place) for one in sinks.arrivals)
    faults = [f"deliveries are {states}"] if set(states) - {"done"} else []
    for uid in point.acknowledged:
        one = run.sent[uid]
        faults += [f"lost on the way to {to}: {uid}" for to in one.expected if not arrived[uid, one.digest, to]]
    for (uid, digest, to), count in arrived.items():
        if count > 2:
            faults.append(f"{count} times at {to}: {uid}")
        if digest != run.sent[uid].digest or to not in run.sent[uid].expected:
            faults.append(f"wrong at {to}: {uid}")
    return faults


# -- seeing --------------------------------------------------------------------------------------------------------


def blind_to(run: Recording, kind: Callable[[str], bool], folder: Path, seed: str) -> list[str]:
    """The first faults that are found when every sync of a kind does nothing."""
    points = crash_points(run, 0, seed)
    return replay(run, points, folder, seed, picks=["synced"], ignored=kind, stop_at_fault=True).faults


def blind_once(run: Recording, kind: Callable[[str], bool], nth: int, folder: Path, seed: str) -> list[str]:
    """The first faults that are found at the next answers when the nth sync of a kind does nothing."""
    begins, _ = _syncs(run, kind)[nth]
    index = next(n for n, event in enumerate(run.events) if event.line > begins)
    points = [point for point in crash_points(run, 0, seed) if point.index > index][: 3 * SENDERS]
    counter = itertools.count()
    return replay(
        run, points, folder, seed, picks=["synced"], ignored=lambda path: kind(path) and next(counter) == nth,
        stop_at_fault=True,
    ).faults  # fmt: skip


def awaited(run: Recording, kind: Callable[[str], bool]) -> list[int]:
    """Which syncs of a kind an answer may have waited for: the last one before each."""
    ends = [end for _, end in _syncs(run, kind)]
    return sorted({sum(end < line for end in ends) - 1 for line, _ in run.answers} - {-1})


def _checkpoints(run: Recording) -> list[int]:
    """Which syncs of the database come between those of its making and of its end: SQLite then writes over the log."""
    return list(range(1, len(_syncs(run, KINDS["database"])) - 1))


def _syncs(run: Recording, kind: Callable[[str], bool]) -> list[tuple[int, int]]:
    """Where each sync of a kind begins and ends, in order of the begins."""
    return [
        (event.call.began, event.call.ended) for event in run.events
        if not event.ends and event.call.name in ("fsync", "fdatasync") and event.call.result == 0
        and kind(event.call.path)
    ]  # fmt: skip


def in_memory() -> str | None:
    """Where to put what is left of disks: thousands of them would wear a real one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.power_cut", description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=200, help="to send at least")
    parser.add_argument("--points", type=int, default=500, help="crash points by chance, beside one after each answer")
    parser.add_argument("--restarts", type=int, default=5, help="crash points at which a whole node is started")
    parser.add_argument("--once", type=int, default=20, help="single syncs of each kind to ignore, one at a time")
    parser.add_argument("--failing", action="store_true", help="the disk is full or fails for moments, too")
    parser.add_argument("--seed", default=str(time.time_ns()))
    parser.add_argument("--json", type=Path, help="where to write what was found")
    options = parser.parse_args(arguments)
    quiet()
    with tempfile.TemporaryDirectory(dir=in_memory()) as name:
        found = _run(Path(name), options)
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 1 if found["faults"] or not all(found["seen when all syncs of a kind do nothing"].values()) else 0


def _run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    run = record(folder, options.instances, options.seed, failing=options.failing)
    points = crash_points(run, options.points, options.seed)
    picks = ("synced", "names", "some", "everything")
    outcome = replay(run, points, folder, options.seed, picks=picks, restarts=options.restarts)
    done = [event.call for event in run.events if event.ends and event.call.result >= 0]
    return {
        "seed": options.seed,
        "acknowledged": len(run.sent),
        "refused": sum(one.tries - 1 for one in run.sent.values()),
        "calls": len(done),
        "syncs": {name: len(_syncs(run, kind)) for name, kind in KINDS.items()},
        "blobs removed": sum(call.name == "unlink" and call.strings[0].endswith(b".dcm") for call in done),
        "crash points": outcome.points,
        "states opened": outcome.states,
        "nodes restarted": outcome.restarts,
        "lost": sum("lost" in fault for fault in outcome.faults),
        "faults": outcome.faults,
        "seen when all syncs of a kind do nothing": {
            name: blind_to(run, kind, folder, options.seed)[:1] for name, kind in KINDS.items()
        },
        "seen when one sync does nothing": {
            name: _each_once(run, name, folder, options) for name in (*ONCE, "database")
        },
    }


def _each_once(run: Recording, name: str, folder: Path, options: argparse.Namespace) -> str:
    chosen = awaited(run, KINDS[name]) if name in ONCE else _checkpoints(run)
    chosen = random.Random(options.seed).sample(chosen, min(options.once, len(chosen)))
    seen = [bool(blind_once(run, KINDS[name], nth, folder, options.seed)) for nth in chosen]
    return f"{sum(seen)} of {len(seen)}"


if __name__ == "__main__":
    raise SystemExit(main())
