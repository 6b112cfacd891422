"""A spool that belongs to another account: what is said names that account, and the command to run as it."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.commands.check_folder import inspect
from router.node.client import NoAnswerError, state
from router.spool import SpoolError, open_spool, read_spool
from router.spool.account import as_owner
from tests.unit.spooling import settings_of

STRANGER = 54321


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that its owner alone may enter, and `run` as a command would be."""
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o700)
    for above in tmp_path.parents:
        if above.name.startswith("pytest-"):
            above.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["/opt/venv/bin/dicom-router", "queue", "list"])
    with as_a_stranger(folder, monkeypatch):
        yield folder


@contextmanager
def as_a_stranger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if os.geteuid() == 0:
        os.seteuid(STRANGER)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        folder.chmod(0)
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
        yield
        folder.chmod(0o700)


def fix() -> str:
    name = pwd.getpwuid(os.getuid()).pw_name
    return f"(the spool belongs to user {name}; run: sudo -u {name} /opt/venv/bin/dicom-router queue list)"


def test_each_way_to_a_spool_names_its_owner(spool: Path) -> None:
    settings = settings_of(spool)
    with pytest.raises(SpoolError) as opened:
        open_spool(settings)
    with pytest.raises(SpoolError) as read:
        read_spool(settings)
    with pytest.raises(NoAnswerError) as asked:
        state(spool, "health")
    (looked,) = [text for state, text in inspect(settings) if state == "failed"]
    for text in (*(str(caught.value) for caught in (opened, read, asked)), looked):
        assert text.endswith(fix()), text


def test_a_spool_of_ones_own_or_none_needs_no_other_account(tmp_path: Path) -> None:
    assert as_owner(tmp_path) == ""
    assert as_owner(tmp_path / "absent") == ""
