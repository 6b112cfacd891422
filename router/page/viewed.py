"""Who has seen which picture: in the record, once for each person and instance within a while."""

from __future__ import annotations

import time
from collections import OrderedDict

from router.page.running import Running
from router.spool import SpoolError

AGAIN = 600.0
"""Seconds after which seeing the same picture is noted again."""
MOST = 4096

SEEN = "image seen"
"""The kind of the event."""


class Viewed:
    """Called in the web server's loop only."""

    def __init__(self, node: Running) -> None:
        self._node = node
        self._noted: OrderedDict[tuple[str, str], float] = OrderedDict()

    def note(self, who: str, instance_id: str) -> None:
        now, one = time.monotonic(), (who, instance_id)
        if now - self._noted.get(one, -AGAIN) < AGAIN:
            return
        self._noted[one] = now
        self._noted.move_to_end(one)
        while len(self._noted) > MOST:
            self._noted.popitem(last=False)
        try:
            self._node.spool.event(SEEN, instance_id, who=who)
        except SpoolError:  # the node ends
            self._noted.pop(one)
