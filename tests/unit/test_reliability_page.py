"""The page on reliability names tests for what it promises: each of them exists, and no complaint is left out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
COMPLAINTS = 43
"""Rows of the survey of what users of routers and DICOM libraries complain about."""
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
BENCHMARK = re.compile(r"`(benchmarks/\w+\.py)`")


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_"))


def table(title: str) -> list[list[str]]:
    """The cells of each row of the table under a heading."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_test_that_is_named_exists() -> None:
    named = TEST.findall(PAGE)
    assert len(named) > 100
    assert [f"{path}::{name}" for path, name in named if name and name not in names_in(path)] == []
    assert [path for path, name in named if not name and not names_in(path)] == []
    assert [path for path in BENCHMARK.findall(PAGE) if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("title", ["Faults", "What users complain about"])
def test_every_row_is_whole(title: str) -> None:
    rows = table(title)
    assert len({len(row) for row in rows}) == 1
    assert [row for row in rows if not all(row)] == []


def test_every_fault_has_a_test() -> None:
    assert [row[0] for row in table("Faults") if not TEST.search(row[2])] == []


def test_every_complaint_has_a_test_or_says_why_it_is_not_ours() -> None:
    rows = table("What users complain about")
    assert [int(row[0]) for row in rows] == list(range(1, COMPLAINTS + 1))
    for row in rows:
        assert TEST.search(row[-1]) or BENCHMARK.search(row[-1]) or row[-1].startswith("not ours: "), row[0]
