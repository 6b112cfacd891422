"""The base of all errors that reach a person: the message is one line that says what happened and what to do."""

from __future__ import annotations

from typing import Any


class RouterError(Exception):
    """Something that a person can mend. The classes of the rooms derive from it."""

    exit_code = 1
    """How a command ends: 1 if it failed, 2 for wrong use or a wrong configuration."""

    def details(self) -> dict[str, Any]:
        """What a program may want to know beside the message, as JSON."""
        return {}
