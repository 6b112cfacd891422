"""One node's spool: builds, starts and closes the parts, and offers each part by its name."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.flow import Instance
from router.observe import log
from router.spool import patience, postgresql, queries
from router.spool.blobs import BlobStore
from router.spool.bulk import Bulk
from router.spool.commitments import Commitments
from router.spool.database import Database
from router.spool.decisions import Decisions
from router.spool.deliveries import Deliveries
from router.spool.destinations import Destinations
from router.spool.errors import SpoolError
from router.spool.events import add_event
from router.spool.intake import Intake
from router.spool.nodes import Nodes
from router.spool.notices import Notices
from router.spool.object_orphans import Watched
from router.spool.orders import Orders
from router.spool.overview import Overview
from router.spool.remote_blobs import RemoteBlobs
from router.spool.results import Results
from router.spool.retention import Retention
from router.spool.rules import Rules
from router.spool.shared import Shared
from router.spool.shared_key import Keys
from router.spool.space import Space
from router.spool.sqlite_log import relieve
from router.spool.studies import Studies
from router.spool.taking_in import Survey, TakingIn, survey
from router.spool.usage import Usage
from router.spool.users import Users
from router.spool.views import Views


class Spool:
    """Open it with `open_spool` (to work) or `read_spool` (to look), in `opening`.

    `intake` is for receive, `decisions` for classify, `deliveries`, `destinations` and `space.for_copy` for forward,
    `commitments` for storage commitment, `orders`, `bulk`, `views`, `overview` and `rules` for people, `studies` for
    instances that follow their study, `results` for what answers deliveries, `space` and `retention` for the sweeper,
    `notices` for notify, `users` for the page, `nodes` and `shared` for several nodes (PostgreSQL).
    """

    def __init__(self, settings: SpoolSettings, blobs: BlobStore, read: sa.Engine) -> None:
        self.settings = settings
        self.database = Database(settings, read)
        self._keys = Keys(self.database, settings.path)
        self.signals = self.database.signals
        self._blobs = blobs
        self._usage = Usage()
        self._orphans = Watched(blobs, self.database.ask) if isinstance(blobs, RemoteBlobs) else None
        self.retention = Retention(settings, self.database, blobs, self._usage)
        self.space = Space(settings, self.database, blobs, self._usage, self.retention)
        self.intake = Intake(self.database, blobs, self._usage, self.space)
        self.decisions = Decisions(self.database, blobs)
        self.deliveries = Deliveries(self.database, blobs)
        self.destinations = Destinations(self.database)
        self.commitments = Commitments(self.database)
        self.orders = Orders(self.database, self.retention)
        self.studies = Studies(self.database)
        self.results = Results(self.database)
        self.bulk = Bulk(self.database, self._keys.key)
        self.notices = Notices(self.database)
        self.views = Views(settings, self.database, self._usage, self._keys.key)
        self.users = Users(self.database)
        self.overview = Overview(self.database)
        self.rules = Rules(self.database)
        self.nodes = Nodes(self.database)
        self.shared = Shared(self.database)

    def start_working(self, write: sa.Engine, lock: IO[str], there: Survey | None) -> None:
        """Become the node that works on this spool, or on PostgreSQL one of several nodes.

        `there`: the blobs in the folder, if no other node works on it.
        """
        alone = there is not None
        relieve(write, self.settings.path, self.space.database_is_full)
        self.database.begin_writing(write, lock)
        try:
            self.database.number_start(alone=alone)
        except SpoolError:
            if not self.database.is_sqlite:
                raise
            self.retention.remove_files()
            self.database.number_start(alone=alone)
        for words in self.database.ask(lambda c: list(postgresql.dangers(c))):
            log.warning("database", about=words)
        self.decisions.key = self.intake.key = self._keys.made()
        if there is not None:
            self.take_in_orphans(there)
        self._usage.recount(self.database.ask(queries.bytes_of_blobs))
        self.space.ballast.lay()
        if not self.database.is_sqlite:
            self.database.work_with_others(on_answer=self.intake.uncertain.settle)

    @property
    def start_among_others(self) -> int | None:
        """The number of this node's start among those of all nodes; None: it is the only one (SQLite)."""
        return None if self.database.is_sqlite else self.database.start

    def take_in_orphans(self, there: Survey | None = None) -> None:
        """Make blobs and rows agree after a crash, or after an older database was put back. Only before the node
        receives. Raises OSError, SpoolError."""
        TakingIn(self._blobs, self.database).look_through(there or survey(self._blobs))

    def blob(self, instance_id: str) -> Path:
        """Where an instance's blob is, if it is here. `local` brings it."""
        return self._blobs.path(instance_id)

    def local(self, instance: Instance) -> AbstractContextManager[Path]:
        """Its blob's path, for as long as it is used. Only the spool knows whether the bytes lie here or in an object
        store. Nothing lies there if the blob has gone. Raises SpoolError; StoreError if it may come later."""
        return self._blobs.local(instance)

    def bring(self, instance: Instance) -> Future[bool]:
        """The same without waiting: done when the blob lies at its path. If true, call `let_go` in the end."""
        return self._blobs.bring(instance)

    def let_go(self, instance: Instance) -> None:
        self._blobs.let_go(instance.id)

    def bring_again(self, instance: Instance) -> bool:
        """What lies at its path is wrong. False: there is no other copy. Raises as `local`."""
        return self._blobs.bring_again(instance)

    @property
    def orphans(self) -> int | None:
        """How many objects without a row were counted last; None before, and without an object store."""
        last = self._orphans.last if self._orphans else None
        return last.count if last else None

    @property
    def trouble_with_blobs(self) -> str:
        """Why the object store does not work; empty while it does, or if there is none. Never waits."""
        return self._blobs.trouble

    @property
    def doubt_about_blobs(self) -> str:
        """Why the object store keeps no instance though it answers; empty if it does. Never waits."""
        return self._blobs.doubt

    def event(self, kind: str, instance_id: str | None = None, destination: str | None = None, **detail: Any) -> None:
        """Append to the record of who did what when. `detail` must not have a patient or study value."""
        self.database.writer.submit(lambda c: add_event(c, kind, instance_id, destination, **detail))

    def tidy_up(self) -> None:
        """Make the ballast again, and ask again what became of failed commits.

        On PostgreSQL, where others add and remove blobs, also count what is there.
        """
        self.intake.failed.ask_again()
        self._blobs.tidy_up()
        if self._orphans:
            self._orphans.drop_expired()
            self._orphans.look_if_due()
        self.space.ballast.lay()
        if not self.database.is_sqlite:
            # With millions of blobs it takes longer than other questions may, and no caller waits for the answer.
            self._usage.recount(self.database.ask(queries.bytes_of_blobs, patience.LOOK))
            self._usage.forget_copies([one for one in self._usage.with_copies() if not self.blob(one).exists()])

    def close(self, seconds: float | None = None) -> bool:
        """Finish what waits for the writer, then unlock the folder. Returns False if the database took too long.

        Then both end with the process, and the next start frees the claims.
        """
        if self._orphans:
            self._orphans.stop()
        closed = self.database.close(seconds)
        self._blobs.close()
        return closed
