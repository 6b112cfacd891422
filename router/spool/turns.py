"""Callers take turns: each claim for the classifier is divided evenly among callers with new work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from router.flow import Instance
from router.spool import statements, steady
from router.spool.claims import claim_end
from router.spool.rows import instance_of

CALLERS_AT_ONCE = 64
"""The most callers with new work that one claim looks at. The next claim looks at the callers after them."""
Calling = tuple[str, str]
"""A caller: calling AE title and peer."""
FIRST_CALLER: Calling = ("", "")
"""Sorts before every caller: a peer is never empty."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An instance that was claimed just now; see `rows.Claim`."""

    instance: Instance
    tries: int
    is_new_decision: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """What one claim has taken, and the caller after which the next claim begins to look for new work."""

    claimed: list[Claimed]
    after: Calling


def take_turn(
    connection: sa.Connection, limit: int, token: int, taken: Mapping[Calling, int], most: int, after: Calling
) -> Turn:
    """Claim instances to classify: first those asked about before, then new work, evenly among callers.

    `taken` is how many each caller has under way already, of at most `most`. The search for new work begins behind the
    caller `after`.
    """
    claim = {"now": steady.look(connection).now, "by": token, "until": claim_end(connection)}
    rows: list[Any] = list(connection.execute(statements.CLAIM_AGAIN, claim | {"most": limit}))
    callers, after = _callers(connection, after) if len(rows) < limit else ([], after)
    busy = Counter(taken)
    of_peer = Counter[str]()
    for (_, peer), count in busy.items():
        of_peer[peer] += count
    # The caller with the least under way comes first; a peer with many AE titles is still one peer.
    callers.sort(key=lambda caller: (of_peer[caller[1]], busy[caller]))
    while callers and len(rows) < limit:
        caller = callers.pop(0)
        share = min(-(-(limit - len(rows)) // (len(callers) + 1)), most - busy[caller])
        if share <= 0:
            continue
        whose = {"from_ae": caller[0], "from_peer": caller[1], "most": share}
        found = connection.execute(statements.CLAIM_FRESH, claim | whose).all()
        busy[caller] += len(found)
        rows += found
        if len(found) == share:  # it may have more, and gets the share that others leave
            callers.append(caller)
    rows.sort(key=lambda row: str(row.id))
    return Turn([Claimed(instance_of(row), row.tries - 1, row.decided_at is not None) for row in rows], after)


def _callers(connection: sa.Connection, after: Calling) -> tuple[list[Calling], Calling]:
    """Callers with new work, those behind `after` first; and the caller after which the next claim begins."""
    statement = statements.CALLERS[connection.dialect.name]
    found: dict[Calling, None] = {}
    for calling_ae, peer in (after, FIRST_CALLER):
        behind = {"ae": calling_ae, "peer": peer, "most": CALLERS_AT_ONCE}
        if (calling_ae, peer) == FIRST_CALLER:
            found[FIRST_CALLER] = None  # the caller of a blob that was taken in again may be unknown
        found |= {(row.calling_ae, row.peer): None for row in connection.execute(statement, behind)}
        if len(found) >= CALLERS_AT_ONCE or (calling_ae, peer) == FIRST_CALLER:
            break
    chosen = list(found)[:CALLERS_AT_ONCE]
    return chosen, chosen[-1] if len(chosen) == CALLERS_AT_ONCE else FIRST_CALLER
