"""Rules decide purely, totally and in order, and what is unknown never fires."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide import Otherwise, Rule, RuleTable, decide, header_tags
from router.decide import conditions as c
from router.flow import CLASSES, Caller, Instance, PictureFacts, Prediction, Seen

MODALITY, FRAMES = 0x00080060, 0x00280008


def instance(calling: str = "XRAY_1", peer: str = "10.1.0.5", sop_class: str = "1.2.840.10008.5.1.4.1.1.1") -> Instance:
    return Instance("0" * 32, 0.0, Caller(calling, "ROUTER", peer), sop_class, "1.2.3", "1.2.840.10008.1.2", 0, 1, "0")


def predicted(
    top: str = "spine", confidence: float = 0.99, class_name: str | None = None, novel: bool = False
) -> Prediction:
    rest = (1 - confidence) / 4
    probabilities = tuple(confidence if name == top else rest for name in CLASSES)
    return Prediction(probabilities, top, confidence, 0.0, novel, class_name or top, "model")


def looked_at(prediction: Prediction | None = None, **header: Any) -> Seen:
    tags = {"modality": MODALITY, "frames": FRAMES}
    return Seen("decoded" if prediction else "none", {tags[k]: v for k, v in header.items()}, prediction)


text = st.text(max_size=20) | st.sampled_from(["CR", "016Y", "000Y", "20200101", "19991231", "\ud800", "1\\2"])
values = st.none() | st.lists(text, max_size=3).map(tuple)
HEADER = [MODALITY, FRAMES, 0x00101010, 0x00100030, 0x00080020, 0x00080022, 0x00080023]
headers = st.dictionaries(st.sampled_from(HEADER), values)
numbers = st.floats(allow_nan=True, allow_infinity=True)
predictions = st.none() | st.builds(
    Prediction,
    st.lists(numbers, max_size=6).map(tuple),
    st.sampled_from(CLASSES),
    numbers,
    numbers,
    st.booleans(),
    st.sampled_from((*CLASSES, "uncertain")),
    st.just("model"),
)
seens = st.builds(
    Seen,
    st.sampled_from(["decoded", "none", "undecodable", "unparseable", "failed"]),
    headers,
    predictions,
    st.builds(PictureFacts, frames=st.integers(-1, 5)),
)
instances = st.builds(instance, text, text | st.sampled_from(["10.1.0.5", "::ffff:10.1.0.5", "fe80::1%eth0"]), text)
comparisons = st.builds(c.Comparison, st.sampled_from(sorted(c.OPERATORS)), numbers)
names = st.frozensets(st.sampled_from(CLASSES), min_size=1)
matchers = st.builds(c.Equal.to, st.lists(text, min_size=1)) | st.builds(c.glob, st.sampled_from(["*", "C?", "A*B"]))
leaves = st.one_of(
    st.builds(c.ClassIs, names),
    st.builds(c.TopIs, names),
    st.builds(c.Confidence, comparisons),
    st.builds(c.Probability, names, comparisons),
    st.builds(c.Novel, st.booleans()),
    st.builds(c.PixelsAre, st.frozensets(st.sampled_from(["decoded", "none", "failed"]))),
    st.builds(c.Frames, comparisons),
    st.builds(c.AgeIs, st.sampled_from(sorted(c.OPERATORS)), st.integers(0, 200), st.sampled_from("DWMY")),
    st.builds(c.Text, st.sampled_from(HEADER), st.just("Keyword"), matchers),
    st.builds(c.Exists, st.sampled_from(HEADER), st.just("Keyword"), st.booleans()),
    st.builds(c.FromAe, st.sampled_from(["calling_ae", "called_ae"]), matchers),
    st.builds(c.SopClass, matchers),
    st.builds(c.ResultOf, st.frozensets(st.sampled_from(["a", "b", c.ANY]), min_size=1)),
    st.just(c.PeerIn((ip_network("10.1.0.0/16"),))),
)
conditions = st.recursive(
    leaves,
    lambda below: (
        st.builds(c.Not, below)
        | st.builds(c.AllOf, st.lists(below, min_size=1, max_size=3).map(tuple))
        | st.builds(c.AnyOf, st.lists(below, min_size=1, max_size=3).map(tuple))
    ),
    max_leaves=6,
)
sends = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True).map(tuple)
rules = st.builds(Rule, st.sampled_from(["one", "two", "three"]), conditions, sends, shadow=st.booleans()) | st.builds(
    Rule, st.just("away"), conditions, st.just(()), st.just(True), st.just("not needed")
)
tables = st.builds(RuleTable, st.lists(rules, max_size=4).map(tuple), st.builds(Otherwise, sends))
switches = st.frozensets(st.sampled_from("abcd"))


@pytest.mark.slow
@settings(deadline=None)
@given(tables, instances, seens, switches, st.booleans())
def test_every_instance_gets_one_decision_that_never_changes(
    table: RuleTable, one: Instance, seen: Seen, enabled: frozenset[str], dry_run: bool
) -> None:
    decision = decide(table, one, seen, enabled=enabled, dry_run=dry_run)
    assert decision == decide(table, one, seen, enabled=enabled, dry_run=dry_run)
    assert bool(decision.destinations) != decision.discard
    assert decision.rule == "otherwise" or set(decision.destinations) <= enabled
    assert 0 < len(decision.reason) <= 1000
    assert not dry_run or (decision.rule == "otherwise" and "dry run" in decision.reason)


@settings(deadline=None)
@given(tables, instances, seens, switches)
def test_the_first_rule_that_is_true_and_can_send_wins(
    table: RuleTable, one: Instance, seen: Seen, enabled: frozenset[str]
) -> None:
    facts = c.Facts(one, seen)
    true = [rule for rule in table.rules if rule.when.holds(facts) is True]
    firing = [rule for rule in true if not rule.shadow and (rule.discard or set(rule.send) & enabled)]
    decision = decide(table, one, seen, enabled=enabled)
    assert decision.rule == (firing[0].name if firing else "otherwise")
    before = true[: true.index(firing[0])] if firing else true
    assert decision.shadow == tuple((rule.name, rule.send) for rule in before if rule.shadow)


@settings(deadline=None)
@given(conditions, conditions, instances, seens)
def test_logic_has_three_values(p: c.Condition, q: c.Condition, one: Instance, seen: Seen) -> None:
    facts = c.Facts(one, seen)
    a, b = p.holds(facts), q.holds(facts)
    assert c.Not(c.Not(p)).holds(facts) is a
    assert c.Not(p).holds(facts) is (None if a is None else not a)
    assert c.AllOf((p, q)).holds(facts) is c.AllOf((q, p)).holds(facts)
    assert c.Not(c.AllOf((p, q))).holds(facts) is c.AnyOf((c.Not(p), c.Not(q))).holds(facts)
    assert c.AllOf((p, q)).holds(facts) is (False if False in (a, b) else None if None in (a, b) else True)
    assert c.AnyOf((p,)).holds(facts) is a


@settings(deadline=None)
@given(instances, headers, st.sampled_from(["none", "undecodable", "unparseable", "failed"]), comparisons, names)
def test_without_a_prediction_nothing_about_it_is_true_or_false(
    one: Instance, header: Any, pixels: Any, comparison: c.Comparison, classes: frozenset[str]
) -> None:
    facts = c.Facts(one, Seen(pixels, header))
    asked: list[c.Condition] = [c.ClassIs(classes), c.TopIs(classes), c.Confidence(comparison), c.Novel(False)]
    asked.append(c.Probability(classes, comparison))
    assert {condition.holds(facts) for condition in (*asked, *map(c.Not, asked))} == {None}


@settings(deadline=None)
@given(tables, instances, seens, switches)
def test_a_reason_never_holds_a_value_from_the_header(
    table: RuleTable, one: Instance, seen: Seen, enabled: frozenset[str]
) -> None:
    marked = {tag: None if v is None else tuple(f"Zq{x}qZ" for x in v) for tag, v in seen.header.items()}
    hidden = Seen(seen.pixels, marked, seen.prediction, seen.facts)
    assert "Zq" not in decide(table, one, hidden, enabled=enabled).reason


@settings(deadline=None)
@given(tables, instances, seens, switches)
def test_the_elements_that_are_not_asked_for_change_nothing(
    table: RuleTable, one: Instance, seen: Seen, enabled: frozenset[str]
) -> None:
    needed = {tag: v for tag, v in seen.header.items() if tag in header_tags(table)}
    trimmed = Seen(seen.pixels, needed, seen.prediction, seen.facts)
    assert decide(table, one, trimmed, enabled=enabled) == decide(table, one, seen, enabled=enabled)


@pytest.mark.parametrize(
    ("condition", "seen", "answer"),
    [
        (c.Text(MODALITY, "Modality", c.Equal.to(["CR"])), looked_at(modality=(" cr ",)), True),
        (c.Text(MODALITY, "Modality", c.Equal.to(["CR"])), looked_at(modality=("DX", "CR")), True),
        (c.Text(MODALITY, "Modality", c.Equal.to(["CR"])), looked_at(modality=("DX",)), False),
        (c.Text(MODALITY, "Modality", c.Equal.to(["CR"])), looked_at(modality=()), None),
        (c.Text(MODALITY, "Modality", c.Equal.to(["CR"])), looked_at(modality=None), None),
        (c.Text(MODALITY, "Modality", c.Equal.to(["CR"])), looked_at(), None),
        (c.Text(MODALITY, "Modality", c.glob("c?")), looked_at(modality=("CR",)), True),
        (c.Text(MODALITY, "Modality", c.glob("c.")), looked_at(modality=("CR",)), False),
        (c.Text(MODALITY, "Modality", c.Regex("c|dx")), looked_at(modality=("CR",)), False),
        (c.Text(MODALITY, "Modality", c.Regex("c|d.*")), looked_at(modality=("DX",)), True),
        (c.Exists(MODALITY, "Modality", True), looked_at(modality=("",)), True),
        (c.Exists(MODALITY, "Modality", True), looked_at(modality=None), True),
        (c.Exists(MODALITY, "Modality", True), looked_at(modality=()), False),
        (c.Exists(MODALITY, "Modality", False), looked_at(), True),
        (c.Exists(MODALITY, "Modality", False), Seen("unparseable"), None),
        (c.Frames(c.Comparison(">", 1)), looked_at(frames=("2",)), True),
        (c.Frames(c.Comparison(">", 1)), looked_at(frames=("²",)), None),
        (c.Frames(c.Comparison(">", 1)), looked_at(), None),
        (c.Frames(c.Comparison(">", 1)), Seen("decoded", {FRAMES: ("9",)}, None, PictureFacts(frames=1)), False),
        (c.ClassIs(frozenset({"uncertain"})), looked_at(predicted(class_name="uncertain")), True),
        (c.TopIs(frozenset({"spine"})), looked_at(predicted(class_name="uncertain")), True),
        (c.Confidence(c.Comparison(">=", 0.99)), looked_at(predicted()), True),
        (c.Confidence(c.Comparison(">", 0.99)), looked_at(predicted()), False),
        (c.Confidence(c.Comparison("!=", 0.5)), looked_at(predicted(confidence=float("nan"))), None),
        (c.Novel(True), looked_at(predicted(novel=True)), True),
        (c.PixelsAre(frozenset({"none"})), looked_at(), True),
    ],
)
def test_a_condition_is_true_false_or_unknown(condition: c.Condition, seen: Seen, answer: bool | None) -> None:
    assert condition.holds(c.Facts(instance(), seen)) is answer


ACME = c.Private(0x0019, "ACME", 0xAB)
PORTABLE = c.PrivateText(ACME, c.Equal.to(["PORTABLE"]))
BLOCK_10, BLOCK_11 = 0x00190010, 0x00190011


@pytest.mark.parametrize(
    ("header", "text", "exists"),
    [
        ({}, None, False),
        ({BLOCK_10: ("ACME",)}, None, False),
        ({BLOCK_10: ("ACME",), 0x001910AB: ("PORTABLE",)}, True, True),
        ({BLOCK_10: ("acme",), 0x001910AB: ("portable", "x")}, True, True),
        ({BLOCK_10: ("ACME",), 0x001910AB: ("FIXED",)}, False, True),
        # The block of another maker first: its element of that number is another one.
        ({BLOCK_10: ("OTHER",), 0x001910AB: ("PORTABLE",)}, None, False),
        ({BLOCK_10: ("OTHER",), BLOCK_11: ("ACME",), 0x001910AB: ("X",), 0x001911AB: ("PORTABLE",)}, True, True),
        ({BLOCK_10: ("ACME",), BLOCK_11: ("ACME",), 0x001910AB: ("X",), 0x001911AB: ("PORTABLE",)}, True, True),
        # There, and not to be read: a kind that is not written, a sequence, a creator that stands there twice.
        ({BLOCK_10: ("ACME",), 0x001910AB: None}, None, True),
        ({BLOCK_10: ("ACME",), 0x001910AB: ("",)}, None, True),
        ({BLOCK_10: None, 0x001910AB: ("PORTABLE",)}, None, None),
    ],
)
def test_a_private_element_lies_in_its_makers_block(header: Any, text: bool | None, exists: bool | None) -> None:
    facts = c.Facts(instance(), Seen("decoded", header))
    assert set(header) <= PORTABLE.tags
    assert PORTABLE.holds(facts) is text
    assert c.Not(PORTABLE).holds(facts) is (None if text is None else not text)
    assert c.PrivateExists(ACME, True).holds(facts) is exists


def test_what_has_no_text_is_neither_equal_nor_unequal() -> None:
    portable = c.Text(0x001910AB, "(0019,10ab)", c.Equal.to(["PORTABLE"]))
    for unreadable in (None, ("",)):
        facts = c.Facts(instance(), Seen("decoded", {0x001910AB: unreadable}))
        assert portable.holds(facts) is None
        assert c.Not(portable).holds(facts) is None


def test_a_code_of_one_value_that_has_two_is_unknown() -> None:
    facts = c.Facts(instance(), looked_at(modality=("CT", "CR")))
    assert c.Text(MODALITY, "Modality", c.Equal.to(["CT"]), single=True).holds(facts) is None
    assert c.Text(MODALITY, "Modality", c.Equal.to(["CT"])).holds(facts) is True


def test_the_chests_are_summed() -> None:
    prediction = Prediction((0.02, 0.5, 0.45, 0.02, 0.01), "adult_chest", 0.5, 0.0, False, "uncertain", "m")
    chest = frozenset({"adult_chest", "pediatric_chest"})
    facts = c.Facts(instance(), looked_at(prediction))
    assert c.Probability(chest, c.Comparison(">=", 0.95)).holds(facts) is True
    assert c.Probability(chest, c.Comparison(">", 0.95)).holds(facts) is False
    assert c.Probability(chest, c.Comparison(">", 0.95)).subject == "probability.chest"


@pytest.mark.parametrize(
    ("peer", "answer"),
    [("10.1.0.5", True), ("::ffff:10.1.0.5", True), ("10.2.0.5", False), ("fe80::1", False), ("?", None)],
)
def test_a_peer_is_an_address(peer: str, answer: bool | None) -> None:
    condition = c.PeerIn((ip_network("10.1.0.0/16"),))
    assert condition.holds(c.Facts(instance(peer=peer), looked_at())) is answer


SPINE = Rule("spine", c.ClassIs(frozenset({"spine"})), ("a", "b"))
ONLY = RuleTable((SPINE,), Otherwise(("rest",)))


def test_a_disabled_destination_is_left_out_and_named() -> None:
    decision = decide(ONLY, instance(), looked_at(predicted()), enabled=frozenset({"b", "rest"}))
    assert (decision.rule, decision.destinations) == ("spine", ("b",))
    assert decision.reason == "rule 'spine' (class): sent to b; disabled: a"


def test_a_rule_whose_destinations_are_all_disabled_is_passed_over() -> None:
    decision = decide(ONLY, instance(), looked_at(predicted()), enabled=frozenset({"rest"}))
    assert (decision.rule, decision.destinations) == ("otherwise", ("rest",))
    assert decision.reason == "otherwise: no rule fired; 'spine' passed over (every destination disabled)"


def test_nothing_vanishes_when_everything_is_disabled() -> None:
    assert decide(ONLY, instance(), looked_at(), enabled=frozenset()).destinations == ("rest",)


def test_what_was_unknown_is_said() -> None:
    decision = decide(ONLY, instance(), looked_at(), enabled=frozenset({"a", "rest"}))
    assert decision.reason == "otherwise: no rule fired; 'spine' unknown (class)"


def test_a_dry_run_says_what_would_have_been() -> None:
    decision = decide(ONLY, instance(), looked_at(predicted()), enabled=frozenset({"a", "b", "rest"}), dry_run=True)
    assert (decision.rule, decision.destinations) == ("otherwise", ("rest",))
    assert decision.reason == "dry run: would have been rule 'spine' (class): sent to a, b"


def test_a_dry_run_discards_nothing() -> None:
    table = RuleTable((Rule("away", c.PixelsAre(frozenset({"none"})), (), True, "no images"),), Otherwise(("rest",)))
    wet = decide(table, instance(), looked_at(), enabled=frozenset({"rest"}))
    dry = decide(table, instance(), looked_at(), enabled=frozenset({"rest"}), dry_run=True)
    assert (wet.discard, wet.destinations, wet.reason) == (True, (), "rule 'away' (pixels): discarded: no images")
    assert (dry.discard, dry.destinations) == (False, ("rest",))


def test_a_shadow_rule_is_recorded_and_changes_nothing() -> None:
    shadow = Rule("trial", c.TopIs(frozenset({"spine"})), ("new",), shadow=True)
    decision = decide(
        RuleTable((shadow, SPINE), ONLY.otherwise), instance(), looked_at(predicted()), enabled=frozenset({"a", "rest"})
    )
    assert (decision.rule, decision.shadow) == ("spine", (("trial", ("new",)),))
