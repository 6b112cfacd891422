"""What several tests of the spool start from: one on SQLite. A module with other settings has its own `settings`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.config.settings import SpoolSettings
from router.spool import Spool, open_spool
from tests.unit.spooling import settings_of


@pytest.fixture
def settings(tmp_path: Path) -> SpoolSettings:
    return settings_of(tmp_path / "spool")


@pytest.fixture
def spool(settings: SpoolSettings) -> Iterator[Spool]:
    opened = open_spool(settings)
    yield opened
    opened.close()
