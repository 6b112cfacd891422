"""Shared fixtures. Data beside the checkout is optional: without it, tests that need it skip and say so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DICOM_ROUTER_TEST_DATA", ROOT.parent / "shared")).resolve()

NEEDS = {
    "shared": (lambda: (SHARED / "data").is_dir(), f"no test data at {SHARED} (set DICOM_ROUTER_TEST_DATA)"),
    "dcmtk": (lambda: Path("/usr/bin/dcmsend").exists(), "DCMTK is not installed (apt-get install dcmtk)"),
    "orthanc": (lambda: shutil.which("Orthanc", path="/usr/sbin:/usr/bin") is not None,
                "Orthanc is not installed (apt-get install orthanc)"),
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
