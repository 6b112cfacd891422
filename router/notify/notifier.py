"""The thread that looks every half minute, and puts what people must be told into the outboxes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from router.config import Settings
from router.notify.conditions import troubles
from router.notify.ledger import Message, holding, settle
from router.notify.look import Looker, NodeSeen
from router.notify.outbox import Outbox
from router.notify.sending import send
from router.observe import log, where
from router.spool import SpoolError
from router.spool.notices import Notice, Notices

LOOK_EVERY = 30.0
"""Seconds."""


class Notifier:
    """Looks until it is stopped. Where `notify.to` names no address, it does nothing."""

    def __init__(self, node: NodeSeen, notices: Notices, settings: Callable[[], Settings]) -> None:
        self._looker, self._notices, self._settings = Looker(node), notices, settings
        self._origin = socket.gethostname()
        self._boxes: dict[str, Outbox] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, _deadline: float = 0.0) -> None:
        """Ends soon, and is not waited for: what it waits for may be a disk or a network."""
        self._stopped.set()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.turn()
            except SpoolError as error:
                if not self._stopped.is_set():  # else the spool is closed
                    log.error("spool", stage="notify", reason=str(error))
            except Exception as error:  # else no one would be told of anything any more
                log.error("notify failed", error=where(error))
            self._stopped.wait(LOOK_EVERY)
        for box in self._boxes.values():
            box.stop()

    def turn(self) -> None:
        """Look once, and tell what is to be told. Raises SpoolError, OSError."""
        settings = self._settings()
        self._set_up(settings)
        if not self._boxes:
            return
        seen = self._looker.look(settings)
        found = list(troubles(settings.notify, seen))

        def decide(
            notices: Sequence[Notice], silences: Mapping[str, float], now: float
        ) -> tuple[Sequence[Notice], list[Message]]:
            held = holding(settings.notify.quiet, silences, now)
            return settle(notices, found, self._origin, now, settings.notify.remind, held)

        for message in self._notices.exchange(self._origin, decide):
            for box in self._boxes.values():
                box.put(message)

    def _set_up(self, settings: Settings) -> None:
        """An outbox for each address; those of addresses that are gone end."""
        for address in self._boxes.keys() - set(settings.notify.to):
            self._boxes.pop(address).stop()
        for address in settings.notify.to:
            if address not in self._boxes:
                self._boxes[address] = Outbox(address, partial(_send, address, self._settings))


def _send(address: str, settings: Callable[[], Settings], message: Message) -> None:
    send(address, message, settings().node.ae_title)
