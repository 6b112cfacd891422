"""Where log events go: to standard error, as lines for people or JSON for machines. Libraries are kept quiet."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog


class Unfailing:
    """A text stream that drops what it cannot write: a full disk or a broken pipe must not stop the node."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


LOCAL = "%Y-%m-%dT%H:%M:%S%z"
"""Local time of the console, with its offset from UTC."""


def set_up(kind: Literal["console", "json"], level: str = "info") -> None:
    """Log to standard error from now on. Tracebacks never show values."""
    # Libraries log what they receive. So only their failures are logged, without details.
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr, format="%(name)s: %(levelname)s", force=True)
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if kind == "json" else LOCAL, utc=kind == "json"),
    ]
    if kind == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=22
            )
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", Unfailing(sys.stderr))),
        cache_logger_on_first_use=True,
    )
