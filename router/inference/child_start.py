"""What a child process does first: die with its parent, leave the terminal's signals alone, keep within its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
TRIES = 5
"""To lower a session's share."""


def live_and_die_with(parent: int) -> None:
    """Get SIGKILL when the parent ends (Linux prctl), also if it has ended already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def is_called(name: str) -> None:
    """The name that `ps` and `top` show, at most 15 bytes (Linux prctl)."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def have_low_priority(nice: int) -> None:
    """Let all other processes come first, for good. For a process with a session of its own.

    Linux by default shares the processors among sessions, and `nice` counts only within one. So the session gets the
    same (sched(7), autogroup).
    """
    os.nice(nice)
    with suppress(OSError):  # a kernel without such shares
        for _ in range(TRIES):
            try:
                Path("/proc/self/autogroup").write_text(str(nice))
                return
            except BlockingIOError:  # Linux lets users other than root do this ten times a second, all together
                time.sleep(0.11)


def give_back_memory() -> None:
    """Give the system what was used and is free again; otherwise glibc keeps it for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have no such function
        trim(0)


def at_most(more: int) -> None:
    """Limit the address space to what is used now and `more` bytes; no core dumps (they would hold patients)."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
