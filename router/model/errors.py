"""What a model's folder is refused with."""

from __future__ import annotations


class CardError(Exception):
    """The folder holds no model that may serve; the message is one line with the fix."""
