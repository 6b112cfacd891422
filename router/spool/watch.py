"""Watches PostgreSQL: hears from other processes when there is work (NOTIFY), and sees whether the server answers."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import wait
from typing import Any

import sqlalchemy as sa

from router.observe import log, where
from router.spool import patience, postgresql
from router.spool.errors import is_of_database
from router.spool.signals import Signals

CHANNEL = "dicom_router"
"""The channel, one for each database. The payload is the number of the sender's start and a topic."""
PULSE = 1.5
"""Seconds between two checks whether the server answers."""
PULSE_ANSWER = 2.5
"""Seconds for the answer. Both together must stay below the five seconds in which health notices a failure."""
SILENT_AFTER = 1.5 * PULSE + 0.75
"""Seconds after its last answer for which a server counts as one that answers: a check may be one and a half pulses
after the one before."""
AGAIN_AFTER = 1.0
POLL, POLL_DEAF = (4.0, 6.0), (1.0, 2.0)
"""Seconds after which a waiting thread looks for work by itself: while notifications come, and while they cannot."""

_END = "SELECT txid_current_if_assigned(), (SELECT count(pg_notify(%s, t)) FROM unnest(%s::text[]) t)"


def before_commit(start: Callable[[], int]) -> Callable[[sa.Connection, set[str]], int | None]:
    """The last statement of each transaction: asks for its number, and notifies the other processes of new work."""

    def end(connection: sa.Connection, topics: set[str]) -> int | None:
        driver: Any = connection.connection.driver_connection
        said = [f"{start()}:{topic}" for topic in sorted(topics)]
        number = driver.execute(_END, (CHANNEL, said)).fetchone()[0]
        return None if number is None else int(number)

    return end


class Watch:
    """A thread with a connection of its own, which reconnects until it succeeds."""

    def __init__(self, engine: sa.Engine, start: int, signals: Signals, then: Callable[[], None]) -> None:
        """`then` is called after every answer of the server, in this thread."""
        self._engine, self._own, self._signals, self._then = engine, f"{start}:", signals, then
        self._answered = time.monotonic()
        self._hears = False
        self._stopped = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="spool-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        self._stopped.set()
        self._wake.close()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def hears(self) -> bool:
        """Whether notifications of other processes can arrive."""
        return self._hears

    def answers(self, within: float) -> bool:
        """Whether the server answered within the last `within` seconds."""
        return time.monotonic() - self._answered < within

    def longest_wait(self) -> float:
        """Seconds after which to look for work without a notification. Random, so that not all look at once."""
        return random.uniform(*(POLL if self._hears else POLL_DEAF))  # noqa: S311 - jitter

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with patience.within(patience.QUESTION):
                    _, chosen = self._engine.dialect.create_connect_args(self._engine.url)
                    connection = postgresql.connect({**chosen, "autocommit": True})
                with closing(connection):
                    self._listen(connection)
            except Exception as error:
                if not is_of_database(error):  # a bug of this program, which nothing else would show
                    log.error("watch failed", error=where(error))
            self._hears = False
            self._stopped.wait(AGAIN_AFTER)
        self._woken.close()

    def _listen(self, connection: Any) -> None:
        with patience.within(patience.QUESTION):
            connection.execute(f"LISTEN {CHANNEL}")
        self._signals.set_all_of_others()  # notifications sent meanwhile were missed
        self._hears = True
        while not self._stopped.is_set():
            # Not by the driver's own wait, which wakes ten times a second.
            wait([connection, self._woken], PULSE)
            with patience.within(PULSE_ANSWER):
                for one in connection.notifies(timeout=0):
                    self._hear(one.payload)
                if time.monotonic() - self._answered > PULSE / 2:
                    connection.execute("SELECT 1")
                    self._answered = time.monotonic()
            self._then()

    def _hear(self, payload: str) -> None:
        topic = payload.partition(":")[2]
        if topic and not payload.startswith(self._own):
            self._signals.set(topic)
