"""What forward needs from a way to a destination, in any protocol: `dimse` and `stow`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from router.flow import StoredFile
from router.forward.outcomes import Outcome


class Sender(Protocol):
    """An open way to one destination. For one thread."""

    @property
    def closed(self) -> bool:
        """Whether it has ended. Then only `abort` may be called."""

    @property
    def idle_since(self) -> float:
        """When it last stored, or was opened (monotonic seconds)."""

    @property
    def pads(self) -> bool:
        """Whether it can send no odd number of bytes, so that it adds one."""

    def serves(self, wanted: Collection[tuple[str, str]]) -> bool:
        """Whether it can be used, and a new one would not take more of these SOP classes and transfer syntaxes."""

    def syntax_for(self, sop_class: str, transfer_syntax: str) -> str | None:
        """The syntax in which an instance can be sent: its own if that is accepted, else a native one, else None.

        A destination that says only after `store` what it does not take changes the answer then."""

    def store(self, file: StoredFile) -> Outcome:
        """Send one instance in an accepted syntax, and return the outcome. A lost association is an outcome too.

        Raises OSError if the file cannot be read. Part of it may have been sent, so `abort` must be called then.
        """

    def release(self) -> None:
        """End it politely."""

    def abort(self) -> None:
        """End it at once, so that the destination forgets an incomplete instance."""


@runtime_checkable
class SendsTogether(Protocol):
    """What a `Sender` can besides, if its protocol takes several instances at once."""

    def store_together(self, files: Sequence[StoredFile]) -> list[Outcome | None]:
        """Send them. For each its outcome, or None: nothing is known of it, so it must be stored alone.

        Raises OSError as `store` does."""
