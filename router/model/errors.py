"""The error with which a model's folder is refused."""

from __future__ import annotations


class CardError(Exception):
    """The folder holds no model that may serve; the message is one line with the fix."""
