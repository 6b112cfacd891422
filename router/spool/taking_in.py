"""Goes through the blobs when a node starts. `orphans` says what becomes of each."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from router.flow import Instance
from router.observe import log
from router.observe.metrics import TAKEN_IN_AGAIN
from router.spool import patience, queries, statements
from router.spool.blobs import FOLDERS, WHOLE, BlobStore
from router.spool.database import Database
from router.spool.events import add_event
from router.spool.notes import UnverifiedError
from router.spool.orphans import ID, REPLACEABLE, SET_ASIDE, Found, read_back, set_aside, whole_id
from router.spool.rows import columns_of
from router.spool.schema import BATCH, delivery, instance, parts
from router.spool.states import InstanceState

AT_ONCE = 5000
"""Files that one question is about. Nearly all of them are blobs of instances, about which nothing is to be done."""
LENGTH = 32 + len(WHOLE)
"""Characters of a whole blob's name."""
TELL_EVERY = 10.0
"""Seconds between lines of the log while many blobs are read."""


@dataclass(slots=True)
class TakingIn:
    """One pass over the blobs of a spool. The node must not receive meanwhile."""

    blobs: BlobStore
    database: Database
    taken_in: int = 0
    set_aside: int = 0
    _waiting: list[Instance] = field(default_factory=list)
    _told: float = field(default_factory=time.monotonic)

    def look_through(self, survey: Survey) -> None:
        """Make files and rows agree. Raises OSError, SpoolError."""
        for found in self._found(survey):
            if found.may_go:
                found.path.unlink(missing_ok=True)
            elif found.came_back:
                os.rename(found.path, found.path.with_suffix(WHOLE))
            elif found.is_orphan:
                self._take_in(found.path)
        self._commit()
        if self.taken_in or self.set_aside:
            log.warning("blobs without a row", taken_in_again=self.taken_in, set_aside=self.set_aside)
        if lost := self.database.run(_redecide_lost):
            log.warning("deliveries lost", decided_again=lost)

    def _found(self, survey: Survey) -> Iterator[Found]:
        """The files that are not simply the whole blob of an instance that needs it."""
        entries = self.blobs.entries(self._to_look_at(survey))
        while batch := list(itertools.islice(entries, AT_ONCE)):
            whole = [id_ for entry in batch if (id_ := whole_id(entry.name))]
            needed = set(whole) - self.database.ask(partial(queries.unneeded, ids=whole))
            yield from self._with_states([entry.path for entry in batch if whole_id(entry.name) not in needed])

    def _to_look_at(self, survey: Survey) -> list[str]:
        """The folders with odd files, or with other blobs than those of the rows."""
        unlike = set(survey.odd)
        if self.database.ask(queries.present, patience.LOOK) != survey.all:
            rows = self.database.ask(queries.present_by_folder, patience.LOOK)
            unlike.update(name for name in FOLDERS if survey.whole[name] != rows.get(name, (0, 0)))
        return sorted(unlike)

    def _with_states(self, paths: Sequence[str]) -> Iterator[Found]:
        for some in parts(paths):
            found = [Path(path) for path in some]
            ids = sorted({path.name.partition(".")[0] for path in found})
            known = self.database.ask(partial(queries.states, ids=[one for one in ids if ID.fullmatch(one)]))
            yield from (Found(path, known.get(path.name.partition(".")[0])) for path in found)

    def _take_in(self, path: Path) -> None:
        try:
            self._waiting.append(read_back(path))
        except UnverifiedError as error:
            self._set_aside(path, str(error))
        except OSError as error:
            self._set_aside(path, f"it cannot be read ({error.strerror})")
        if len(self._waiting) >= BATCH:
            self._commit()
        if time.monotonic() - self._told > TELL_EVERY:
            self._told = time.monotonic()
            log.info("reading blobs without a row", so_far=self.taken_in + len(self._waiting) + self.set_aside)

    def _set_aside(self, path: Path, reason: str) -> None:
        target = set_aside(path, self.blobs.root.parent / SET_ASIDE)
        self.set_aside += 1
        # A file from elsewhere may have any name.
        detail = {"file": target.name if ID.match(target.name) else "not named by the spool", "reason": reason}
        log.error("set aside", **detail)
        self.database.run(lambda c: add_event(c, "set aside", **detail))

    def _commit(self) -> None:
        found, self._waiting = self._waiting, []
        if found:
            self.database.run(lambda c: take_in_again(c, found))
            self.taken_in += len(found)
            TAKEN_IN_AGAIN.inc(len(found))


def take_in_again(connection: sa.Connection, found: Sequence[Instance]) -> None:
    """Make rows for blobs without one. Each is decided anew. Deliveries in an older database stay owed."""
    for one in found:
        connection.execute(statements.INSERT_INSTANCE, columns_of(one) | {"state": InstanceState.NEW})
        add_event(connection, "taken in again", one.id, caller_known=bool(one.caller.peer))


def _redecide_lost(connection: sa.Connection) -> int:
    """Decide anew each instance with fewer deliveries than its decision named: a damaged database lost them.

    Returns how many. Not for PostgreSQL, where the server takes care of its rows.
    """
    if connection.dialect.name != "sqlite":
        return 0
    there = sa.select(sa.func.count()).where(delivery.c.instance_id == instance.c.id).scalar_subquery()
    named = sa.case((sa.func.json_valid(instance.c.destinations) == 1,
                     sa.func.json_array_length(instance.c.destinations)), else_=0)  # fmt: skip
    is_decided = instance.c.state.in_((InstanceState.DECIDED, InstanceState.FINISHED))
    afresh = {"state": InstanceState.NEW, "ready_at": 0, "token": 0, "tries": 0, "finished_at": None}
    anew = instance.update().where(is_decided & (named > there)).values(**afresh)
    ids = list(connection.execute(anew.returning(instance.c.id)).scalars())
    for one in ids:
        add_event(connection, "deliveries lost, decided again", one)
    return len(ids)


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in the folders of blobs: the `whole` blobs of each, and the `odd` folders, with other files too.

    A folder whose fingerprint is that of the rows has their blobs and no others. So a start with a million of them asks
    about none by its id.
    """

    whole: dict[str, queries.Fingerprint]
    odd: frozenset[str]

    @property
    def all(self) -> queries.Fingerprint:
        return sum(number for number, _ in self.whole.values()), sum(total for _, total in self.whole.values())


def survey(blobs: BlobStore, *, remove_halves: bool = False) -> Survey:
    """Look through the folders.

    `remove_halves`: remove what was never whole or can be made again. That needs no database, but makes room for one
    on a full disk.
    """
    whole: dict[str, queries.Fingerprint] = {}
    odd: set[str] = set()
    for folder in FOLDERS:
        ids = []
        for entry in blobs.entries((folder,)):
            if len(entry.name) == LENGTH and entry.name.endswith(WHOLE):
                ids.append(entry.name[: -len(WHOLE)])
            elif remove_halves and entry.name.endswith(REPLACEABLE) and Found(path := Path(entry.path), None).may_go:
                path.unlink(missing_ok=True)
            else:
                odd.add(folder)
        whole[folder] = len(ids), sum(map(hash, ids))
    return Survey(whole, frozenset(odd))
