"""Objects without a row: what a receiver leaves that is killed between store and row, or a database older than its
bucket. The first kind was not acknowledged, but the node cannot tell the two apart. So it removes none, and a person
decides whether they get rows.

An object whose row says that its blob has gone is none: its removal has failed, and is made up for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.flow import Instance
from router.observe import log, where
from router.observe.metrics import ORPHANS, TAKEN_IN_AGAIN
from router.spool import engine, queries
from router.spool.errors import SpoolError, is_of_database
from router.spool.notes import UnverifiedError
from router.spool.orphans import ID, read_back
from router.spool.remote_blobs import RemoteBlobs, id_of, key_of
from router.spool.schema import instance, parts
from router.spool.states import InstanceState
from router.spool.taking_in import take_in_again

YOUNG = 3600.0
"""Seconds. The row of a younger object may still come: a commit that got no answer can happen minutes later."""
LOOK_EVERY = 6 * 3600.0
STOP_WITHIN = 1.0
MOST_NAMED = 10_000
ROWS_AT_ONCE = 5000

Ask = Callable[[Callable[[sa.Connection], Any]], Any]


@dataclass(frozen=True, slots=True)
class Orphan:
    """An object without a row. `at`: Unix seconds, by the store's clock."""

    instance_id: str
    size: int
    at: float


@dataclass(slots=True)
class Looked:
    """What one pass over the objects has found. `orphans` and `missing` name at most MOST_NAMED."""

    objects: int = 0
    count: int = 0
    orphans: tuple[Orphan, ...] = ()
    leftovers: int = 0
    """Objects whose rows say that they have gone; they are removed."""
    foreign: int = 0
    """Objects with a name that the spool does not give."""
    missing: tuple[str, ...] = ()
    """Instances that need their blob and have no object."""


def look_through(blobs: RemoteBlobs, ask: Ask, *, young: float = YOUNG, also_rows: bool = False) -> Looked:
    """Compare objects with rows. Raises SpoolError."""
    found, orphans, ids = Looked(), list[Orphan](), set[str]()
    for page in blobs.pages():
        found.objects += len(page)
        named = {id_of(key): (size, at) for key, size, at in page if _is_ours(key)}
        found.foreign += len(page) - len(named)
        states: dict[str, InstanceState] = {}
        for part in parts(sorted(named)):
            states |= ask(partial(queries.states, ids=part))
        gone = [one for one in named if states.get(one) is InstanceState.GONE]
        found.leftovers += len(gone)
        blobs.remove_many(gone)
        for one, (size, at) in named.items():
            if one not in states and time.time() - at >= young:
                found.count += 1
                if len(orphans) < MOST_NAMED:
                    orphans.append(Orphan(one, size, at))
        if also_rows:
            ids |= named.keys()
    found.orphans = tuple(orphans)
    if also_rows:
        found.missing = tuple(one for one in _needed(ask) if one not in ids)[:MOST_NAMED]
    return found


def _is_ours(key: str) -> bool:
    return bool(ID.fullmatch(id_of(key))) and key == key_of(id_of(key))


def _needed(ask: Ask) -> Iterator[str]:
    """The instances that have open work. What arrived after the objects were listed is not looked at."""
    until, after = f"{time.time_ns() - int(YOUNG * 1e9):016x}", ""
    while True:
        query = (
            sa.select(instance.c.id)
            .where(instance.c.state.in_((InstanceState.NEW, InstanceState.DECIDED)))
            .where(instance.c.id > after, instance.c.id < until)
            .order_by(instance.c.id)
            .limit(ROWS_AT_ONCE)
        )
        page = ask(partial(_ids, query=query))
        yield from page
        if len(page) < ROWS_AT_ONCE:
            return
        after = page[-1]


def _ids(connection: sa.Connection, query: sa.Select[Any]) -> list[str]:
    return list(connection.execute(query).scalars())


class Watched:
    """Counts the orphans of a running node from time to time, in a thread of its own: there may be millions."""

    def __init__(self, blobs: RemoteBlobs, ask: Ask) -> None:
        self._blobs, self._ask_database = blobs, ask
        self._due = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.last: Looked | None = None

    def look_if_due(self) -> None:
        looks = self._thread is not None and self._thread.is_alive()
        if time.monotonic() >= self._due and not looks and not self._blobs.trouble:
            self._due = time.monotonic() + LOOK_EVERY
            self._thread = threading.Thread(target=self._look, name="orphans", daemon=True)
            self._thread.start()

    def drop_expired(self) -> None:
        """Images stay in no cache beyond their time. A row that is not there may still come. Raises SpoolError."""
        before = f"{time.time_ns() - int(YOUNG * 1e9):016x}"

        def expired(ids: Sequence[str]) -> list[str]:
            states = self._ask(partial(queries.states, ids=ids))
            return [one for one in ids if (states[one] == InstanceState.GONE if one in states else one < before)]

        self._blobs.drop_expired(expired)

    def stop(self) -> None:
        """Ask the database no more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_WITHIN)

    def _ask(self, question: Callable[[sa.Connection], Any]) -> Any:
        if self._stopping.is_set():
            raise SpoolError("the node stops")
        return self._ask_database(question)

    def _look(self) -> None:
        try:
            found = self.last = look_through(self._blobs, self._ask)
        except SpoolError as error:
            log.warning("orphans not counted", reason=str(error))
        except Exception as error:  # a thread that ends in silence would look like no orphans
            log.error("orphans not counted", error=where(error))
        else:
            ORPHANS.set(found.count)
            if found.count or found.leftovers:
                log.warning("objects without a row", count=found.count, removed_late=found.leftovers)


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of the orphans that a person wants to have rows. `refused`: each with the reason."""

    taken_in: tuple[str, ...]
    refused: dict[str, str]


def _has_now_a_row(write: sa.Engine, new: Instance) -> bool:
    """Give it a row. False if it has one, also from a command elsewhere that took it in at the same time."""
    try:
        with write.begin() as connection:
            if queries.existing(connection, [new.id]):
                return False
            take_in_again(connection, [new])
    except sa.exc.IntegrityError:
        with write.begin() as connection:
            if queries.existing(connection, [new.id]):
                return False
        raise
    return True


def take_in(settings: SpoolSettings, blobs: RemoteBlobs, orphans: tuple[Orphan, ...]) -> TakenIn:
    """Give orphans rows, by the notes in their headers. A node may run meanwhile. Raises SpoolError, OSError."""
    write = engine.writing(settings.path, settings.database)
    taken_in, refused = list[str](), dict[str, str]()
    try:
        for one in orphans:
            try:
                new = _read(settings.path, blobs, one)
            except UnverifiedError as error:
                refused[one.instance_id] = str(error)
                continue
            if _has_now_a_row(write, new):
                taken_in.append(new.id)
                TAKEN_IN_AGAIN.inc()
    except Exception as error:
        if not is_of_database(error):
            raise
        raise engine.trouble(write, error) from error
    finally:
        write.dispose()
    return TakenIn(tuple(taken_in), refused)


def _read(folder: Path, blobs: RemoteBlobs, one: Orphan) -> Instance:
    with TemporaryDirectory(dir=folder, prefix="taking-in-") as temporary:
        path = Path(temporary) / one.instance_id[-2:] / f"{one.instance_id}.dcm"
        path.parent.mkdir()
        blobs.copy_to(one.instance_id, one.size, path)
        return read_back(path)
