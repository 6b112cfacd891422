"""Files of a model's folder are on disk before they have their name, and the name is when `replace` returns."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from router.model import files


def test_content_is_synced_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fsync = tmp_path / "card.json", os.fsync
    path.write_bytes(b"old")
    seen: list[tuple[str, bytes]] = []

    def watched(fd: int) -> None:
        fsync(fd)
        seen.append(("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file", path.read_bytes()))

    monkeypatch.setattr(os, "fsync", watched)
    files.replace(path, b"new", 0o600)
    assert seen == [("file", b"old"), ("folder", b"new")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["card.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
