"""Claims that end by themselves: on PostgreSQL others share the database, and one that dies must not hold on.

What this process claimed is renewed while it is held. A holder that stalls past its lease loses it: its token fences
it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa

from router.spool import schema, transactions
from router.spool.errors import SpoolError

Change = Callable[[sa.Connection, sa.Table, list[Any], list[int]], None]
Submit = Callable[[Callable[[sa.Connection], None]], Future[None]]


class Leases:
    """What this process holds, by table. `submit` is the writer's."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._held: dict[sa.Table, dict[int | str, int]] = {schema.instance: {}, schema.delivery: {}}
        self._changing = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="spool-leases", daemon=True)

    def start(self) -> None:
        """Renew from now on, in a thread, three times in each lease."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more, and let the writer give back what is still held, as the end of a start does on SQLite.

        This does not wait: a database that does not answer must not hold up the end. Then the claims end by
        themselves.
        """
        self._stopped.set()
        self._for_each(transactions.give_back)

    def hold(self, table: sa.Table, ids: Iterable[int | str], token: int) -> None:
        with self._changing:
            self._held[table].update(dict.fromkeys(ids, token))

    def let_go(self, table: sa.Table, which: int | str, token: int) -> None:
        with self._changing:
            if self._held[table].get(which) == token:
                del self._held[table][which]

    def renew(self) -> None:
        """Hold what is held for another lease. Raises SpoolError."""
        for done in self._for_each(transactions.renew):
            done.result()

    def _for_each(self, change: Change) -> list[Future[None]]:
        with self._changing:
            held = [(table, list(rows), list(rows.values())) for table, rows in self._held.items() if rows]
        return [self._submit(_job(change, table, ids, tokens)) for table, ids, tokens in held]

    def _go_on(self) -> None:
        while not self._stopped.wait(transactions.LEASE / 3):
            try:
                self.renew()
            except SpoolError:  # the next time, or the lease ends
                continue


def _job(change: Change, table: sa.Table, ids: list[Any], tokens: list[int]) -> Callable[[sa.Connection], None]:
    return lambda connection: change(connection, table, ids, tokens)
