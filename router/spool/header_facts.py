"""What a decision keeps of a header, as the text of one column and back."""

from __future__ import annotations

import json
from typing import Any

from router.decide.age import Age
from router.decide.header_facts import HeaderFacts


def as_text(facts: HeaderFacts) -> str:
    """JSON: `version`, `values` by tag in hex digits (null: present and unreadable), `age` in years, `cut`."""
    said: dict[str, Any] = {
        "version": facts.version,
        "values": {f"{tag:08x}": value for tag, value in sorted(facts.values.items())},
    }
    if facts.age is not None:
        said["age"] = [round(facts.age.least, 9), round(facts.age.below, 9)]
    if not facts.whole:
        said["cut"] = True
    return json.dumps(said, separators=(",", ":"))


def from_text(text: str | None) -> HeaderFacts | None:
    """The facts of a column; None where there are none, or where they are damaged."""
    try:
        said = json.loads(text or "null")
        values = {
            int(tag, 16): None if value is None else tuple(str(one) for one in value)
            for tag, value in said["values"].items()
        }
        age = Age(float(said["age"][0]), float(said["age"][1])) if "age" in said else None
        return HeaderFacts(values, age, "cut" not in said, int(said["version"]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
