"""Turns for callers: in rounds over peers, and within a peer in rounds over calling AE titles."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Calling = tuple[str, str]
"""Calling AE title and peer."""


class FairQueue(Generic[T]):
    """Items that wait, by caller. Those of one caller stay in order of arrival. Not thread-safe."""

    def __init__(self) -> None:
        self._peers: dict[str, dict[str, deque[T]]] = {}
        """In the order of the next round: a served one goes to the end."""

    def put(self, caller: Calling, item: T) -> None:
        calling_ae, peer = caller
        self._peers.setdefault(peer, {}).setdefault(calling_ae, deque()).append(item)

    def take(self, may: Callable[[T], bool] = lambda _: True) -> T | None:
        """Take the next item. A caller whose first item may not be taken now is skipped."""
        for peer, titles in self._peers.items():
            for calling_ae, items in titles.items():
                if may(items[0]):
                    del self._peers[peer], titles[calling_ae]
                    item = items.popleft()
                    # The caller, and its address, go to the end of the line.
                    if items:
                        titles[calling_ae] = items
                    if titles:
                        self._peers[peer] = titles
                    return item
        return None

    def has(self, wanted: Callable[[T], bool]) -> bool:
        """Whether the condition holds for the first item of any caller."""
        return any(wanted(items[0]) for titles in self._peers.values() for items in titles.values())
