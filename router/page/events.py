"""Events in words: what happened, who ordered it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SENTENCES = {
    "buried": "Buried for {to}",
    "retried by a person": "Retried for {to}",
    "discarded by a person": "Delivery to {to} discarded",
    "sent also by a person": "Sent to {to} as well",
    "study sent by a person": "The whole study sent to {to}",
    "study ended by a person": "Nothing more of its study follows to {to}",
    "result missing": "No result came from {to} in time",
    "follows": "Sent to {to} with its study",
    "new decision ordered": "A new decision was ordered",
    "same UID again": "The same UID came before or again",
    "taken in again": "Taken in again after a crash",
    "labelled": "Labelled",
    "image seen": "Picture seen",
    "paused": "{to} paused",
    "resumed": "{to} resumed",
    "circuit opened": "{to} takes nothing: its circuit opened",
    "circuit closed": "{to} takes again: its circuit closed",
    "reloaded": "routing.yaml read again",
    "rules applied": "Other rules put in force",
    "rules change begun": "A change of the rules begins",
    "rules change refused": "The change of the rules was refused",
    "rules rolled back": "Earlier rules put in force again",
    "started": "The node started",
    "stopped": "The node stopped",
    "refused": "A caller was refused",
    "wiped": "Blobs wiped",
    "shadow prediction": "The shadow model answered too",
}
LONGEST = 160
"""Characters of a detail."""


def said(kind: str, destination: str | None, detail: Mapping[str, Any]) -> str:
    """What happened, with the details that say more."""
    begin = SENTENCES.get(kind, kind[:1].upper() + kind[1:]).format(to=destination or "a destination")
    known = {name: value for name, value in detail.items() if name != "who" and value not in (None, "", [], {})}
    if "reason" in known:
        begin += f": {known.pop('reason')}"
    if kind == "labelled":
        begin = f"Labelled {known.pop('label', '?')} (the model said {known.pop('said', '–')})"
    more = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in known.items())
    return f"{begin} ({more})" if more else begin


def _short(value: Any) -> str:
    text = (
        ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        if isinstance(value, dict)
        else (", ".join(map(str, value)) if isinstance(value, list) else str(value))
    )
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
