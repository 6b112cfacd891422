"""What is known of one reference before any archive is asked. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from router.spool.commitment_rows import Place
from router.spool.states import DeliveryState

PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119
"""Failure reasons of storage commitment (PS3.3 §C.14.1.1)."""


def judge(places: Sequence[Place], sop_class: str, calling_ae: str, archives: Collection[str]) -> int | str | None:
    """A failure reason, or the archive to ask. None: the instance is still on its way.

    `places` are the instances with the UID, newest first. The caller's own latest one counts, or else the latest of
    all. An archive answers for a UID and not for bytes. So it is not asked if it got other bytes under the UID.
    """
    latest = next((place for place in places if place.calling_ae == calling_ae), next(iter(places), None))
    if latest is None:
        return NO_SUCH_INSTANCE
    if latest.sop_class != sop_class:
        return CLASS_CONFLICT
    same = [place for place in places if place.digest == latest.digest]
    states = {to: {state for place in same for state in place.deliveries.get(to, ())} for to in archives}
    for to, found in states.items():
        if DeliveryState.DONE in found:
            others = any(
                DeliveryState.DONE in place.deliveries.get(to, ()) for place in places if place.digest != latest.digest
            )
            return PROCESSING_FAILURE if others else to
    if not latest.is_decided or any(DeliveryState.OPEN in found for found in states.values()):
        return None
    return PROCESSING_FAILURE if any(states.values()) else NO_SUCH_INSTANCE
