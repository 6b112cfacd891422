"""A rule that is said to never fire never fires: random tables, and random instances that the node could see."""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Network
from random import Random

import pytest

from router.decide import Rule
from router.decide import conditions as c
from router.decide.age import BIRTH_DATE, PATIENT_AGE, STUDY_DATE
from router.decide.unreachable import never_fire
from router.flow import CLASSES, UNCERTAIN, Caller, Header, Instance, PictureFacts, Prediction, Seen

TABLES = int(os.environ.get("DICOM_ROUTER_TEST_TABLES", "150"))
INSTANCES = 30
CODE, TEXTS = 0x00080060, 0x00080008
ACME = c.Private(0x0019, "ACME", 0xAB)
WORDS = ["A", "b", "C"]
NUMBERS = [0.0, 0.25, 0.5, 1.0]
STATES = ["decoded", "none", "undecodable", "unparseable", "failed"]
NAMES = [*CLASSES[:3], UNCERTAIN]
NETWORKS = [IPv4Network(n) for n in ("10.0.0.0/8", "10.1.0.0/16", "10.2.0.5/32", "11.0.0.0/8")]
PEERS = ["10.1.0.5", "10.2.0.5", "11.0.0.1", "::1", "nowhere"]
AGES = ["000Y", "001Y", "002Y", "011M", "012M", "013M", "023M", "364D", "366D", "030D", "016Y", "x"]
DATES = ["20200101", "20200102", "20200131", "20201231", "20210101", "20220101"]


def prediction(random: Random) -> Prediction:
    """As calibration makes them: a class is its top or uncertain, and what is novel is uncertain."""
    top, novel = random.choice(CLASSES[:3]), random.random() < 0.3
    named = UNCERTAIN if novel or random.random() < 0.3 else top
    shares = tuple(random.choice([*NUMBERS, 0.3, float("nan")]) for _ in CLASSES)
    return Prediction(shares, top, random.choice([*NUMBERS, 0.3, float("nan")]), 0.0, novel, named, "m")


def texts(random: Random) -> tuple[str, ...] | None:
    return random.choice([None, *([tuple(random.choices([*WORDS, "D", " a ", ""], k=random.randint(0, 2)))] * 4)])


def header(random: Random) -> Header:
    values: dict[int, tuple[str, ...] | None] = {
        CODE: texts(random),
        TEXTS: texts(random),
        PATIENT_AGE: (random.choice(AGES),),
        BIRTH_DATE: (random.choice(DATES),),
        STUDY_DATE: (random.choice(DATES),),
        0x00190010: random.choice([("ACME",), ("OTHER",), None]),
        0x001910AB: texts(random),
        0x00190011: ("acme",),
        0x001911AB: texts(random),
    }
    return {tag: value for tag, value in values.items() if random.random() < 0.7}


def instance(random: Random) -> c.Facts:
    words = [*WORDS, "D"]
    caller = Caller(random.choice(words), random.choice(words), random.choice(PEERS))
    one = Instance("0" * 32, 0.0, caller, random.choice(words), "1.2.3", "1.2.840.10008.1.2", 0, 1, "0")
    seen = Seen(
        random.choice(STATES),  # type: ignore[arg-type]
        header(random),
        prediction(random) if random.random() < 0.8 else None,
        PictureFacts(frames=random.randint(0, 3)),
        result_of=tuple(random.sample(WORDS, random.randint(0, 2))),
    )
    return c.Facts(one, seen)


def matcher(random: Random) -> c.Matcher:
    if random.random() < 0.2:
        return c.glob(random.choice(["*", "a*", "?"]))
    return c.Equal.to(random.sample(WORDS, random.randint(1, 2)))


def number(random: Random) -> c.Comparison:
    return c.Comparison(random.choice(sorted(c.OPERATORS)), random.choice(NUMBERS))


LEAVES: list[Callable[[Random], c.Condition]] = [
    lambda random: c.ClassIs(frozenset(random.sample(NAMES, random.randint(1, 2)))),
    lambda random: c.TopIs(frozenset(random.sample(CLASSES[:3], random.randint(1, 2)))),
    lambda random: c.Novel(random.random() < 0.5),
    lambda random: c.Confidence(number(random)),
    lambda random: c.Probability(frozenset(CLASSES[: random.randint(1, 2)]), number(random)),
    lambda random: c.PixelsAre(frozenset(random.sample(STATES, random.randint(1, 4)))),
    lambda random: c.Frames(c.Comparison(random.choice(sorted(c.OPERATORS)), random.randint(0, 3))),
    lambda random: c.AgeIs(
        random.choice(sorted(c.OPERATORS)), random.choice([0, 1, 2, 11, 12, 13, 24, 365]), random.choice("DWMY")
    ),
    lambda random: c.Text(CODE, "Code", matcher(random), True),
    lambda random: c.Text(TEXTS, "Texts", matcher(random)),
    lambda random: c.Exists(random.choice([CODE, TEXTS]), "Keyword", random.random() < 0.5),
    lambda random: c.PrivateText(ACME, matcher(random)),
    lambda random: c.PrivateExists(ACME, random.random() < 0.5),
    lambda random: c.FromAe(random.choice(["calling_ae", "called_ae"]), matcher(random)),
    lambda random: c.SopClass(matcher(random)),
    lambda random: c.ResultOf(frozenset(random.sample([*WORDS, c.ANY], random.randint(1, 2)))),
    lambda random: c.PeerIn(tuple(random.sample(NETWORKS, random.randint(1, 2)))),
]


def condition(random: Random, kinds: list[int], depth: int = 3) -> c.Condition:
    kind = random.random() if depth else 1.0
    if kind < 0.15:
        return c.Not(condition(random, kinds, depth - 1))
    if kind < 0.55:
        parts = tuple(condition(random, kinds, depth - 1) for _ in range(random.randint(1, 3)))
        return (c.AllOf if kind < 0.35 else c.AnyOf)(parts)
    return LEAVES[random.choice(kinds)](random)


def tables(random: Random) -> list[Rule]:
    """A few rules that ask about a few things, so that they meet."""
    kinds = random.sample(range(len(LEAVES)), 2)
    whens = [condition(random, kinds) for _ in range(random.randint(1, 5))]
    return [Rule(str(place), when, ("a",), shadow=random.random() < 0.1) for place, when in enumerate(whens)]


@pytest.mark.parametrize("seed", range(3))
def test_what_can_never_fire_never_does(seed: int) -> None:
    random, found, fired = Random(seed), 0, 0
    for _ in range(TABLES):
        rules = tables(random)
        never = never_fire(rules, [not rule.shadow for rule in rules])
        found += len(never)
        for facts in (instance(random) for _ in range(INSTANCES)):
            for place, rule in enumerate(rules):
                if rule.when.holds(facts) is True:
                    fired += 1
                    assert place not in never, (rules, never, facts)
                    if not rule.shadow:
                        break
    assert found > TABLES // 10
    assert fired > TABLES


@pytest.mark.parametrize("leaf", range(len(LEAVES)))
def test_a_rule_below_the_same_rule_never_fires(leaf: int) -> None:
    """Of each kind of condition something can be said."""
    random = Random(leaf)
    for _ in range(20):
        when = LEAVES[leaf](random)
        rules = [Rule("a", when, ("a",)), Rule("b", c.AllOf((when, c.Novel(False))), ("a",))]
        assert 1 in never_fire(rules, [True, True]), when
