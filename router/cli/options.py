"""Options that several commands share."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Option("--config", "-c", help="The routing.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="For programs: one JSON object a line.")]


def who() -> str:
    """Who does it, for the record of events."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"
