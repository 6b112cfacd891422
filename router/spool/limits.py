"""How long the database may take, from the client's side.

A server that is stopped (SIGSTOP, a stalled disk below it) still acknowledges what it is sent: its kernel does. No
timer of TCP and none of the server's own notices. So each operation has a deadline, and the waits of its thread obey.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUESTION = 5.0
"""Seconds for a question of the running node."""
CHANGES = 10.0
"""Seconds for the changes of one commit; also how long a change may wait for its turn."""
STATEMENT, LOCK = 8.0, 3.0
"""Seconds after which the server itself ends a statement of the writer, and its wait for a lock."""
CONNECT = 3.0
"""Seconds to open a connection; the driver takes two at least."""
LOOK = 60.0
"""Seconds for a question of a command, which nobody else waits for, and for those at the start of a node."""
MIGRATION = 3600.0
"""Seconds for one statement that makes a new index on everything there is."""


class _Own(threading.local):
    deadline = float("inf")


_own = _Own()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What this thread does inside ends after so many seconds, or when an outer limit says so."""
    before = _own.deadline
    _own.deadline = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _own.deadline = before


def deadline() -> float:
    """When (time.monotonic) what this thread does must have ended; what has no limit of its own gets `LOOK`."""
    return min(_own.deadline, time.monotonic() + LOOK) if _own.deadline == float("inf") else _own.deadline


def left() -> float:
    """Seconds that this thread has left."""
    return deadline() - time.monotonic()
