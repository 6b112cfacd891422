"""What strace saw a process do: its system calls, with the paths behind descriptors and whole buffers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.peers import NodeUnderTest, listening, wait_for

OPTIONS = ("-f", "-y", "-xx", "-ttt")
"""Threads too; the path beside each descriptor; every string in hex, so that no byte is lost or mistaken for syntax;
the time of each call's begin."""
_HEX = r"(?:\\x[0-9a-f]{2})*"
_LINE = re.compile(r"(\d+) +(\d+\.\d+) (?:<\.\.\. )?(\w+)(\(| resumed>)(.*)", re.DOTALL)
_COMMAND_FIELD = bytes.fromhex("0000 0001 02000000 0180")
"""(0000,0100) Command Field = 0x8001, a C-STORE-RSP (PS3.7 section E.1)."""
_STATUS = bytes.fromhex("0000 0009 02000000 0000")
"""(0000,0900) Status = 0x0000."""
_AFFECTED = bytes.fromhex("0000 0010")
"""(0000,1000) Affected SOP Instance UID."""


@dataclass(frozen=True, slots=True)
class Call:
    """A system call: when it began and ended (line numbers of the trace), its name, what it was called with.

    `at` is the Unix time in seconds at which it began, or that of its end where the begin was not traced.
    """

    began: int
    ended: int
    at: float
    name: str
    text: str

    @property
    def result(self) -> int:
        """What it returned; -1 where it failed."""
        match = re.search(r"= (-?\d+)(?:<[^>]*>(?:\(deleted\))?)?(?: [A-Z(].*)?$", self.text)
        return int(match[1]) if match else -1

    @property
    def descriptor(self) -> int:
        return int(self.text.split("<", 1)[0])

    @property
    def path(self) -> str:
        """The path beside the first descriptor."""
        match = re.search(r"<([^>]*)>", self.text)
        return unhex(match[1]).decode(errors="replace") if match else ""

    @property
    def opened(self) -> str:
        """The path beside the descriptor that was returned."""
        match = re.search(r"= \d+<([^>]*)>$", self.text)
        return unhex(match[1]).decode(errors="replace") if match else ""

    @property
    def strings(self) -> list[bytes]:
        """Every string argument, whole. Raises ValueError where strace cut one short."""
        if '"...' in self.text:
            raise ValueError("the trace holds only the beginning of a buffer: give strace a larger -s")
        return [unhex(found) for found in re.findall(f'"({_HEX})"', self.text)]

    def number(self, which: int) -> int:
        """An argument that is a number, counted from the end (-1: the last)."""
        arguments = self.text[: self.text.rindex(")")].split(",")
        return int(arguments[which])

    @property
    def acknowledged(self) -> str:
        """The SOP Instance UID that a C-STORE-RSP with 0x0000 in this call's buffers is about, or nothing."""
        if self.name not in ("sendto", "sendmsg", "write", "writev"):
            return ""
        sent = b"".join(self.strings)
        if _COMMAND_FIELD not in sent or _STATUS not in sent:
            return ""
        at = sent.index(_AFFECTED, sent.index(_STATUS) + len(_STATUS)) + 4
        length = int.from_bytes(sent[at : at + 4], "little")
        return sent[at + 4 : at + 4 + length].rstrip(b"\0 ").decode("ascii")


def unhex(text: str) -> bytes:
    """A string as strace -xx prints it; one that it printed as it is, too."""
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


def calls(trace: Path) -> Iterator[Call]:
    """Join `<unfinished ...>` and `resumed` lines: a call counts as done where strace saw it return."""
    open_calls: dict[tuple[str, str], tuple[int, float, str]] = {}
    with trace.open(errors="replace") as lines:
        for number, line in enumerate(lines):
            match = _LINE.match(line.rstrip("\n"))
            if not match:
                continue
            pid, at, name, kind, text = match.groups()
            if kind != "(":
                began, when, before = open_calls.pop((pid, name), (number, float(at), ""))
                yield Call(began, number, when, name, before + text)
            elif text.endswith("<unfinished ...>"):
                open_calls[pid, name] = number, float(at), text.removesuffix("<unfinished ...>")
            else:
                yield Call(number, number, float(at), name, text)


@contextmanager
def traced(node: NodeUnderTest, trace: Path, names: Sequence[str], *, longest: int = 512) -> Iterator[int]:
    """Run a node under strace and yield its process id; it has ended, and the trace is whole, after the block.

    `names` are the calls to trace (those that this machine does not have are left out); `longest` bytes of each buffer
    are kept.
    """
    command = [
        "strace",
        *OPTIONS,
        "-s",
        str(longest),
        "-e",
        f"trace={','.join('?' + name for name in names)}",
        "-o",
        str(trace),
    ]
    with under_strace(node, command) as pid:
        yield pid


@contextmanager
def under_strace(node: NodeUnderTest, command: Sequence[str]) -> Iterator[int]:
    """Run a node below `command`, an strace, and yield the node's process id; SIGTERM ends it after the block."""
    serve = [sys.executable, "-m", "router", "serve", "--config", str(node.config)]
    with node.log.open("ab") as log:
        child = subprocess.Popen([*command, *serve], stdout=log, stderr=log, cwd=node.folder)
    try:
        wait_for(lambda: listening(node.port) or child.poll() is not None, 170, "the node under strace")
        assert child.poll() is None, node.log.read_text(errors="replace")[-3000:]
        yield _first_child(child.pid)
    finally:
        # strace started with -o lets no signal end it: it ends with the node, which is its child.
        with suppress(OSError, IndexError):
            os.kill(_first_child(child.pid), signal.SIGTERM)
        child.wait(60)


def _first_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
