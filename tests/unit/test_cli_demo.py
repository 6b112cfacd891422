"""What the demonstration prints on a terminal of 80 columns."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from router.cli.demo import _table
from router.config import load, shipped
from router.demo.run import Outcome, Picture
from router.flow import CLASSES


def printed(outcomes: list[Outcome], width: int) -> str:
    text = StringIO()
    Console(file=text, width=width).print(_table(outcomes, drawn=True))
    return text.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_no_name_is_cut(width: int) -> None:
    settings = load(shipped(), {})
    rules = [rule.name for rule in settings.rules.rules]
    outcomes = [
        Outcome(
            picture=Picture(Path("x"), "x", "child's chest", "1.2", ""), status=0, seen=CLASSES[n % 5], confidence=0.97,
            rule=rules[n % len(rules)], owed=(name,), arrived=(name,), identical=True, milliseconds=1234.0,
        )
        for n, name in enumerate([*settings.destinations, *settings.destinations, *settings.destinations])
    ]  # fmt: skip
    text = printed(outcomes, width)
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    for name in (*settings.destinations, *CLASSES, "child's chest", "1234"):
        assert name in text, text
