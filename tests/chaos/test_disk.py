"""The disk that forgets: what survives is what was synced, in its file and in its folder, before the sync began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import disk
from tests.chaos.disk import Disk, Pick
from tests.strace import Call

ROOT = Path("/node/disk")


def hexed(text: str | bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in (text.encode() if isinstance(text, str) else text))


class Trace:
    """Calls as strace would print them, one after the other unless `during` says otherwise."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._line = 0

    def add(self, name: str, text: str, during: Callable[[], None] = lambda: None) -> None:
        began = self._line = self._line + 1
        during()
        self._line += 1
        self.calls.append(Call(began, self._line, float(began), name, text))

    def make(self, name: str, flags: str = "O_WRONLY|O_CREAT", fd: int = 5) -> None:
        path = hexed(f"{ROOT}/{name}")
        self.add("openat", f'AT_FDCWD<{hexed("/")}>, "{path}", {flags}, 0600) = {fd}<{path}>')

    def write(self, name: str, data: bytes, fd: int = 5) -> None:
        self.add("write", f'{fd}<{hexed(f"{ROOT}/{name}")}>, "{hexed(data)}", {len(data)}) = {len(data)}')

    def write_at(self, name: str, data: bytes, offset: int) -> None:
        self.add("pwrite64", f'5<{hexed(f"{ROOT}/{name}")}>, "{hexed(data)}", {len(data)}, {offset}) = {len(data)}')

    def sync(self, name: str = "", during: Callable[[], None] = lambda: None, result: str = "0") -> None:
        self.add("fsync", f"5<{hexed(str(ROOT / name))}>) = {result}", during)

    def by_name(self, call: str, *names: str) -> None:
        paths = ", ".join(f'"{hexed(f"{ROOT}/{name}")}"' for name in names)
        self.add(call, f"{paths}{', 0700' if call == 'mkdir' else ''}) = 0")

    def left(self, folder: Path, pick: Pick = disk.synced, ignored: str = "") -> dict[str, bytes]:
        """The files that are left when the power goes now."""
        model = Disk(ROOT, lambda path: bool(ignored) and path.endswith(ignored))
        for event in disk.events(self.calls):
            model.feed(event)
        number = len(list(folder.iterdir()))
        model.materialise(folder / str(number), pick)
        found = sorted((folder / str(number)).rglob("*"))
        return {str(path.relative_to(folder / str(number))): path.read_bytes() for path in found if path.is_file()}


def test_a_file_needs_its_own_sync_and_its_folder_s(tmp_path: Path) -> None:
    trace = Trace()
    trace.make("a")
    trace.write("a", b"12")
    assert trace.left(tmp_path) == {}
    assert trace.left(tmp_path, disk.everything) == {"a": b"12"}
    trace.sync()
    assert trace.left(tmp_path) == {"a": b""}
    trace.sync("a")
    trace.write("a", b"34")
    assert trace.left(tmp_path) == {"a": b"12"}
    assert trace.left(tmp_path, disk.everything) == {"a": b"1234"}
    assert trace.left(tmp_path, ignored="/a") == {"a": b""}
    assert trace.left(tmp_path, ignored="/disk") == {}


def test_a_folder_and_what_is_in_it(tmp_path: Path) -> None:
    trace = Trace()
    trace.by_name("mkdir", "f")
    trace.make("f/a")
    trace.sync("f/a")
    trace.sync("f")
    assert trace.left(tmp_path) == {}
    trace.sync()
    assert trace.left(tmp_path) == {"f/a": b""}
    trace.by_name("rename", "f/a", "f/b")
    assert trace.left(tmp_path) == {"f/a": b""}
    assert trace.left(tmp_path, disk.everything) == {"f/b": b""}
    trace.sync("f")
    assert trace.left(tmp_path) == {"f/b": b""}
    trace.write("f/b", b"12")
    assert trace.left(tmp_path, disk.names) == {"f/b": b""}
    trace.by_name("unlink", "f/b")
    assert trace.left(tmp_path) == {"f/b": b""}
    assert trace.left(tmp_path, disk.names) == {}
    trace.sync("f")
    assert trace.left(tmp_path) == {}


def test_a_sync_is_about_what_had_ended_when_it_began_and_about_nothing_when_it_fails(tmp_path: Path) -> None:
    trace = Trace()
    trace.make("a")
    trace.sync()
    trace.sync("a", during=lambda: trace.write("a", b"12"))
    assert trace.left(tmp_path) == {"a": b""}
    trace.sync("a", result="-1 EIO (Input/output error)")
    assert trace.left(tmp_path) == {"a": b""}
    trace.sync("a")
    assert trace.left(tmp_path) == {"a": b"12"}


def test_offsets_lengths_and_positions(tmp_path: Path) -> None:
    trace = Trace()
    trace.make("a")
    trace.write_at("a", b"xy", 3)
    trace.write("a", b"1")
    trace.write("a", b"2")
    assert trace.left(tmp_path, disk.everything) == {"a": b"12\0xy"}
    trace.add("lseek", f"5<{hexed(f'{ROOT}/a')}>, 4, SEEK_SET) = 4")
    trace.write("a", b"z")
    trace.make("a", "O_WRONLY|O_CREAT|O_APPEND", fd=7)
    trace.write("a", b"!", fd=7)
    assert trace.left(tmp_path, disk.everything) == {"a": b"12\0xz!"}
    trace.add("ftruncate", f"5<{hexed(f'{ROOT}/a')}>, 2) = 0")
    assert trace.left(tmp_path, disk.everything) == {"a": b"12"}
    for length in (4, 1):
        trace.add("fallocate", f"5<{hexed(f'{ROOT}/a')}>, 0, 0, {length}) = 0")
        assert trace.left(tmp_path, disk.everything) == {"a": b"12\0\0"}
    trace.make("a", "O_WRONLY|O_TRUNC")
    assert trace.left(tmp_path, disk.everything) == {"a": b""}


def test_by_chance_any_part_of_what_was_not_synced_is_there(tmp_path: Path) -> None:
    trace = Trace()
    trace.make("a")
    trace.write("a", b"1" * 512)
    trace.sync("a")
    trace.sync()
    trace.write_at("a", b"2" * 512, 512)
    trace.write_at("a", b"3" * 1024, 1024)
    left = [trace.left(tmp_path, disk.some(str(seed)))["a"].ljust(2048, b"\0") for seed in range(60)]
    assert {content[:512] for content in left} == {b"1" * 512}
    assert {content[512:1024] for content in left} >= {b"2" * 512, bytes(512)}
    sectors = {(content[1024:1536], content[1536:]) for content in left}
    assert sectors >= {(b"3" * 512, bytes(512)), (bytes(512), b"3" * 512), (b"3" * 512, b"3" * 512)}


def test_what_the_model_does_not_know_is_an_error(tmp_path: Path) -> None:
    trace = Trace()
    trace.by_name("link", "a", "b")
    with pytest.raises(NotImplementedError, match="link"):
        trace.left(tmp_path)
    trace = Trace()
    trace.make("a", "O_RDWR")
    with pytest.raises(NotImplementedError, match="has not seen it made"):
        trace.left(tmp_path)


def test_what_is_elsewhere_or_no_state_is_nothing(tmp_path: Path) -> None:
    trace = Trace()
    trace.add("link", f'"{hexed("/other/a")}", "{hexed("/other/b")}") = 0')
    trace.make("node.db-shm")
    trace.sync()
    assert trace.left(tmp_path, disk.everything) == {}
