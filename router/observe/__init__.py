"""What the node says of itself: log events, metrics, health. No patient or study value may enter here."""

from __future__ import annotations

from typing import Any

import structlog

log: Any = structlog.get_logger("router")


def safe(text: str, limit: int = 64) -> str:
    """Received text made safe for a log line: printable ASCII, at most `limit` characters."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "~"
