"""How long to wait before the next try. Pure; chance comes in as a number from 0 to 1."""

from __future__ import annotations

from router.config.settings import HOUR, MINUTE

FIRST, LONGEST = 5.0, HOUR
FEW_TRIES = (1 * MINUTE, 10 * MINUTE, 1 * HOUR, 4 * HOUR)
"""Waits before the second to fifth try, if the peer will probably refuse again. Then the delivery is buried."""
FEW_WHILE_OPEN = 20
"""The most tries of such an instance while it is the circuit's probe. There are more, because the fault may be the
destination's. Without a limit, three instances that a destination never takes would probe for ever."""
CIRCUIT_FIRST, CIRCUIT_LONGEST = 2.0, 10 * MINUTE
CIRCUIT_FOR_GOOD = 5 * MINUTE
"""The least wait if a peer says that it will never accept us. Only a person can help then, so tries are rare."""


def retry_after(tries: int, chance: float) -> float:
    """Seconds until the next try after `tries` failures. They double, up to an hour, with a quarter of jitter."""
    return _jitter(min(FIRST * 2.0 ** min(tries, 30), LONGEST), chance)


def few_retry_after(buriable_tries: int, chance: float) -> float | None:
    """The same for a delivery that will probably be refused again. None: bury it."""
    if buriable_tries >= len(FEW_TRIES):
        return None
    return _jitter(FEW_TRIES[buriable_tries], chance)


def circuit_after(failures: int, chance: float, *, for_good: bool = False) -> float:
    """Seconds that a circuit stays open after so many failures in a row (the first is 0)."""
    seconds = min(CIRCUIT_FIRST * 2.0 ** min(failures, 30), CIRCUIT_LONGEST)
    return _jitter(max(seconds, CIRCUIT_FOR_GOOD) if for_good else seconds, chance)


def _jitter(seconds: float, chance: float) -> float:
    return seconds * (0.875 + chance / 4)
