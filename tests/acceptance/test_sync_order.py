"""Acknowledged is durable, seen from outside: what strace sees the node do before the bytes of 0x0000 leave."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import Radiograph
from tests.acceptance.peers import NodeUnderTest, dcmsend, free_port, listening, storescp, wait_for

STATUS_SUCCESS = r"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00"
"""(0000,0900) Status = 0x0000 in a command set (Implicit VR Little Endian), as strace -xx prints it."""
C_STORE_RSP = r"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x80"
"""(0000,0100) Command Field = 0x8001."""


@dataclass(frozen=True)
class Call:
    """A system call: when it began and ended (line numbers of the trace), its name, what it was called with."""

    began: int
    ended: int
    name: str
    text: str


def calls(trace: Path) -> list[Call]:
    """Join `<unfinished ...>` and `resumed` lines: a call counts as done where strace saw it return."""
    found: list[Call] = []
    open_calls: dict[tuple[str, str], tuple[int, str]] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        match = re.match(r"(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed>)(.*)", line)
        if not match:
            continue
        pid, name, kind, text = match.groups()
        if kind != "(":
            began, before = open_calls.pop((pid, name), (number, ""))
            found.append(Call(began, number, name, before + text))
        elif text.endswith("<unfinished ...>"):
            open_calls[pid, name] = number, text
        else:
            found.append(Call(number, number, name, text))
    return found


@pytest.mark.shared
@pytest.mark.dcmtk
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_file_folder_and_database_are_synced_before_success_leaves(
    tmp_path: Path, radiographs: Callable[[str, int], list[Radiograph]]
) -> None:
    port = free_port()
    with storescp(tmp_path / "sink", port):
        node = NodeUnderTest(tmp_path / "node", {"sink": port}, rules="rules: []\notherwise: {send: sink}\n")
        trace = tmp_path / "trace"
        command = [
            "strace", "-f", "-y", "-xx", "-s", "512", "-e", "trace=fsync,fdatasync,sendto,sendmsg,write,writev",
            "-o", trace, sys.executable, "-m", "router", "serve", "--config", node.config,
        ]  # fmt: skip
        with node.log.open("wb") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                wait_for(lambda: listening(node.port) or child.poll() is not None, 170, "the node under strace")
                dcmsend(node.port, *[r.path for r in radiographs("spine", 3)])
            finally:
                # strace started with -o lets no signal end it: it ends with the node, which is its child.
                node_pid = int(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()[0])
                os.kill(node_pid, signal.SIGTERM)
                child.wait(60)
    seen = calls(trace)
    answers = [
        c for c in seen if c.name in ("sendto", "sendmsg", "write", "writev")
        and STATUS_SUCCESS in c.text and C_STORE_RSP in c.text
    ]  # fmt: skip
    assert len(answers) == 3
    syncs = [c for c in seen if c.name in ("fsync", "fdatasync")]
    after = 0
    for answer in answers:
        window = [c for c in syncs if c.began >= after and c.ended < answer.began]
        paths = [_path(c) for c in window if c.text.rstrip().endswith("= 0")]
        blobs = [n for n, path in enumerate(paths) if "/blobs/" in path and re.search(r"[0-9a-f]{32}", path)]
        folders = [n for n, path in enumerate(paths) if re.search(r"/blobs/[0-9a-f]{2}$", path)]
        database = [n for n, path in enumerate(paths) if path.endswith("node.db-wal")]
        assert blobs, paths
        assert folders, paths
        assert database, paths
        assert blobs[0] < folders[-1] < database[-1], paths
        after = answer.ended


def _path(call: Call) -> str:
    """The path that strace -y gives beside a descriptor; -xx prints it in hex as well."""
    match = re.search(r"\d+<([^>]*)>", call.text)
    assert match, call.text
    return bytes.fromhex(match[1].replace("\\x", "")).decode() if match[1].startswith("\\x") else match[1]
