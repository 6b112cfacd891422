"""What the node says about itself: log events and metrics. No patient or study value may enter here."""

from __future__ import annotations

import sys
from typing import Any

import structlog

# Without set-up the log goes to standard error: standard output is for the results of commands.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

log: Any = structlog.get_logger("router")


def safe(text: str, limit: int = 64) -> str:
    """Received text made safe for a log line: printable ASCII, at most `limit` characters."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "~"


def where(error: BaseException) -> str:
    """Kind and place of an unforeseen exception. Its text stays out of the log, because it may have received values."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    place = f" at {last.tb_frame.f_globals.get('__name__')}:{last.tb_lineno}" if last is not None else ""
    return type(error).__name__ + place
