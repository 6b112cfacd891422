"""The states of rows. They are stored as words, so that a person with a database shell can read them."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

BY_A_PERSON = " by a person"


class _State(StrEnum):
    @classmethod
    def _missing_(cls, value: object) -> Self:
        """A word that this program does not know must not hide the row from a person."""
        return cls["DAMAGED"]


class InstanceState(_State):
    """How far an instance has come."""

    NEW = "new"
    """It waits for its decision."""
    DECIDED = "decided"
    """It has open or buried deliveries."""
    FINISHED = "finished"
    """It has no open and no buried delivery; its blob is still there."""
    GONE = "gone"
    """Its blob was removed; its record is still there."""
    DAMAGED = "damaged"
    """Never stored: the row has a word that is no state."""


class DeliveryState(_State):
    """What has become of a delivery."""

    OPEN = "open"
    """It is owed."""
    DONE = "done"
    """The destination has it."""
    BURIED = "buried"
    """The node has given up on it, and it waits for a person."""
    SKIPPED = "skipped"
    """It would have gone back to its caller, so it was not sent."""
    DISCARDED = "discarded"
    """A person has dropped it."""
    DAMAGED = "damaged"
    """Never stored: the row has a word that is no state."""


MOVED = "moved to "
"""What the reason of a delivery begins with that a person moved to another destination, which closed it."""


def in_words(state: str, reason: str | None) -> str:
    """The state of a delivery for people: `waiting` for an open one, and where a moved one went."""
    if state == DeliveryState.DISCARDED and (reason or "").startswith(MOVED):
        return str(reason).removesuffix(BY_A_PERSON)
    return "waiting" if state == DeliveryState.OPEN else str(state)


class CommitmentState(StrEnum):
    """How far a request for storage commitment has come."""

    ARRIVING = "arriving"
    """Its references are being written. It is not acknowledged, and counts as closed if a crash ends that."""
    OPEN = "open"
    """Archives are asked."""
    ANSWERED = "answered"
    """Each reference has its outcome, and the caller is owed the report."""
    DONE = "done"
    """The caller has the report."""
    GIVEN_UP = "buried"
    """The caller could not be reached with the report."""
