"""How often somebody may try to log in. Counted by name, by address, and by both; in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network

WINDOW = 900.0
"""Seconds in which tries are counted."""
MOST = {"name and address": 5, "address": 20, "name": 50}
"""Failed tries in that time. A name has the most: else anybody could lock its user out from another address. From an
address where the user logged in before, tries from elsewhere do not count: many addresses lock nobody out there."""
MOST_KEPT = 4096
"""Names and addresses that are counted at once; the one that tried longest ago is forgotten first."""

Key = tuple[str, str, str]
"""What is counted (of MOST), name, address."""


class Tries:
    """A try counts before its password is looked at, so that many at once are no more than one after another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[Key, tuple[float, float]] = OrderedDict()
        """The tries that still count, and when that was so (time.monotonic). They fade steadily."""
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Names and addresses that went together with the right password."""

    def wait(self, name: str, address: str) -> float:
        """0 if this try is allowed, which is then counted; else the seconds until one is."""
        now, keys = time.monotonic(), _keys(name, address)
        with self._lock:
            if (name, _subscriber(address)) in self._good:
                keys = tuple(key for key in keys if key[2])
            counts = [self._count(key, now) for key in keys]
            wait = max(
                (count + 1 - MOST[key[0]]) * WINDOW / MOST[key[0]] for key, count in zip(keys, counts, strict=True)
            )
            if wait > 0:
                return wait
            for key, count in zip(keys, counts, strict=True):
                self._put(key, count + 1, now)
        return 0.0

    def forgive(self, name: str, address: str) -> None:
        """The try was good. Name and address keep the counts of their other tries."""
        now = time.monotonic()
        with self._lock:
            for key in _keys(name, address):
                self._put(key, 0.0 if all(key) else max(0.0, self._count(key, now) - 1), now)

    def remember(self, name: str, address: str) -> None:
        """This user logged in from this address."""
        pair = name, _subscriber(address)
        with self._lock:
            self._good[pair] = None
            self._good.move_to_end(pair)
            while len(self._good) > MOST_KEPT:
                self._good.popitem(last=False)

    def __len__(self) -> int:
        return len(self._counts)

    def _count(self, key: Key, now: float) -> float:
        count, at = self._counts.get(key, (0.0, now))
        return max(0.0, count - (now - at) * MOST[key[0]] / WINDOW)

    def _put(self, key: Key, count: float, now: float) -> None:
        self._counts[key] = count, now
        self._counts.move_to_end(key)
        while len(self._counts) > MOST_KEPT:
            self._counts.popitem(last=False)


def _keys(name: str, address: str) -> tuple[Key, ...]:
    address = _subscriber(address)
    return ("name and address", name, address), ("address", "", address), ("name", name, "")


def _subscriber(address: str) -> str:
    """Of IPv6 a machine has a whole network of addresses."""
    try:
        found = ip_address(address)
    except ValueError:
        return "?"
    return str(ip_network((found, 64), strict=False)) if isinstance(found, IPv6Address) else str(found)
