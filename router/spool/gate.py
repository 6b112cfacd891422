"""Remembers that an object store does not work, so that no caller waits for it in vain; and asks until it works again.

Two hundred associations that each waited eight seconds would be two hundred callers that hang. So after a failure
all callers are refused at once, and one small request at a time asks for all.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

from router.observe import log, where
from router.observe.metrics import STORE_DOWN, STORE_FAILURES
from router.spool.objects import StoreError

ASK_EVERY = 1.0
"""Seconds between requests while it does not work."""

RELAPSES = 2
"""Times that work failed, with no success between, after which a person is told though small requests work."""


class Gate:
    """One kind of work, `read`, `write` or `remove`. `ask` tries it in small, and raises StoreError. Thread-safe."""

    def __init__(self, kind: str, ask: Callable[[], Awaitable[object]]) -> None:
        self._kind, self._ask = kind, ask
        self._lock = threading.Lock()
        self._asking: asyncio.Task[None] | None = None
        self.why = ""
        """Why it does not work; empty while it does."""
        self._relapses, self._last = 0, ""

    @property
    def doubt(self) -> str:
        """Why real work fails again and again though the small request works: a store that is almost full, for
        instance. Empty if there is no such doubt."""
        return self._last if self._relapses >= RELAPSES else ""

    def worked(self) -> None:
        """Real work was done."""
        self._relapses = 0

    def check(self) -> None:
        """Raises StoreError while it does not work."""
        if why := self.why:
            raise StoreError(why)

    def failed(self, error: StoreError) -> None:
        """Called in the event loop."""
        STORE_FAILURES.labels(self._kind).inc()
        with self._lock:
            known, self.why = self.why, str(error)
        if not known:
            self._relapses, self._last = self._relapses + 1, str(error)
            STORE_DOWN.labels(self._kind).set(1)
            log.error("object store", does_not=self._kind, reason=str(error))
            self._asking = asyncio.ensure_future(self._until_it_works())

    async def _until_it_works(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(ASK_EVERY)
            try:
                await self._ask()
                break
            except StoreError as error:
                self.why = str(error)
            except Exception as error:  # without this, the store would count as failing for ever
                log.error("object store", does_not=self._kind, error=where(error))
        self.why = ""
        STORE_DOWN.labels(self._kind).set(0)
        log.info("object store again", does=self._kind, after_s=round(time.monotonic() - began, 1))
