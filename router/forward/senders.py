"""The kind of `Sender` that a destination needs, and how it is asked whether it works."""

from __future__ import annotations

from collections.abc import Sequence

from router.config.settings import DestinationSettings
from router.forward import dimse
from router.forward.sender import Sender


def open_sender(destination: DestinationSettings, calling_ae: str, wanted: Sequence[tuple[str, str]]) -> Sender:
    """A `Sender` for all of `wanted`. Raises ConnectError."""
    if destination.stow is not None:
        from router.forward import stow

        return stow.open_sender(destination)
    return dimse.open_sender(destination, calling_ae, wanted)


def answers_echo(destination: DestinationSettings, calling_ae: str) -> bool:
    """Whether a destination says that it works, without anything being stored. False if it answers otherwise.

    Raises ConnectError, AssociationLostError.
    """
    if destination.stow is not None:
        from router.forward import stow

        return stow.answers(destination)
    return dimse.answers_echo(destination, calling_ae)
