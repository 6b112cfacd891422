"""What the node says of itself: log events, metrics, health. No patient or study value may enter here."""

from __future__ import annotations

import sys
from typing import Any

import structlog

# Whatever nobody has set up goes to standard error: standard output belongs to the commands' results.
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

log: Any = structlog.get_logger("router")


def safe(text: str, limit: int = 64) -> str:
    """Received text made safe for a log line: printable ASCII, at most `limit` characters."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "~"
