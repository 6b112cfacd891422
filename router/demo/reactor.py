"""A mend for pynetdicom 3.0: its reactor may take the answer for which `send_c_store` and the like wait.

`send_*` clears the reactor's checkpoint and goes on once `_is_paused` is true. The reactor sets that just before it
looks at the checkpoint, so that it may run on, and take the answer for a request. The sender then waits in vain. And if
the association ends just before, the reactor never pauses, and `release` and `send_*` wait for it without an end.
"""

from __future__ import annotations

import threading
import time
from functools import wraps
from typing import Any

from pynetdicom.association import Association

LONGEST_PAUSE = 1.0
"""Seconds that a sender waits for the reactor: one that waits for the sender itself would never pause."""


class Checkpoint(threading.Event):
    """A reactor's checkpoint. `clear` returns when the reactor waits at it, or has ended."""

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association

    def clear(self) -> None:
        super().clear()
        until = time.monotonic() + LONGEST_PAUSE
        while self._is_awaited() and time.monotonic() < until:
            time.sleep(0.0002)
        if not self._association.is_alive() or self._association._kill:
            self._association._is_paused = True

    def _is_awaited(self) -> bool:
        reactor = self._association
        if threading.current_thread() is reactor or not reactor.is_alive() or reactor._kill:
            return False
        condition: Any = self._cond  # type: ignore[attr-defined]
        return not condition._waiters


def mend() -> None:
    """Every association that is made from now on has such a checkpoint. A second call changes nothing."""
    plain = Association.__init__
    if hasattr(plain, "__wrapped__"):
        return

    @wraps(plain)
    def mended(self: Association, *args: Any, **options: Any) -> None:
        plain(self, *args, **options)
        self._reactor_checkpoint = Checkpoint(self)
        self._reactor_checkpoint.set()

    Association.__init__ = mended  # type: ignore[method-assign]
