"""What forward asks of a way to a destination, in any protocol. `dimse` is the one that exists."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from router.flow import StoredFile
from router.forward.outcomes import Outcome


class Sender(Protocol):
    """An open way to one destination. For one thread."""

    @property
    def closed(self) -> bool:
        """Whether it has ended; then only `abort` makes sense."""

    @property
    def idle_since(self) -> float:
        """When it last stored, or was opened (monotonic seconds)."""

    def serves(self, wanted: Collection[tuple[str, str]]) -> bool:
        """Whether it can still be used, and a new one would take no more of these SOP classes and transfer syntaxes."""

    def syntax_for(self, sop_class: str, transfer_syntax: str) -> str | None:
        """The syntax in which an instance can be sent: its own if that is taken, else a native one, else None."""

    def store(self, file: StoredFile) -> Outcome:
        """Send one instance, in a syntax that is taken; what came of it, and be it that the way was lost.

        Raises OSError where the file cannot be read: then part of it may be on the wire, and the way must be aborted.
        """

    def release(self) -> None:
        """End it politely."""

    def abort(self) -> None:
        """End it at once, so that the destination forgets what it has of an instance."""
