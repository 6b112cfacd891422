"""The one `Sender` that a worker keeps open while there is work for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from router.config.settings import DestinationSettings
from router.forward.sender import Sender
from router.forward.senders import open_sender


class Pool:
    """For one thread. `hold` is called for each `Sender` that is opened (1) or ended (-1)."""

    def __init__(self, hold: Callable[[int], None]) -> None:
        self._sender: Sender | None = None
        self._made_for: tuple[DestinationSettings, str] | None = None
        self._hold = hold

    @property
    def is_open(self) -> bool:
        return self._sender is not None

    @property
    def idle_since(self) -> float:
        return self._sender.idle_since if self._sender else 0.0

    def get(self, destination: DestinationSettings, calling_ae: str, wanted: Sequence[tuple[str, str]]) -> Sender:
        """A `Sender` by the present settings, on which all of `wanted` was proposed. Raises ConnectError."""
        current = self._sender
        if current is not None and (self._made_for != (destination, calling_ae) or not current.serves(wanted)):
            self.release()
        if self._sender is None:
            self._sender = open_sender(destination, calling_ae, wanted)
            self._made_for = (destination, calling_ae)
            self._hold(1)
        return self._sender

    def release(self) -> None:
        if sender := self._take():
            sender.release()

    def abort(self) -> None:
        if sender := self._take():
            sender.abort()

    def _take(self) -> Sender | None:
        taken, self._sender = self._sender, None
        if taken is not None:
            self._hold(-1)
        return taken
