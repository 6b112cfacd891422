"""routing.yaml to frozen settings; every mistake with its file, its line and the fix.

`settings` holds the results, which every room may read. Nothing here opens a port, a database or a model.
"""

from importlib.resources import files
from pathlib import Path

import router.dicom  # noqa: F401 - before anything imports pydicom (see there)
from router.config.loading import Instead, load
from router.config.problems import ConfigError, Problem
from router.config.settings import Settings
from router.config.shared import SharedPart, shared_part

__all__ = ["ConfigError", "Instead", "Problem", "Settings", "SharedPart", "load", "shared_part", "shipped"]


def shipped() -> Path:
    """The routing.yaml that came with the program: in the installed package, or at the top of the checkout."""
    package = Path(str(files("router")))
    inside = package / "routing.yaml"
    return inside if inside.is_file() else package.parent / "routing.yaml"
