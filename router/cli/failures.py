"""Failures that a person can fix, as one line and an exit code; all other errors are left as they are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


def explain(error: Exception) -> tuple[int, str]:
    """(exit code, text for standard error). Raises the error again when it is a fault of the program.

    An exception class of this program says in one line what happened and what to do: that is what it is made for. By
    its name, since to import them all would take seconds to say one line.
    """
    if type(error).__module__.startswith("router."):
        return getattr(error, "exit_code", 1), str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 1, f"{where}{error.strerror or error}"
    raise error


def details(error: Exception) -> dict[str, Any]:
    """What a program may want beside the text: a list of a configuration's mistakes."""
    problems = getattr(error, "problems", ())
    if not problems:
        return {}
    return {"problems": [asdict(problem) for problem in problems]}
