"""Header and vocabulary: what elements say of body part and view, in the words of several languages."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config import ConfigError, load
from router.config.header_words import GROUPS, MOST_WORDS, SHIPPED, shipped_vocabulary
from router.decide import decide
from router.decide.header_words import PARTS, spaced
from router.flow import Caller, Instance, Prediction, Seen

TAGS = {
    "part": 0x00180015, "series": 0x0008103E, "protocol": 0x00181030, "processing": 0x00181400, "study": 0x00081030,
    "requested": 0x00321060, "performed": 0x00400254, "view": 0x00185101,
}  # fmt: skip
TEXTS = {
    "chest": [
        "CHEST", "Thorax p.a. + seitl.", "ThoraxAP", "CHEST2VW", "Radiografia de tórax", "Rx Torace",
        "Poumons face", "RTG klatki piersiowej", "ОГК прямая проекция", "органов грудной клетки",
        "胸部正位片", "흉부 PA", "x_chest_bed",
    ],
    "abdominal": [
        "ABDOMEN", "Abdomen sans préparation", "KUB", "Addome", "Bauch im Stehen", "брюшной полости",
        "腹部立位", "복부", "Abdomen/Pelvis", "Jama brzuszna", "BUIKOVERZICHT",
    ],
    "spine": [
        "LSPINE", "C-SPINE", "l spine 2v", "Thoracic Spine AP/LAT", "LWS 2 Ebenen", "Brustwirbelsäule",
        "BRUSTWIRBELSAEULE", "RX COLUNA LOMBO-SACRA", "columna torácica", "Rachis dorsal", "Colonna dorsale",
        "lumbale wervelkolom", "kręgosłupa lędźwiowego", "грудной отдел позвоночника", "腰椎侧位", "胸椎",
        "頸椎", "요추", "Scoliosis, whole spine",
    ],
    "others": [
        "HAND", "LOW_EXM", "Schädel", "Becken a.p.", "genou droit", "rodilla izq.", "骨盆", "両手",
        "тазобедренный",
    ],
}  # fmt: skip


def part(**elements: str | tuple[str, ...] | None) -> str:
    header = {TAGS[name]: (said,) if isinstance(said, str) else said for name, said in elements.items()}
    return shipped_vocabulary().part(header)


@pytest.mark.parametrize(("wanted", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_words_of_many_languages_name_their_part(wanted: str, text: str) -> None:
    assert part(study=text) == wanted
    assert part(part=text) == wanted


@pytest.mark.parametrize("text", ["", "X-RAY", "UNKNOWN", "Portable", "chestnut street", "handling", "Dorsal", "***"])
def test_what_names_no_part_is_unknown(text: str) -> None:
    assert part(study=text, part=text) == "unknown"


def test_an_absent_empty_or_unreadable_element_says_nothing() -> None:
    assert part() == part(part=(), study=None) == "unknown"
    assert part(part=None, study="Chest") == "chest"


def test_elements_are_weighed_together() -> None:
    assert part(part="CHEST", study="Chest and abdomen") == "chest"
    assert part(study="Chest and abdomen") == "unknown"
    assert part(part="CHEST", series="L-Spine") == "contradictory"
    assert part(part="CHEST", study="Hand") == "contradictory"
    assert part(study="Thorax", requested="Thorax", performed="Becken") == "contradictory"
    assert part(protocol="LWS", processing="L-Spine", study="Chest, spine") == "spine"


def test_the_view_is_that_of_view_position_and_else_that_of_the_descriptions() -> None:
    view = shipped_vocabulary().view
    assert view({TAGS["view"]: ("LL",), TAGS["series"]: ("Thorax pa",)}) == "lateral"
    assert view({TAGS["series"]: ("Thorax p.a.",)}) == "frontal"
    assert view({TAGS["series"]: ("Thorax p.a. und seitlich",)}) == "unknown"
    assert view({TAGS["series"]: ("Thorax pa",), TAGS["protocol"]: ("LAT",)}) == "contradictory"
    assert view({TAGS["view"]: ("RLD",)}) == "other"
    assert view({TAGS["study"]: ("Chest lateral",)}) == "unknown"


def test_the_shipped_words_are_complete_and_unambiguous() -> None:
    words = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    assert list(words) == ["chest", "abdominal", "spine", "others", "frontal", "lateral", "other"]
    assert sorted(words) == sorted(GROUPS)
    for kinds in (PARTS, tuple(name for name in words if name not in PARTS)):
        groups = [{spaced(entry, "*") for entry in words[name]} for name in kinds]
        assert sum(map(len, groups)) == len(set().union(*groups))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=400), max_size=8))
def test_no_text_breaks_it(values: list[str]) -> None:
    vocabulary = shipped_vocabulary()
    header = dict.fromkeys(TAGS.values(), tuple(values))
    assert vocabulary.part(header) in (*PARTS, "unknown", "contradictory")
    assert vocabulary.view(header) in ("frontal", "lateral", "other", "unknown", "contradictory")


def test_long_texts_and_many_values_are_cut() -> None:
    assert part(part="-" * 200 + " chest") == "unknown"
    assert part(part=("x",) * 4 + ("chest",)) == "unknown"


# -- the words of a site

BASE = """
destinations: {catch-all: {ae_title: A, host: 10.0.0.1, port: 104}}
rules:
  - {name: spine, when: {header_part: spine}, send: catch-all}
  - {name: no spine, when: {not: {header_part: spine}}, send: catch-all}
  - {name: nothing said, when: {header_part: unknown}, send: catch-all}
otherwise: {send: catch-all}
"""
INSTANCE = Instance("0" * 32, 0.0, Caller("A", "B", "10.0.0.1"), "1.2", "1.2.3", "1.2.840.10008.1.2", 0, 1, "0")
SPINE = Prediction((0.0, 0.0, 0.0, 1.0, 0.0), "spine", 1.0, 0.0, False, "spine", "m")


def rule_for(tmp_path: Path, study: str, own: str = "") -> str:
    file = tmp_path / "routing.yaml"
    file.write_text(BASE + own)
    seen = Seen("decoded", {TAGS["study"]: (study,)}, SPINE)
    return decide(load(file, {}).rules, INSTANCE, seen, enabled=frozenset({"catch-all"})).rule


def test_a_rule_may_ask_for_what_is_not_said(tmp_path: Path) -> None:
    assert rule_for(tmp_path, "LWS") == "spine"
    assert rule_for(tmp_path, "Hand") == "no spine"
    assert rule_for(tmp_path, "nothing") == "nothing said"


def test_words_of_a_site_are_added_moved_and_taken_away(tmp_path: Path) -> None:
    own = "header_words: {spine: [WS GANZ, 'QX*', hand], ignored: [LWS]}"
    for text in ("ws ganz", "QXYZ 12", "HAND"):
        assert rule_for(tmp_path, text, own) == "spine"
    assert rule_for(tmp_path, "LWS", own) == "nothing said"
    assert rule_for(tmp_path, "BWS", own) == "spine"


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("header_words: {spines: [X]}", "unknown key 'spines' in header_words (did you mean 'spine'?)"),
        ("header_words: {spine: [X], chest: [x]}", "header_words: 'x' is in both spine and chest"),
        ("header_words: {spine: [X], ignored: [x]}", "header_words: 'x' is in both spine and ignored"),
        ("header_words: {spine: ['12']}", "'12' is not a word"),
        ("header_words: {spine: ['*']}", "'*' is not a word"),
        (f"header_words: {{spine: [{', '.join(f'x{n}y' for n in range(MOST_WORDS + 1))}]}}", "has more than 500 words"),
        ("header_words: 3", "header_words must be a mapping"),
    ],
)  # fmt: skip
def test_a_mistake_among_the_words_is_named(tmp_path: Path, own: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rule_for(tmp_path, "LWS", own)
    assert any(said in str(problem) for problem in caught.value.problems)


def test_the_reason_never_holds_what_stood_in_the_header(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(BASE.replace("header_part: spine}, send", "header_agrees: false}, send"))
    seen = Seen("decoded", {TAGS["study"]: ("Chest of Doe",)}, SPINE)
    decision = decide(load(file, {}).rules, INSTANCE, seen, enabled=frozenset({"catch-all"}))
    assert decision.rule == "spine"
    assert "Doe" not in decision.reason
    assert "Chest" not in decision.reason
