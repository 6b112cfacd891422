"""Other rules on what came: the same facts give the same decision, what was not kept is said, changes are counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config import load
from router.config.kept_rules import table_of
from router.decide import RuleTable, decide, header_tags
from router.decide.explain import Answer, Outcome, explain
from router.decide.header_facts import NOTHING_ASKED, Asked, HeaderFacts
from router.decide.replay import replay
from router.flow import Caller, Decision, Header, Prediction, Seen
from router.spool import Spool, open_spool
from router.spool.schema import instance, rule_table
from tests.unit.spooling import accept, settings_of, turned_by_hand

DESTINATIONS = """
spool: {path: spool}
destinations:
  spine-ai: {ae_title: S, host: 127.0.0.1, port: 104}
  chest-ai: {ae_title: C, host: 127.0.0.1, port: 105}
  rest: {ae_title: R, host: 127.0.0.1, port: 106}
"""
PRESENT = """
rules:
  - {name: not X-ray, when: {not: {Modality: [CR, DX]}}, send: rest}
  - {name: child, when: {class: adult_chest, age: "< 16y"}, send: rest}
  - {name: chest, when: {class: adult_chest, calling_ae: {glob: "XRAY_*"}}, send: chest-ai}
  - {name: spine, when: {header_part: spine, probability.spine: ">= 0.5"}, send: [spine-ai, rest]}
otherwise: {send: rest}
"""
FILTER = 0x00181160


def predicted(top: str) -> Prediction:
    chances = tuple(0.96 if name == top else 0.01 for name in ("abdominal", "adult_chest", "pediatric_chest", "spine", "others"))  # fmt: skip  # noqa: E501
    return Prediction(chances, top, 0.96, 0.1, False, top, "m", view="frontal", view_confidence=0.9, inverted=True)


CAME: tuple[tuple[str, Header, str], ...] = (
    ("adult_chest", {0x00080060: ("DX",), 0x00101010: ("044Y",)}, "chest"),
    ("adult_chest", {0x00080060: ("DX",), 0x00101010: ("009Y",)}, "child"),
    ("adult_chest", {0x00080060: ("DX",)}, "chest"),
    ("spine", {0x00080060: ("CR",), 0x00180015: ("LSPINE",)}, "spine"),
    ("spine", {0x00080060: ("CT",), 0x00180015: ("LSPINE",)}, "not X-ray"),
    ("spine", {0x00180015: None}, "otherwise"),
    ("", {}, "otherwise"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "routing.yaml").write_text(DESTINATIONS + PRESENT)
    return tmp_path


def table(folder: Path, text: str = PRESENT) -> RuleTable:
    (folder / "some.yaml").write_text(DESTINATIONS + text)
    return load(folder / "some.yaml").rules


def decide_all(spool: Spool, rules: RuleTable) -> list[str]:
    """Everything of CAME through the spool. Returns the ids, in order."""
    every = []
    for number, (top, header, rule) in enumerate(CAME):
        accept(spool, f"{number}".encode(), f"1.2.{number}", Caller("XRAY_1", "ROUTER", "10.0.0.1"))
        (claim,) = spool.decisions.claim(1)
        seen = Seen("decoded" if top else "failed", header, predicted(top) if top else None)
        decision = decide(rules, claim.instance, seen, enabled=frozenset({"spine-ai", "chest-ai", "rest"}))
        assert decision.rule == rule
        assert spool.decisions.record(claim, seen, decision, {}, rules).result()
        every.append(claim.instance.id)
    return every


@pytest.fixture
def spool(folder: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(folder / "spool", database))
    yield opened
    opened.close()


ALL = frozenset({"spine-ai", "chest-ai", "rest"})


def test_the_same_rules_decide_the_same(spool: Spool, folder: Path) -> None:
    decide_all(spool, table(folder))
    found = replay(table(folder), spool.rules.came(), ALL)
    assert (found.instances, found.same, found.moved, found.unsure) == (7, 7, 0, 0)
    assert {one.rule: (one.before, one.after) for one in found.rules} == {
        "not X-ray": (1, 1), "child": (1, 1), "chest": (2, 2), "spine": (1, 1), "otherwise": (2, 2),
    }  # fmt: skip


def test_each_change_is_counted_with_examples(spool: Spool, folder: Path) -> None:
    ids = decide_all(spool, table(folder))
    other = PRESENT.replace("send: chest-ai", "send: [rest, chest-ai]").replace("name: spine,", "name: backs,")
    found = replay(table(folder, other), spool.rules.came(), ALL)
    assert (found.moved, found.renamed, found.same) == (2, 1, 4)
    first, second = found.changes
    assert (first.from_destinations, first.to_destinations, first.count) == (("chest-ai",), ("rest", "chest-ai"), 2)
    assert first.examples == (ids[2], ids[0])
    assert first.moves
    assert (second.from_rule, second.to_rule, second.moves) == ("spine", "backs", False)
    assert [one.rule for one in found.rules][-1] == "spine"


def test_only_some_of_what_came(spool: Spool, folder: Path) -> None:
    ids = decide_all(spool, table(folder))
    assert [one.instance.id for one in spool.rules.came(last=2)] == [ids[6], ids[5]]
    begin = int(ids[5][:16], 16) / 1e9 - 1e-5
    assert {one.instance.id for one in spool.rules.came(since=begin)} <= set(ids[4:])
    assert replay(table(folder), spool.rules.came(last=3), ALL).latest == ids[6]


def test_pages_follow_each_other(spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.spool.rules.PAGE_OF_CAME", 2)
    ids = decide_all(spool, table(folder))
    assert [one.instance.id for one in spool.rules.came()] == ids[::-1]
    assert [one.instance.id for one in spool.rules.came(last=5)] == ids[:1:-1]


def test_what_was_not_kept_is_said(spool: Spool, folder: Path) -> None:
    decide_all(spool, table(folder))
    asks = PRESENT.replace(
        "class: adult_chest, calling_ae", "class: adult_chest, FilterType: {exists: false}, calling_ae"
    )
    found = replay(table(folder, asks), spool.rules.came(), ALL)
    # The child and what is no X-ray are decided before, and a spine is false by its class.
    assert (found.unsure, found.not_kept) == (2, (("FilterType", 2),))
    assert found.same == 5
    ages = PRESENT.replace("< 16y", "< 533m")
    found = replay(table(folder, ages), spool.rules.came(), ALL)
    assert found.not_kept == (("age", 1),)
    assert replay(table(folder, PRESENT.replace("16y", "44y")), spool.rules.came(), ALL).unsure == 0


def test_what_a_rule_has_named_is_kept(spool: Spool, folder: Path) -> None:
    named = table(
        folder,
        PRESENT.replace("class: spine", "class: spine").replace(
            "  - {name: child", "  - {name: filter, when: {FilterType: WEDGE}, send: spine-ai}\n  - {name: child"
        ),
    )
    assert FILTER in header_tags(named)
    decide_all(spool, named)
    other = PRESENT.replace(
        "class: adult_chest, calling_ae", "class: adult_chest, FilterType: {exists: false}, calling_ae"
    )
    found = replay(table(folder, other), spool.rules.came(), ALL)
    assert (found.unsure, found.same) == (0, 7)


def test_a_value_that_is_there_counts_though_its_rules_are_gone(spool: Spool, folder: Path) -> None:
    facts = HeaderFacts({FILTER: ("NONE",)}, None)
    assert facts.missing(frozenset({FILTER, FILTER + 1}), NOTHING_ASKED) == {FILTER + 1}
    assert facts.missing(frozenset({FILTER + 1}), Asked(frozenset({FILTER + 1}), frozenset())) == set()
    decide_all(spool, table(folder))
    spool.database.run(lambda c: c.execute(rule_table.delete()))
    assert replay(table(folder), spool.rules.came(), ALL).same == 7


def test_rows_of_an_older_version_are_counted(spool: Spool, folder: Path) -> None:
    decide_all(spool, table(folder))
    assert spool.database.writer
    spool.database.run(lambda c: c.execute(instance.update().where(instance.c.top == "spine").values(header=None)))
    found = replay(table(folder), spool.rules.came(), ALL)
    assert (found.instances, found.without_facts, found.same) == (7, 3, 4)


def test_damaged_rows_do_not_stop_it(spool: Spool, folder: Path) -> None:
    decide_all(spool, table(folder))
    broken: dict[str, Any] = dict.fromkeys(("probabilities", "facts", "destinations", "shadow"), '{"a": [')
    spool.database.run(lambda c: c.execute(instance.update().values(**broken)))
    assert replay(table(folder), spool.rules.came(), ALL).instances == 7


def test_kept_rules_are_the_same_rules(spool: Spool, folder: Path) -> None:
    text = PRESENT + "header_words: {spine: [WS GANZ, 'ü\"q: x'], ignored: [THX]}\n"
    rules = table(folder, text)
    decide_all(spool, rules)
    (kept,) = spool.rules.tables(rules.digest)
    again = table_of(kept.written)
    assert (again, again.digest) == (rules, rules.digest)


def test_each_condition_says_what_it_wants_and_what_was_found(spool: Spool, folder: Path) -> None:
    rules = table(folder)
    decide_all(spool, rules)
    child = list(spool.rules.came())[5]
    found = explain(rules, child.instance, child.seen, enabled=ALL, kept=None)
    assert [one.outcome for one in found.rules] == [Outcome.FALSE, Outcome.UNKNOWN, Outcome.DECIDES, Outcome.FALSE]
    from router.decide.conditions import Kept

    assert child.facts
    found = explain(rules, child.instance, child.seen, enabled=ALL, kept=Kept(child.facts.age))
    assert [one.outcome for one in found.rules] == [Outcome.FALSE, Outcome.DECIDES, Outcome.TOO_LATE, Outcome.FALSE]
    said = {a.subject: (a.answer, a.wanted, a.found) for one in found.rules for a in one.conditions}
    assert said == {
        "not Modality": (False, "not this", ""), "class": (True, "adult_chest", "adult_chest"),
        "age": (True, "< 16y", "9 years"), "calling_ae": (True, "matches XRAY_(?s:.*)", "XRAY_1"),
        "header_part": (None, "spine", "unknown"), "probability.spine": (False, ">= 0.5", "0.0100"),
    }  # fmt: skip
    assert found.rules[0].conditions[0].parts[0].found == "DX"
    assert found.rules[3].because == ("probability.spine",)


def test_shadow_and_disabled_rules_are_explained(folder: Path) -> None:
    text = """
rules:
  - {name: tried, when: {class: spine}, send: chest-ai, shadow: true}
  - {name: off, when: {class: spine}, send: spine-ai}
otherwise: {send: rest}
"""
    from tests.unit.test_decide import instance as any_instance

    came, seen = any_instance(), Seen("decoded", {}, predicted("spine"))
    found = explain(table(folder, text), came, seen, enabled=frozenset({"rest"}))
    assert [one.outcome for one in found.rules] == [Outcome.SHADOW, Outcome.DISABLED]
    found = explain(table(folder, text), came, seen, enabled=ALL)
    assert [one.outcome for one in found.rules] == [Outcome.SHADOW, Outcome.DECIDES]


EVERYTHING = """
rules:
  - name: everything
    when:
      any:
        - {class: spine, top: spine, view: [frontal, lateral], inverted: false, novel: false, pixels: decoded}
        - {confidence: "> 0.5", part_confidence: "> 0.5 and < 0.9", probability.chest: ">= 0.9", frames: "> 1"}
        - {header_part: chest, header_view: frontal, header_agrees: true, age: ">= 2m"}
        - {calling_ae: X, called_ae: {glob: "R*"}, peer: 10.0.0.0/8, sop_class: CTImageStorage}
        - {KVP: "70", FilterType: {exists: true}, StudyDescription: {regex: "a.*"}}
        - AnatomicRegionSequence: {exists: true}
        - {"(0019,ACME,ab)": x, "(0019,ACME,ac)": {exists: true}}
        - not: {Modality: CR}
    send: rest
otherwise: {send: rest}
"""


HEADERS: tuple[Header, ...] = (
    {}, {0x00180060: None}, {0x00180060: ("",)}, {0x00180060: ("70",), 0x00190010: ("ACME",)},
    {0x00101010: ("005M",), 0x00081030: ("x" * 300,)}, {0x00190010: None, 0x001910AB: None},
)  # fmt: skip


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("top", ["spine", "adult_chest", ""])
def test_every_condition_is_explained_and_as_it_answers(folder: Path, top: str, header: Header) -> None:
    from router.decide.conditions import Facts, Kept, parts
    from tests.unit.test_decide import instance as any_instance

    rules = table(folder, EVERYTHING)
    seen = Seen("decoded" if top else "unparseable", header, predicted(top) if top else None)
    for kept in (None, Kept(None), Kept(None, header_tags(rules))):
        (said,) = explain(rules, any_instance(), seen, enabled=ALL, kept=kept).rules
        answers = list(leaves(said.conditions))
        facts = Facts(any_instance(), seen, kept)
        assert [one.answer for one in answers] == [one.holds(facts) for one in parts(rules.rules[0].when)]
        assert all(one.wanted and one.found for one in answers), [one for one in answers if not one.found]
        assert max(len(one.found) for one in answers) <= 200


def leaves(answers: tuple[Answer, ...]) -> Iterator[Answer]:
    for one in answers:
        if one.parts:
            yield from leaves(one.parts)
        else:
            yield one


def test_rules_are_kept_as_long_as_records_and_not_without_end(
    folder: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(folder / "kept", database, keep_records=10_000.0, keep=10.0)
    with turned_by_hand() as clock, closing(open_spool(settings)) as spool:

        def used(number: int) -> None:
            accept(spool, f"{number}".encode(), f"1.2.{number}")
            (claim,) = spool.decisions.claim(1)
            rules = replace(table(folder), digest=f"{number:032x}")
            assert spool.decisions.record(claim, Seen("none"), Decision("r", (), "", True), {}, rules).result()

        def kept() -> list[int]:
            return [int(one.digest, 16) for one in spool.rules.tables()]

        used(1)
        begin = spool.rules.tables()[0].first_used
        clock.turn(4000)
        used(1)
        one = spool.rules.tables()[0]
        assert (one.first_used, one.last_used) == (begin, begin + 4000)
        clock.turn(100)
        used(1)
        assert spool.rules.tables()[0].last_used == begin + 4000
        used(2)
        clock.turn(17_150)
        used(3)
        while spool.retention.sweep():
            pass
        assert kept() == [3, 2]
        monkeypatch.setattr("router.spool.rule_tables.MOST", 1)
        while spool.retention.sweep():
            pass
        assert kept() == [3]


@pytest.mark.slow
def test_the_command_explains_a_file(folder: Path) -> None:
    from router.pixels.wrap import wrap_image

    wrap_image(np.random.default_rng(1).integers(0, 4096, (64, 64), np.uint16), folder / "a.dcm")
    code, out, _ = run(folder, "explain", str(folder / "a.dcm"), "--calling-ae", "XRAY_9", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["pixels"], found["decided"]) == ("decoded", None)
    assert set(found["probabilities"]) == set(found["thresholds"])
    said = {one["rule"]: one for one in found["rules"]}
    assert said["chest"]["conditions"][1]["found"] == "XRAY_9"
    (folder / "b.dcm").write_bytes(b"no image")
    assert run(folder, "explain", str(folder / "b.dcm"))[0] == 1


# -- the commands


@pytest.fixture
def node(folder: Path) -> tuple[Path, list[str]]:
    spool = open_spool(settings_of(folder / "spool"))
    ids = decide_all(spool, load(folder / "routing.yaml").rules)
    spool.close()
    return folder, ids


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["rules", *arguments, "--config", str(folder / "routing.yaml")])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_lists_and_shows_what_decided(node: tuple[Path, list[str]]) -> None:
    folder, _ = node
    code, out, _ = run(folder, "list", "--json")
    assert code == 0
    one = json.loads(out)
    assert (one["rules"], one["in_force"]) == (4, True)
    assert "in force" in run(folder, "list")[1]
    code, out, _ = run(folder, "show", one["digest"][:8])
    assert code == 0
    assert "name: not X-ray" in out
    (folder / "again.yaml").write_text(DESTINATIONS + out)
    assert load(folder / "again.yaml").rules.digest == one["digest"]
    assert json.loads(run(folder, "show", one["digest"], "--json")[1])["written"]["otherwise"] == {"send": "rest"}
    assert run(folder, "show", "ffffffffff")[0] == run(folder, "show", "%")[0] == run(folder, "show", "")[0] == 1


def test_the_command_replays(node: tuple[Path, list[str]]) -> None:
    folder, ids = node
    (folder / "candidate.yaml").write_text(DESTINATIONS + PRESENT.replace("send: chest-ai", "send: [rest, chest-ai]"))
    code, out, _ = run(folder, "replay", str(folder / "candidate.yaml"))
    assert code == 0
    assert out.startswith("7 instances: 2 would go elsewhere, 5 would not\n")
    assert ids[2] in out
    code, out, _ = run(folder, "replay", str(folder / "candidate.yaml"), "--json", "--since", "1h")
    found = json.loads(out)
    assert (found["instances"], found["moved"], found["changes"][0]["count"]) == (7, 2, 2)
    assert run(folder, "replay", str(folder / "candidate.yaml"), "--last", "1")[1].startswith("1 instances: 0 ")
    assert run(folder, "replay", str(folder / "none.yaml"))[0] == 2
    assert run(folder, "replay", str(folder / "candidate.yaml"), "--since", "never")[0] == 2


def test_the_command_explains(node: tuple[Path, list[str]]) -> None:
    folder, ids = node
    code, out, _ = run(folder, "explain", ids[1])
    assert code == 0
    assert "  2 decides  child -> rest\n" in out
    assert "true     age < 16y; found: 9 years\n" in out
    found = json.loads(run(folder, "explain", ids[1], "--json")[1])
    assert found["decision"]["rule"] == found["decided"]["rule"] == "child"
    assert found["probabilities"]["adult_chest"] == 0.96
    (folder / "routing.yaml").write_text(DESTINATIONS + "rules: []\notherwise: {send: rest}\n")
    assert "the rules that decided; others are in force now" in run(folder, "explain", ids[1])[1]
    code, out, _ = run(folder, "explain", ids[1], "--rules", str(folder / "routing.yaml"))
    assert "was decided: child -> rest\nthese rules: otherwise -> rest\n" in out
    assert run(folder, "explain", "no such thing")[0] == 1


def test_nothing_changes_by_looking(node: tuple[Path, list[str]]) -> None:
    folder, ids = node
    before = sizes(folder)
    run(folder, "replay", str(folder / "routing.yaml"))
    run(folder, "explain", ids[0])
    assert sizes(folder) == before


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (folder / "spool").rglob("*.db")}
