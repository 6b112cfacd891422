"""The walk over an archive: what it gives, what it leaves out, and that it holds nothing back."""

from __future__ import annotations

import itertools
import os
import socket
from collections import Counter
from pathlib import Path

import pytest

from router.commands import walking
from router.commands.walking import Found, walk


def names(found: list[Found], top: Path) -> list[str]:
    return [str(one.path.relative_to(top)) for one in found]


def test_files_come_before_folders_and_both_in_order(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a/z/9", "c", "0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names([*walk([tmp_path], Counter())], tmp_path) == ["0", "c", "a/z/9", "b/1", "b/2"]


def test_what_is_no_file_to_look_at_is_left_out_and_counted(tmp_path: Path) -> None:
    archive, outside = tmp_path / "archive", tmp_path / "outside"
    for folder in (archive, outside, archive / ".hidden"):
        folder.mkdir()
    (outside / "other.dcm").touch()
    for name in ("image.dcm", ".hidden/in.dcm", ".DS_Store", "DICOMDIR", "0.part", "0.1.native"):
        (archive / name).touch()
    (archive / "out").symlink_to(outside)
    (archive / "file").symlink_to(outside / "other.dcm")
    (archive / "again").symlink_to("image.dcm")
    (archive / "round").symlink_to(archive)
    (archive / "nowhere").symlink_to("gone")
    os.mkfifo(archive / "pipe")
    left_out: Counter[str] = Counter()
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        patch.chdir(archive)  # the address of such a socket is short
        listener.bind("socket")
        found = [*walk([archive], left_out)]
    assert names(found, archive) == ["image.dcm"]
    assert left_out == {
        "link": 5, "hidden": 2, "pipe, socket or device": 2, "DICOMDIR": 1, "no instance of a spool": 2
    }  # fmt: skip


def test_a_link_that_is_named_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").touch()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "file").symlink_to("real/a")
    found = [*walk([tmp_path / "folder", tmp_path / "file"], Counter())]
    assert names(found, tmp_path) == ["folder/a", "file"]


def test_a_folder_that_cannot_be_read_is_said_and_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1", "b/2", "c/3"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = [*walk([tmp_path], Counter())]
    assert names(found, tmp_path) == ["a/1", "b", "c/3"]
    assert [one.error for one in found] == ["", "Permission denied", ""]


def test_a_folder_that_vanishes_on_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "gone").mkdir()
    found = walk([tmp_path], Counter())
    next(found)
    (tmp_path / "gone").rmdir()
    assert [*found] == [Found(tmp_path / "gone", "No such file or directory")]


def test_folders_in_folders_need_no_file_descriptors(tmp_path: Path) -> None:
    """A tree deeper than a process may have open files."""
    deep = tmp_path
    for _ in range(300):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    found = walk([tmp_path], Counter())
    before = len(os.listdir("/proc/self/fd"))
    assert next(found).path == deep / "file"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_large_folder_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    monkeypatch.setattr(walking, "AT_ONCE", 10)
    read = 0
    scandir = os.scandir

    class Counting:
        """The entries of a folder, counted as they are read."""

        def __init__(self, path: str) -> None:
            self._entries = scandir(path)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def __iter__(self) -> Counting:
            return self

        def __next__(self) -> os.DirEntry[str]:
            nonlocal read
            read += 1
            return next(self._entries)

    monkeypatch.setattr(os, "scandir", Counting)
    found = walk([tmp_path], Counter())
    first = [*itertools.islice(found, 5)]
    assert read == 10
    assert len({one.path for one in [*first, *found]}) == 100
