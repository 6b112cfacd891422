"""The error with which a model's folder is refused."""

from __future__ import annotations

from router.errors import RouterError


class CardError(RouterError):
    """The folder holds no model that may serve; the message is one line with the fix."""
