"""Failures that a person can mend, as one line and an exit code; all other errors are left as they are."""

from __future__ import annotations

from router.errors import RouterError


def explain(error: Exception) -> tuple[int, str]:
    """(exit code, text for standard error). Raises the error again when it is a fault of the program."""
    if isinstance(error, RouterError):
        return error.exit_code, str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 1, f"{where}{error.strerror or error}"
    raise error
