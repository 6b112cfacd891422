"""Who gets what: the rules under test decide where images belong, and made headers repeat."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.flow import CLASSES, Prediction
from router.training.data import Item
from router.training.routes import DRAWS, Routes, rows, simulated, who_gets_what, without_part

BODY_PART, AGE = 0x00180015, 0x00101010


def item(label: str, number: int = 0, age: float | None = None, source: str = "here") -> Item:
    return Item(Path(f"{label}/{number}.png"), label, f"p{number}", source=source, age=age)


def says(name: str, confidence: float = 0.99, second: str = "others") -> Prediction:
    chances = dict.fromkeys(CLASSES, 0.0) | {second: 1 - confidence} | {name: confidence}
    class_name = name if confidence >= 0.9 else "uncertain"
    return Prediction(tuple(chances[n] for n in CLASSES), name, confidence, 0.0, False, class_name, "")


@pytest.fixture(scope="module")
def shipped() -> Routes:
    return Routes.of(None)


def test_the_rules_say_themselves_where_a_class_belongs(shipped: Routes) -> None:
    assert {name: sorted(place) for name, place in shipped.places.items()} == {
        "abdominal": ["abdominal-ai"], "adult_chest": ["adult-chest-ai"], "pediatric_chest": ["pediatric-chest-ai"],
        "spine": ["spine-ai"], "others": ["catch-all"],
    }  # fmt: skip


def test_right_wrong_and_to_people(shipped: Routes) -> None:
    for name in ("abdominal", "spine", "adult_chest"):
        assert shipped.outcome(name, without_part(item(name)), says(name)) == "right"
        assert shipped.outcome(name, without_part(item(name)), says(name, 0.6)) == "people"
    assert shipped.outcome("abdominal", without_part(item("abdominal")), says("spine")) == "wrong"
    assert shipped.outcome("others", without_part(item("others")), says("spine")) == "wrong"
    assert shipped.outcome("others", without_part(item("others")), says("others")) == "people"


def test_the_age_of_the_set_decides_between_chests(shipped: Routes) -> None:
    child = item("pediatric_chest", age=9)
    assert shipped.outcome("pediatric_chest", without_part(child), says("adult_chest")) == "right"
    assert shipped.outcome("pediatric_chest", without_part(item("pediatric_chest")), says("adult_chest")) == "wrong"
    infant = without_part(item("pediatric_chest", age=0.5))
    assert infant[AGE] == ("006M",)


def test_a_simulated_header_is_right_absent_or_wrong_in_the_shares_that_are_said() -> None:
    said = [simulated(item("spine", n), 0).get(BODY_PART) for n in range(4000)]
    shares = {word: said.count(word) / len(said) for word in set(said)}
    assert shares[("SPINE",)] == pytest.approx(0.85, abs=0.02)
    assert shares[None] == pytest.approx(0.10, abs=0.02)
    assert sum(share for word, share in shares.items() if word not in (("SPINE",), None)) == pytest.approx(
        0.05, abs=0.02
    )
    assert said == [simulated(item("spine", n), 0).get(BODY_PART) for n in range(4000)]
    assert said != [simulated(item("spine", n), 1).get(BODY_PART) for n in range(4000)]


def test_counts_by_hand(shipped: Routes) -> None:
    items = [item("spine", n, source="ab"[n % 2]) for n in range(4)] + [item("others", 9)]
    predictions = [says("spine"), says("spine", 0.6), says("abdominal"), says("spine"), says("spine")]
    table = who_gets_what(shipped, items, predictions)["no body part in the header"]
    assert {k: table[k] for k in ("n", "at_an_ai", "wrong", "mean_coverage")} == {
        "n": 5, "at_an_ai": 4, "wrong": 2, "mean_coverage": 0.5,
    }  # fmt: skip
    assert table["wrong_at_an_ai"]["k"] == 2
    assert {k: table["classes"]["spine"][k] for k in ("n", "right", "wrong", "people")} == {
        "n": 4, "right": 2, "wrong": 1, "people": 1,
    }  # fmt: skip
    assert table["classes"]["others"]["wrong"] == 1
    spines = [row for row in table["sources"] if row["class"] == "spine"]
    counted = [(row["source"], row["right"], row["wrong"], row["people"]) for row in spines]
    assert counted == [("a", 1, 1, 0), ("b", 1, 0, 1)]


def test_a_right_header_helps_where_the_pixels_are_open(shipped: Routes) -> None:
    items = [item("spine", n) for n in range(200)]
    open_ = [says("abdominal", 0.6, second="spine")] * 200
    found = who_gets_what(shipped, items, open_)
    alone, both = found["no body part in the header"], found["simulated header"]
    assert alone["classes"]["spine"]["right"] == 0
    assert both["classes"]["spine"]["right"] == pytest.approx(0.85 * 200, abs=200 * 0.05)
    assert both["n"] == 200
    assert DRAWS > 1
    assert [row[:2] for row in rows(found)] == [
        ("no body part in the header", "all"), ("", "spine"), ("simulated header", "all"), ("", "spine"),
    ]  # fmt: skip


def test_another_routing_yaml_is_scored_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(
        "destinations: {spine: {ae_title: S, host: h, port: 1}, all: {ae_title: A, host: h, port: 2}}\n"
        "rules: [{name: s, when: {top: spine}, send: spine}]\notherwise: {send: all}\n"
    )
    routes = Routes.of(file)
    assert routes.places["adult_chest"] == routes.places["others"] == {"all"}
    assert routes.outcome("adult_chest", {}, says("spine")) == "wrong"
    assert routes.outcome("adult_chest", {}, says("adult_chest")) == "right"
