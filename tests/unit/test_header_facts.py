"""What a decision keeps of the header: enough to try other rules on it, and never who the patient is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.config.keywords import identifies
from router.decide import Otherwise, Rule, RuleTable
from router.decide import conditions as c
from router.decide.age import TAGS as AGE_TAGS
from router.decide.age import Age, age_at_study
from router.decide.conditions.header import NUMBER_OF_FRAMES
from router.decide.header_facts import FIXED_TAGS, MOST_CHARACTERS, VERSION, Asked, asked, facts_of
from router.decide.header_words import PART_TAGS, VIEW_TAGS
from router.flow import Caller, Decision, Instance, Seen
from router.spool import Spool, open_spool
from router.spool.header_facts import as_text, from_text
from tests.unit.spooling import accept, settings_of

BIRTH, STUDIED, AGE, NAME = 0x00100030, 0x00080020, 0x00101010, 0x00100010
KVP, VIEW = 0x00180060, 0x00185101
ADULT = c.AgeIs(">=", 16, "Y")
FILTER = 0x00181160


def table(*when: c.Condition) -> RuleTable:
    rules = tuple(Rule(f"rule {n}", one, ("ai",)) for n, one in enumerate(when))
    return RuleTable(rules, Otherwise(("rest",)), "d" * 32, '{"rules": []}')


def instance() -> Instance:
    return Instance("0" * 32, 0.0, Caller("A", "B", "10.0.0.1"), "1.2", "1.3", "1.4", 0, 0, "")


def test_the_fixed_list_names_no_patient_and_all_that_conditions_read() -> None:
    fixed = FIXED_TAGS[VERSION]
    assert not [f"{tag:08x}" for tag in fixed if identifies(tag)]
    assert not fixed & AGE_TAGS
    assert fixed >= PART_TAGS | VIEW_TAGS | {NUMBER_OF_FRAMES}


def test_what_is_kept() -> None:
    rules = table(c.AllOf((c.Text(FILTER, "FilterType", c.Equal.to(["NONE"])), ADULT)))
    header = {NAME: ("SECRET",), BIRTH: ("20100105",), STUDIED: ("20260101",), AGE: ("015Y",), KVP: ("70",),
              VIEW: None, FILTER: ("NONE",), 0x00181161: ("not asked for",)}  # fmt: skip
    kept = facts_of(header, asked(rules))
    assert kept.values == {KVP: ("70",), VIEW: None, FILTER: ("NONE",)}
    assert kept.age == Age(15.0, 16.0)
    text = as_text(kept)
    assert from_text(text) == kept
    assert not [word for word in ("SECRET", "2010", "2026", "15Y") if word in text]


@pytest.mark.parametrize("limit", ["20d", "27d", "28d", "5w", "4m", "30m", "65m", "5y", "16y"])
@pytest.mark.parametrize("born", ["20251210", "20251125", "20250901", "20230801", "20200815", "20100101", "20091231"])
def test_the_rules_of_then_get_the_same_answer_of_the_kept_age(limit: str, born: str) -> None:
    seen = Seen("none", {BIRTH: (born,), STUDIED: ("20251231",)})
    for sign in ("<", "<=", ">", ">=", "==", "!="):
        rules = table(c.AgeIs(sign, int(limit[:-1]), limit[-1].upper()))
        kept = from_text(as_text(facts_of(seen.header, asked(rules))))
        assert kept
        then = rules.rules[0].when.holds(c.Facts(instance(), seen))
        assert rules.rules[0].when.holds(c.Facts(instance(), Seen("none"), c.Kept(kept.age))) == then
        assert then is not None


def test_no_age_is_kept_to_the_day() -> None:
    for born, widest in (("19500412", 1.0), ("20240412", 1 / 12), ("20251201", 7 / 365.25)):
        header = {BIRTH: (born,), STUDIED: ("20251231",)}
        kept, real = facts_of(header, Asked(frozenset(), frozenset())).age, age_at_study(header)
        assert kept
        assert real
        assert kept.least <= real.least < real.below <= kept.below
        assert kept.below - kept.least == pytest.approx(widest)


def test_a_header_without_an_age_or_without_anything() -> None:
    for header in ({}, {AGE: None}, {AGE: ("000Y",)}):
        kept = facts_of(header, asked(table(ADULT)))
        assert (kept.values, kept.age, kept.whole) == ({}, None, True)
        assert from_text(as_text(kept)) == kept


def test_a_large_header_stays_small_and_says_so() -> None:
    long = ("x" * 256,) * 64
    header = dict.fromkeys(FIXED_TAGS[VERSION], long) | {VIEW: ("AP",), FILTER: ("NONE",)}
    kept = facts_of(header, asked(table(c.Text(FILTER, "FilterType", c.Equal.to(["NONE"])))))
    assert kept.values == {VIEW: ("AP",), FILTER: ("NONE",)}
    assert not kept.whole
    assert len(as_text(kept)) < MOST_CHARACTERS
    assert KVP in kept.missing(frozenset({KVP, VIEW}), Asked(frozenset({FILTER}), frozenset()))


def test_what_was_not_kept_is_unknown_and_not_absent() -> None:
    facts = c.Facts(instance(), Seen("none"), c.Kept(None, frozenset({FILTER, KVP, *PART_TAGS})))
    for condition in (
        c.Exists(FILTER, "FilterType", False), c.Exists(FILTER, "FilterType", True),
        c.Text(FILTER, "FilterType", c.Equal.to(["NONE"])), c.Not(c.Text(KVP, "KVP", c.Equal.to(["70"]))),
        ADULT,
    ):  # fmt: skip
        assert condition.holds(facts) is None, condition
    assert c.Exists(VIEW, "ViewPosition", False).holds(facts) is True
    place = c.Private(0x19, "ACME", 1)
    private = c.Facts(instance(), Seen("none"), c.Kept(None, place.tags))
    assert c.PrivateExists(place, False).holds(private) is None
    assert c.PrivateText(place, c.Equal.to(["x"])).holds(private) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 1}', '{"values": {"x": 1}}', '{"values": 3}'])
def test_a_damaged_column_is_no_facts(text: str) -> None:
    assert from_text(text) is None


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def test_a_decision_keeps_facts_and_its_rules(spool: Spool) -> None:
    rules = table(c.Text(FILTER, "FilterType", c.Equal.to(["NONE"])), ADULT)
    for uid in ("1.2.3", "1.2.4"):
        accept(spool, uid.encode(), uid)
        (claim,) = spool.decisions.claim(1)
        seen = Seen("none", {AGE: ("040Y",), NAME: ("SECRET",), VIEW: ("A\0P\ud800",)})
        decision = Decision("rule 1", ("ai",), "because", table=rules.digest)
        assert spool.decisions.record(claim, seen, decision, {}, rules).result()
    row = spool.views.instance(claim.instance.id)
    assert row
    assert row.header == json.loads(as_text(facts_of(seen.header, asked(rules))))
    assert row.header["age"] == [40, 41]
    (kept,) = spool.rules.tables()
    assert (kept.digest, kept.written, kept.asked) == (rules.digest, {"rules": []}, asked(rules))
    assert kept.first_used == kept.last_used
    assert spool.rules.tables("dd") == [kept]
    assert spool.rules.tables("ab") == []
