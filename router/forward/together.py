"""Several deliveries in one request, where the way to a destination can carry them: a backlog, a gathered study.

Only a success that the destination says of an instance counts. What it did not take, and what it said nothing of, is
sent again alone. So a poisoned instance fails by itself, with the circuit, the waits and the reasons that every single
delivery has. Where the destination refuses whoever asks, or asks for time, the first of them has that outcome.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from router.config.settings import HOUR, MIB
from router.flow import Delivery, StoredFile
from router.forward.delivery import Transcode, fault, raise_own_limit, sendable, with_notes
from router.forward.outcomes import Outcome
from router.forward.sender import Sender, SendsTogether

MOST, MOST_BYTES = 16, 8 * MIB
"""Of one request; what is larger goes alone. A request and a commit are saved, which is little beside the time of large
data sets (`python -m benchmarks.stow`). After a crash so many are sent again, for each worker."""
ALONE_FOR = HOUR
"""Seconds without requests with several, after one that told nothing of any, and a single one that arrived."""


def group(deliveries: Sequence[Delivery], alone: Collection[int]) -> list[Delivery]:
    """Those at the begin that may go together: of different instances, none tried before, within the bounds."""
    found: list[Delivery] = []
    size, uids = 0, set[str]()
    for one in deliveries[:MOST]:
        size += one.instance.size
        if one.id in alone or one.tries or one.instance.sop_instance in uids or (found and size > MOST_BYTES):
            break
        uids.add(one.instance.sop_instance)
        found.append(one)
    return found


def attempt_together(deliveries: Sequence[Delivery], sender: Sender, transcode: Transcode) -> dict[int, Outcome]:
    """Send them in one request: the outcomes that are known, by the deliveries' ids. Raises OwnLimitError, SpoolError.

    What cannot be read or sent is left out: alone it fails with its reason.
    """
    ready = [(one, *made) for one in deliveries if (made := _ready(one, sender, transcode))]
    if len(ready) < 2 or not isinstance(sender, SendsTogether):
        return {}
    try:
        outcomes = sender.store_together([file for _, file, _ in ready])
    except OSError as error:
        sender.abort()  # part of a request has been sent
        raise_own_limit(error)
        return {}
    return {
        one.id: with_notes(outcome, notes)
        for (one, _, notes), outcome in zip(ready, outcomes, strict=True)
        if outcome is not None
    }


def _ready(one: Delivery, sender: Sender, transcode: Transcode) -> tuple[StoredFile, tuple[str, ...]] | None:
    try:
        if fault(one.path, one.instance):
            return None
    except OSError as error:
        raise_own_limit(error)
        return None
    made = sendable(one, sender, transcode)
    return None if isinstance(made, Outcome) else made


class Habit:
    """Whether a destination is sent several instances in one request. For one worker."""

    def __init__(self) -> None:
        self._alone_until = 0.0
        self._doubtful = False

    def alone(self) -> bool:
        return time.monotonic() < self._alone_until

    def went(self, known: int) -> None:
        """So many outcomes of a request with several are known."""
        self._doubtful = not known

    def went_alone(self, *, arrived: bool) -> None:
        """One was sent alone. If it arrived, and nothing was told of the request before, that was at fault."""
        if self._doubtful and arrived:
            self._alone_until = time.monotonic() + ALONE_FOR
        self._doubtful = False
