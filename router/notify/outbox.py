"""What waits to be sent to one address: bounded, in memory, tried again after growing pauses, by its own thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from router.config.settings import DAY
from router.notify.ledger import Message
from router.notify.sending import SendError, masked
from router.observe import log
from router.observe.metrics import NOTIFICATIONS

MOST = 100
"""Messages that wait; the oldest makes way for one more."""
PAUSE, LONGEST_PAUSE = 5.0, 600.0
"""Seconds after the first failure, doubled after each."""
GIVE_UP_AFTER = DAY


class Outbox:
    """Sends one message after the other; no other address waits for it."""

    def __init__(self, address: str, send: Callable[[Message], None]) -> None:
        self.address = masked(address)
        self._send = send
        self._waiting: deque[Message] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="notify-out", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Never waits."""
        with self._changed:
            if len(self._waiting) >= MOST:
                self._waiting.popleft()
                NOTIFICATIONS.labels("dropped").inc()
                log.warning("notification lost", to=self.address, reason=f"more than {MOST} wait")
            self._waiting.append(message)
            self._changed.notify_all()

    def stop(self) -> None:
        """What waits is lost; a reminder follows where it still holds."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _run(self) -> None:
        pause = PAUSE
        while (message := self._next()) is not None:
            try:
                self._send(message)
            except SendError as error:
                late = time.time() - message.at > GIVE_UP_AFTER
                NOTIFICATIONS.labels("failed").inc()
                log.warning("notification failed", to=self.address, reason=str(error), again=not late)
                self._failed(message, 0.0 if late else pause, lost=late)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                pause = PAUSE
                self._done(message)
                NOTIFICATIONS.labels("sent").inc()
                log.info("notified", to=self.address, condition=message.condition, about=message.about,
                         state=message.event)  # fmt: skip

    def _next(self) -> Message | None:
        """The oldest message, once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            return None if self._stopped else self._waiting[0]

    def _done(self, message: Message) -> None:
        with self._changed:
            if self._waiting and self._waiting[0] is message:  # else it has made way meanwhile
                self._waiting.popleft()

    def _failed(self, message: Message, pause: float, *, lost: bool) -> None:
        if lost:
            self._done(message)
            NOTIFICATIONS.labels("dropped").inc()
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, pause)
