"""The evaluation as one HTML file: tables, curves drawn as SVG, and the worst mistakes as the network saw them.

Nothing is loaded from anywhere, no script runs, and every text of a set is escaped: a file name may be hostile. The
file is its owner's alone (mode 0600), since a radiograph can carry a burnt-in name.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from router.templates import fill
from router.training.evaluate import UNREADABLE, Answers, picture_of, private, worst
from router.training.routes import HEAD
from router.training.routes import rows as routes_rows

TEMPLATE = Path(__file__).with_name("report.html.j2")
SIDE = 300
"""Pixels of the side of a plot."""


def write_report(found: dict[str, Any], answers: Answers, size: int, path: Path, *, pictures: bool = True) -> None:
    """Write the report of `evaluate`'s figures; `pictures` adds the worst mistakes at `size` pixels."""
    coverage = [(row["coverage"], row["precision"]) for row in found["coverage"]]
    lowest = min([precision for _, precision in coverage] + [0.99])
    page = fill(
        TEMPLATE, found=found, route_head=HEAD, route_rows=routes_rows, side=SIDE,
        right_of_answered=right_of_answered(found["routing"]),
        reliability=[(row["confidence"], row["right"]) for row in found["calibration"]["reliability"]],
        coverage=coverage, floor=int(lowest * 20) / 20, with_pictures=pictures,
        mistakes=[(item, seen, _jpeg(item.path, size) if pictures else "") for item, seen in worst(answers)],
    )  # fmt: skip
    with private(path) as file:
        file.write(page)


def right_of_answered(routing: dict[str, Any]) -> str:
    """A share for people; a dash where nothing was answered, since 0 % would say that all was wrong."""
    return f"{routing['precision']:.2%}" if routing["answered"] else "–"


def _jpeg(path: Path, size: int) -> str:
    """What the network saw, in base 64; empty where the image can no longer be read."""
    try:
        picture = picture_of(path, size)
    except UNREADABLE:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
