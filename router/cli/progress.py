"""How far a command over many files is: how many, how fast, how long it will take."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
SHOWN_EVERY = 0.2
RATE_OVER = 60.0
"""Seconds whose files make the rate."""


class Progress:
    """Counts what is done; a thread counts meanwhile how many files there are."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.skipped = self.done = self.failed = 0
        self._files, self._counted = 0, threading.Event()
        self._stopping = threading.Event()
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        threading.Thread(target=self._count, args=(paths,), name="count", daemon=True).start()

    def words(self) -> str:
        """Such as `1,200 of 9,000 files, 40.1/s, 3 min left, 2 failed`."""
        seen = self.skipped + self.done
        text = f"{seen:,} of {'' if self._counted.is_set() else 'at least '}{max(self._files, seen):,} files"
        (since, before), now = self._marks[0], time.monotonic()
        rate = (self.done - before) / max(now - since, 0.001)
        if rate > 0:
            text += f", {rate:,.1f}/s"
            if self._counted.is_set():
                text += f", {duration(max(0, self._files - seen) / rate)} left"
        return text + (f", {self.failed:,} failed" if self.failed else "")

    def advance(self, *, failed: bool) -> None:
        self.done += 1
        self.failed += failed

    def skip(self, *, failed: bool) -> None:
        """A file of an earlier run."""
        self.skipped += 1
        self.failed += failed

    def mark(self) -> None:
        """Forget what is too old for the rate."""
        now = time.monotonic()
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and self._marks[0][0] < now - RATE_OVER:
            self._marks.popleft()

    def stop(self) -> None:
        self._stopping.set()

    def _count(self, paths: Sequence[Path]) -> None:
        from router.commands.walking import walk

        for _ in walk(paths, Counter()):
            self._files += 1
            if self._stopping.is_set():
                return
        self._counted.set()


def duration(seconds: float) -> str:
    """In words for a person, rounded up: `5 s`, `3 min`, `2 h 10 min`, `3 d 4 h`."""
    whole = int(seconds) + 1
    if whole < 60:
        return f"{whole} s"
    minutes = -(-whole // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Show it on standard error from a thread of its own, until the block ends."""
    ended = threading.Event()
    show = _on_terminal if sys.stderr.isatty() else _as_lines
    thread = threading.Thread(target=show, args=(progress, ended), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        progress.stop()
        thread.join()


def _on_terminal(progress: Progress, ended: threading.Event) -> None:
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        turns = 0
        while not ended.wait(SHOWN_EVERY):
            turns += 1
            if turns % round(1 / SHOWN_EVERY) == 0:
                progress.mark()
            status.update(progress.words())


def _as_lines(progress: Progress, ended: threading.Event) -> None:
    while not ended.wait(LINE_EVERY):
        print(progress.words(), file=sys.stderr, flush=True)
        progress.mark()
