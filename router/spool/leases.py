"""Claims that end by themselves: on PostgreSQL others share the database, and one that dies must not hold on.

What this process claimed is renewed while it is held. A holder that stalls past its lease loses it: its token fences
it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from router.spool import schema, transactions
from router.spool.errors import SpoolError

Change = Callable[[sa.Connection, sa.Table, list[Any], list[int]], None]
Run = Callable[[Callable[[sa.Connection], None]], Any]


class Leases:
    """What this process holds, by table. `run` is the writer's."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._held: dict[sa.Table, dict[int | str, int]] = {schema.instance: {}, schema.delivery: {}}
        self._changing = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="spool-leases", daemon=True)

    def start(self) -> None:
        """Renew from now on, in a thread, three times in each lease."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more, and give back what is still held, as the end of a start does on SQLite."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._for_each(transactions.give_back)
        except SpoolError:  # then it ends by itself
            pass

    def hold(self, table: sa.Table, ids: Iterable[int | str], token: int) -> None:
        with self._changing:
            self._held[table].update(dict.fromkeys(ids, token))

    def let_go(self, table: sa.Table, which: int | str, token: int) -> None:
        with self._changing:
            if self._held[table].get(which) == token:
                del self._held[table][which]

    def renew(self) -> None:
        """Hold what is held for another lease. Raises SpoolError."""
        self._for_each(transactions.renew)

    def _for_each(self, change: Change) -> None:
        with self._changing:
            held = [(table, list(rows), list(rows.values())) for table, rows in self._held.items() if rows]
        for table, ids, tokens in held:
            self._run(_job(change, table, ids, tokens))

    def _go_on(self) -> None:
        while not self._stopped.wait(transactions.LEASE / 3):
            try:
                self.renew()
            except SpoolError:  # the next time, or the lease ends
                continue


def _job(change: Change, table: sa.Table, ids: list[Any], tokens: list[int]) -> Callable[[sa.Connection], None]:
    return lambda connection: change(connection, table, ids, tokens)
