"""A large routing.yaml: the work to load it grows with its length and no faster, and is bounded where it could not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.config import document, load
from router.config.problems import MOST, ConfigError, Problems
from router.decide import unreachable
from router.decide.conditions import AnyOf, Equal, Text
from router.decide.world import Budget, Spent

HEAD = """destinations:
  a: {ae_title: A, host: 10.0.0.1, port: 104}
  b: {ae_title: B, host: 10.0.0.2, port: 104}
otherwise: {send: a}
rules:
"""
WHEN = "  - name: one\n    send: b\n    when:\n"
SMALL = 100


def any_of(count: int, one: str) -> str:
    return HEAD + WHEN + "      any:\n" + "".join(f"        - {one % n}\n" for n in range(count))


def rules_of(count: int, when: str) -> str:
    return HEAD + "".join(f"  - {{name: r{n}, when: {{{when % n}}}, send: b}}\n" for n in range(count))


def nested(count: int) -> str:
    """Conditions at the deepest level that the file may have."""
    text, indent = HEAD + WHEN, "      "
    for _ in range(3):
        text += f"{indent}any:\n{indent}- StationName: other\n{indent}- not:\n"
        indent += "    "
    return text + f"{indent}any:\n" + "".join(f"{indent}- StationName: S{n}\n" for n in range(count))


TABLES: dict[str, Callable[[int], str]] = {
    "conditions under any": lambda n: any_of(n, "StationName: S%d"),
    "pairs under any": lambda n: any_of(n, "{StationName: S%d, class: adult_chest}"),
    "contradictions under any": lambda n: any_of(n, "{not: {StationName: [S%d]}, StationName: X}"),
    "patterns": lambda n: any_of(n, "StationName: {regex: 'S%d.*'}"),
    "a long list": lambda n: HEAD + WHEN + f"      StationName: [{', '.join(f'S{i}' for i in range(n))}]\n",
    "networks": lambda n: any_of(n, "peer: 2001:db8::%d"),
    "nested": nested,
    "rules": lambda n: rules_of(n, "StationName: S%d"),
    "rules of two": lambda n: rules_of(n, "StationName: S%d, not: {Modality: [CR]}"),
    "rules of one number": lambda n: rules_of(n, "frames: 1%d"),
    "rules of one class": lambda n: rules_of(n, "not: {StationName: S%d}, class: spine"),
    "rules below two that take all": lambda n: (
        HEAD + "  - {name: p, when: {class: spine}, send: b}\n  - {name: q, when: {class: others}, send: b}\n"
        + rules_of(n, "class: [spine, others], StationName: S%d").removeprefix(HEAD)
    ),
    "destinations": lambda n: (
        "otherwise: {send: d0}\nrules: []\ndestinations:\n"
        + "".join(f"  d{i}: {{ae_title: A, host: h{i}, port: 104}}\n" for i in range(n))
    ),
}  # fmt: skip


def calls(text: str) -> int:
    """Functions that are called to load a text."""
    count = 0

    def note(_frame: object, event: str, _about: Any) -> None:
        nonlocal count
        count += event.endswith("call")

    sys.setprofile(note)
    try:
        load(Path("routing.yaml"), {}, text=text)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_work_grows_as_the_table_does(table: Callable[[int], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What compares each rule with all others has a budget; here it ends before the table does."""
    monkeypatch.setattr(unreachable, "MOST_STEPS", SMALL)
    calls(table(2))  # what is read once
    least, more, most = (calls(table(SMALL * times)) for times in (1, 2, 3))
    assert most - more <= 1.2 * (more - least)


def test_the_search_for_hidden_rules_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    text = rules_of(SMALL, "frames: 1%d")
    whole = calls(text)
    monkeypatch.setattr(unreachable, "MOST_STEPS", SMALL)
    assert calls(text) < whole / 2


def test_a_long_list_costs_more_of_the_budget() -> None:
    """Two rules with a list each: one comparison, and all the same work for the length of the lists."""

    def spent(count: int) -> int:
        words = [frozenset(f"{name}{n}" for n in range(count)) for name in "ab"]
        budget = Budget(10**9)
        stronger, weaker = (Text(0x00081010, "StationName", Equal(each)) for each in words)
        unreachable.implies(AnyOf((stronger, weaker)), weaker, budget)
        return 10**9 - budget.left

    assert spent(20_000) > 100 * spent(2)
    with pytest.raises(Spent):
        unreachable.implies(AnyOf(()), AnyOf(()), Budget(0))


def test_warnings_are_bounded_and_say_how_many_were_left_out() -> None:
    text = TABLES["destinations"](3 * MOST)
    said = load(Path("routing.yaml"), {}, text=text).warnings
    assert len(said) == MOST + 1
    assert said[-1].endswith("more warnings, from this line on")
    assert sum(1 for _ in said[:-1]) + int(said[-1].split(": ")[1].split()[0]) == 3 * MOST


@pytest.mark.parametrize(
    "text",
    [
        *(table(3) for table in TABLES.values()),
        "a: \n- 1\n-\nb: ~\nc: 'null'\nd: |\n  x\n  y\ne: >-\n  x\n\n  y\nf: {g: , h: [ ]}\n'': x\n? k\n: v\n",
        "a: x: y\n", "a: &b x\nc: *b\n", "a: !t x\n", "a: [1\n", "- \ta: b\n", "{a: b}: c\n", "a: 1\n---\nb: 2\n",
        "\x00", "\ud800",
        "a: \"\\u263a\"\nb: 'it''s'\n# c\n...\n", "a: b\n a: c\n", "[" * 30, "[" * 3000,
    ],
    ids=lambda text: repr(text[-20:]),
)  # fmt: skip
def test_both_parsers_read_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without libyaml has the same nodes on the same lines, and refuses on the same lines."""

    def read(with_loader: Any) -> object:
        monkeypatch.setattr(document, "LOADER", with_loader)
        problems = Problems("f")
        try:
            return document.parse(text, {}, problems), [(one.line, one.fix) for one in problems.found]
        except ConfigError as error:
            return [one.line for one in error.problems]

    assert read(document.LOADER) == read(yaml.SafeLoader)
