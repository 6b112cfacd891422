"""Shared fixtures. Data beside the checkout is optional: without it, tests that need it skip and say so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import router.model.engines  # noqa: F401 - first of all, so that no test's `import openvino` reports to its maker
from tests import postgres

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DICOM_ROUTER_TEST_DATA", ROOT.parent / "shared")).resolve()

NEEDS = {
    "shared": (lambda: (SHARED / "data").is_dir(), f"no test data at {SHARED} (set DICOM_ROUTER_TEST_DATA)"),
    "dcmtk": (lambda: Path("/usr/bin/dcmsend").exists(), "DCMTK is not installed (apt-get install dcmtk)"),
    "orthanc": (lambda: shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is not None,
                "Orthanc is not installed (apt-get install orthanc)"),
    "postgresql": (lambda: postgres.programs() is not None, "PostgreSQL is not installed (apt-get install postgresql)"),
    "strace": (lambda: shutil.which("strace") is not None, "strace is not installed (apt-get install strace)"),
    "compiler": (lambda: shutil.which("cc") is not None and Path("/usr/include/stdio.h").exists(),
                 "there is no C compiler (apt-get install gcc libc6-dev)"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {name: reason for name, (there, reason) in NEEDS.items() if not there()}
    if missing and os.environ.get("CI"):
        raise pytest.UsageError("in CI nothing is skipped: " + "; ".join(missing.values()))
    for item in items:
        for name, reason in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with test data: `data/xray`, `data/dicom`, `weights`."""
    return SHARED


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes a new, empty database on a private server at each call, and returns its URL."""
    with postgres.server() as new_database:
        yield new_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest) -> str:
    """`spool.database`, once for each engine."""
    return str(request.getfixturevalue("postgresql")()) if request.param == "postgresql" else "sqlite"
