"""Time limits for the database, on the client's side.

The kernel of a stopped server (SIGSTOP, a stalled disk) still acknowledges packets, so neither TCP nor the server's own
timers notice it. So each operation has a deadline, and every wait of its thread obeys it.
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
"""Seconds for a question of a command, and for questions at the start of a node."""
MIGRATION = 3600.0
"""Seconds for one statement of a migration, such as a new index on all rows."""


class _Own(threading.local):
    deadline = float("inf")


_own = _Own()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Operations of this thread inside the block end after this many seconds, or at an outer limit."""
    before = _own.deadline
    _own.deadline = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _own.deadline = before


def deadline() -> float:
    """When (time.monotonic) this thread's operation must have ended; without a limit of its own it gets LOOK."""
    return min(_own.deadline, time.monotonic() + LOOK) if _own.deadline == float("inf") else _own.deadline


def left() -> float:
    """Seconds that this thread has left."""
    return deadline() - time.monotonic()
