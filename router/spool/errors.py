"""What the spool says when it cannot do its work: one line, with the fix."""

from __future__ import annotations


class SpoolError(Exception):
    """The spool could not do what was asked; the message is one line for a person."""
