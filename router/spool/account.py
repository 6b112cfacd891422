"""Says which account owns a spool. Its folder is closed to all others."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from pathlib import Path

PROGRAM = "dicom-router"


def as_owner(folder: Path) -> str:
    """` (the spool belongs to user X; run: sudo -u X dicom-router …)`. Empty if it is this account's, or if unknown."""
    owner = _owner(folder)
    if owner in (None, os.geteuid()):
        return ""
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:  # a container's account without a name
        name = f"#{owner}"
    program = os.path.abspath(sys.argv[0]) if Path(sys.argv[0]).name == PROGRAM else PROGRAM
    return f" (the spool belongs to user {name}; run: {shlex.join(['sudo', '-u', name, program, *sys.argv[1:]])})"


def _owner(folder: Path) -> int | None:
    """The owner of the folder, or of the nearest folder above it that this account may see."""
    for path in (folder, *folder.parents):
        try:
            return path.stat().st_uid
        except FileNotFoundError:
            return None
        except OSError:
            continue
    return None
