"""The reader of traces: joined calls, paths, buffers, results, answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.strace import Call, calls, unhex

ANSWER = (
    "0000000002000000" "0a000000"  # (0000,0000)
    "0000020004000000" "312e3200"  # (0000,0002) = 1.2
    "0000000102000000" "0180"  # (0000,0100)
    "0000200102000000" "1000"  # (0000,0120) = 16, with what follows and what stands before the tag of the UID
    "0000000802000000" "0101"  # (0000,0800)
    "0000000902000000" "0000"  # (0000,0900)
    "0000001006000000" "312e322e3300"  # (0000,1000) = 1.2.3
)  # fmt: skip


def hexed(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def trace(folder: Path, *lines: str) -> list[Call]:
    file = folder / "trace"
    file.write_text("\n".join(lines) + "\n")
    return list(calls(file))


def call(name: str, text: str) -> Call:
    return Call(0, 0, 0.0, name, text)


def test_a_call_that_others_interrupt_is_joined(tmp_path: Path) -> None:
    path = hexed(b"/spool/node.db-wal")
    one, two, three = trace(
        tmp_path,
        f"71 10.5 fsync(5<{path}> <unfinished ...>",
        f'72 10.6 write(7<{path}>, "{hexed(b"ab")}", 2) = 2',
        "71 10.7 <... fsync resumed>) = 0",
        "72 10.8 +++ exited with 0 +++",
        f"72 10.9 fsync(5<{path}>) = -1 EIO (Input/output error)",
    )
    assert (one.name, one.began, one.ended, one.strings, one.number(-1)) == ("write", 1, 1, [b"ab"], 2)
    assert (two.name, two.began, two.ended, two.at) == ("fsync", 0, 2, 10.5)
    assert (two.path, two.descriptor, two.result) == ("/spool/node.db-wal", 5, 0)
    assert three.result == -1


def test_what_was_opened() -> None:
    cwd, path = hexed(b"/home"), hexed(b"/spool/a b<c")
    opened = call("openat", f'AT_FDCWD<{cwd}>, "{path}", O_RDWR|O_CREAT, 0600) = 12<{path}>')
    assert (opened.opened, opened.result, opened.strings) == ("/spool/a b<c", 12, [b"/spool/a b<c"])
    assert unhex("socket:[5]") == b"socket:[5]"


def test_a_buffer_that_was_cut_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="larger -s"):
        call("write", f'7<{hexed(b"/a")}>, "{hexed(b"ab")}"..., 90) = 90').strings  # noqa: B018


def test_which_instance_an_answer_is_about() -> None:
    answer = bytes.fromhex(ANSWER)
    assert call("sendto", f'9<socket:[1]>, "{hexed(answer)}", 90, 0, NULL, 0) = 90').acknowledged == "1.2.3"
    success, out_of_resources = bytes.fromhex("00000009020000000000"), bytes.fromhex("000000090200000000a7")
    refused = answer.replace(success, out_of_resources)
    assert call("sendto", f'9<socket:[1]>, "{hexed(refused)}", 90, 0, NULL, 0) = 90').acknowledged == ""
    assert call("read", f'9<socket:[1]>, "{hexed(answer)}", 90) = 90').acknowledged == ""
