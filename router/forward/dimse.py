"""A destination for C-STORE: an association as a `Sender`, and C-ECHO as its probe."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from router.association.requestor import AssociationLostError, Requestor, connect
from router.config.settings import DestinationSettings
from router.flow import StoredFile
from router.forward.outcomes import Fate, Outcome, Sign, outcome_of


class DimseSender:
    """A `Sender` on one association."""

    def __init__(self, association: Requestor) -> None:
        self._association = association

    @property
    def closed(self) -> bool:
        return self._association.closed

    @property
    def idle_since(self) -> float:
        return self._association.idle_since

    @property
    def pads(self) -> bool:
        return True

    def serves(self, wanted: Collection[tuple[str, str]]) -> bool:
        return not self._association.lost() and self._association.proposed.issuperset(wanted)

    def syntax_for(self, sop_class: str, transfer_syntax: str) -> str | None:
        if self._association.accepts(sop_class, transfer_syntax):
            return transfer_syntax
        return self._association.fallback(sop_class)

    def store(self, file: StoredFile) -> Outcome:
        try:
            return outcome_of(self._association.store(file))
        except AssociationLostError as error:
            self._association.abort()
            return Outcome(Fate.LATER, str(error), sign=Sign(error.kind))

    def release(self) -> None:
        self._association.release()

    def abort(self) -> None:
        self._association.abort()


def open_sender(destination: DestinationSettings, calling_ae: str, wanted: Sequence[tuple[str, str]]) -> DimseSender:
    """A `Sender` on which all of `wanted` was proposed. Raises ConnectError."""
    return DimseSender(connect(destination, calling_ae, wanted))


def answers_echo(destination: DestinationSettings, calling_ae: str) -> bool:
    """Whether a destination answers C-ECHO with success. False if it answers otherwise, or refuses only C-ECHO.

    Raises ConnectError, AssociationLostError.
    """
    association = connect(destination, calling_ae, (), echo=True)
    try:
        status = association.echo() if association.accepts_echo else None
    except AssociationLostError:
        association.abort()
        raise
    association.release()
    return status == 0
