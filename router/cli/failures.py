"""Failures that a person can mend, as one line and an exit code; everything else goes on as it is."""

from __future__ import annotations


def explain(error: Exception) -> tuple[int, str]:
    """(exit code, text for standard error). Raises the error again when it is a fault of the program."""
    from router.config import ConfigError
    from router.control import NoAnswerError, NoNodeError
    from router.inference import InferenceError
    from router.model.card import CardError
    from router.model.store import StoreError
    from router.spool import SpoolError

    if isinstance(error, ConfigError):
        return 2, str(error)
    if isinstance(error, SpoolError | InferenceError | CardError | StoreError | NoNodeError | NoAnswerError):
        return 1, str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 1, f"{where}{error.strerror or error}"
    raise error
