"""Looks at a node, through what it shows and what the spool knows; nothing here changes anything."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from router.config import Settings
from router.config.settings import DAY, HOUR
from router.notify.conditions import Seen
from router.observe.metrics import AGREEMENT
from router.spool import Counts, DestinationState


class NodeSeen(Protocol):
    """What is looked at."""

    def counts(self) -> Counts: ...

    def destination_states(self) -> Mapping[str, DestinationState]: ...

    def last_from(self, callers: list[str]) -> Mapping[str, float]: ...

    def received_bytes(self, seconds: float) -> int: ...

    def certificates(self) -> Mapping[str, float]: ...

    def is_ready(self) -> bool:
        """Whether the model answers."""
        ...


class Looker:
    """Looks, and remembers since when the model is not ready, and the agreement of a day."""

    def __init__(self, node: NodeSeen) -> None:
        self._node = node
        self._begun = time.time()
        self._ready_at = time.monotonic()
        self._counted: deque[tuple[float, int, int]] = deque([(time.monotonic(), *AGREEMENT.counts())])

    def look(self, settings: Settings) -> Seen:
        """Raises SpoolError, OSError."""
        wanted, now, steady = settings.notify, time.time(), time.monotonic()
        if self._node.is_ready():
            self._ready_at = steady
        counts = self._node.counts()
        known = self._node.last_from(list(wanted.silent)) if wanted.silent else {}
        room, full_in = self._room(settings, counts)
        agreed, contradicted = self._agreement(steady)
        return Seen(
            now=now,
            buried=counts.buried,
            missing=counts.missing,
            circuits={
                name: one.still_since
                for name, one in self._node.destination_states().items()
                if one.circuit_until and one.still_since and not one.paused and not one.closed_until
            },
            waiting=counts.open,
            last_from={name: known.get(name, self._begun) for name in wanted.silent},
            room=room,
            full_in=full_in,
            certificates=self._node.certificates() if wanted.certificate is not None else {},
            inference_down=steady - self._ready_at,
            agreed=agreed,
            contradicted=contradicted,
        )

    def _room(self, settings: Settings, counts: Counts) -> tuple[int, float | None]:
        disk = os.statvfs(settings.spool.path)
        room = settings.spool.left(counts.bytes, disk.f_bavail * disk.f_frsize)
        came = self._node.received_bytes(HOUR) if settings.notify.disk is not None else 0
        return room, room / came * HOUR if came else None

    def _agreement(self, now: float) -> tuple[int, int]:
        """Images of the last day whose header agreed with the pixels, and those whose header did not."""
        agreed, contradicted = AGREEMENT.counts()
        if now - self._counted[-1][0] >= HOUR / 4:
            self._counted.append((now, agreed, contradicted))
        while len(self._counted) > 1 and self._counted[1][0] <= now - DAY:
            self._counted.popleft()
        _, before, before_contradicted = self._counted[0]
        return agreed - before, contradicted - before_contradicted
