"""The base of all errors that reach a person. The message is one line that says what happened and what to do."""

from __future__ import annotations

from typing import Any


class RouterError(Exception):
    """A failure that a person can mend. The rooms derive their own classes from it."""

    exit_code = 1
    """How a command ends: 1 if it failed, 2 for wrong use or a wrong configuration."""

    def details(self) -> dict[str, Any]:
        """What a program may need beside the message, as JSON."""
        return {}


def to_install(extra: str) -> str:
    """How to install one of this package's extras, for a message. It is installed from a clone: no index has it."""
    return f"pip install '.[{extra}]' in a clone of dicom-router"


def explain(error: Exception) -> tuple[int, str, dict[str, Any]]:
    """Exit code, line and details of a failure that a person can mend. Raises the error again if it is another."""
    if isinstance(error, RouterError):
        return error.exit_code, str(error), error.details()
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return 1, f"{where}{error.strerror or error}", {}
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return 1, f"this needs PyTorch, which is not installed: {to_install('torch')}", {}
    raise error
