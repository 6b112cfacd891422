"""Claims that end by themselves. On PostgreSQL several nodes share a database, and one that dies must free its claims.

A process renews its claims until they end. If it stalls for longer than a lease, it loses its claims: another process
has them by then, under another token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial

import sqlalchemy as sa

from router.observe import log, where
from router.spool import claims, schema
from router.spool.errors import SpoolError

Change = Callable[..., None]
"""`claims.renew` or `claims.give_back`."""
Submit = Callable[[Callable[[sa.Connection], None]], Future[None]]


class Leases:
    """The claims that this process holds, by table. `submit` is the writer's."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._claims: dict[sa.Table, dict[int | str, int]] = {schema.instance: {}, schema.delivery: {}}
        self._changing = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="spool-leases", daemon=True)

    def start(self) -> None:
        """Renew from now on in a thread, three times in each lease."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more, and let the writer give back the claims that are still held.

        This does not wait, because a silent database must not delay the end. Then the claims end by themselves.
        """
        self._stopped.set()
        self._for_each(claims.give_back)

    def hold(self, table: sa.Table, ids: Iterable[int | str], token: int) -> None:
        with self._changing:
            self._claims[table].update(dict.fromkeys(ids, token))

    def let_go(self, table: sa.Table, which: int | str, token: int) -> None:
        with self._changing:
            if self._claims[table].get(which) == token:
                del self._claims[table][which]

    def renew(self) -> None:
        """Renew the held claims. Raises SpoolError."""
        for done in self._for_each(claims.renew):
            done.result()

    def _for_each(self, change: Change) -> list[Future[None]]:
        with self._changing:
            held = [(table, part) for table, rows in self._claims.items() for part in schema.parts(list(rows.items()))]
        return [self._submit(partial(_of, change, table, dict(part))) for table, part in held]

    def _go_on(self) -> None:
        while not self._stopped.wait(claims.LEASE / 3):
            try:
                self.renew()
            except SpoolError:  # the next time, or the lease ends
                continue
            except Exception as error:  # without this, all claims would end again and again while they are worked on
                log.error("spool", stage="leases", reason=where(error))


def _of(change: Change, table: sa.Table, held: dict[int | str, int], connection: sa.Connection) -> None:
    change(connection, table=table, ids=list(held), tokens=list(held.values()))
