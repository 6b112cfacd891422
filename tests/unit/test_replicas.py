"""`send: {one_of: …}`: one of several destinations, the same one for all of a study, and only healthy ones."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import ConfigError, load
from router.config.kept_rules import table_of
from router.decide import decide as decided
from router.decide.decision import places
from router.decide.replay import replay
from router.flow import Decision, Instance, Seen
from router.spool import DeliveryState, Spool, open_spool, replicas
from router.spool.keyed import STUDY
from router.spool.rule_tables import kept_tables
from tests.unit.spooling import CALLERS, settings_of
from tests.unit.test_studies import arrive, claims, comes, decide, named, sent, work_off

NAMES = ("ai", "other", "pacs")
ONE = Decision("chests", NAMES, "sent to one of ai, other, pacs", one_of="study")
EACH = Decision("chests", NAMES, "sent to one of ai, other, pacs", one_of="instance")


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


@given(st.text(), st.lists(st.sampled_from("abcdefgh"), min_size=2, unique=True), st.data())
def test_if_one_goes_only_what_it_had_goes_elsewhere(key: str, names: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(names))
    before, after = replicas.best(key, names), replicas.best(key, [name for name in names if name != gone])
    assert after == before or gone == before


def test_the_choice_is_even() -> None:
    counts = Counter(replicas.best(str(number), NAMES) for number in range(3000))
    assert min(counts.values()) > 800


def test_a_study_goes_to_one_place_and_stays_there(spool: Spool) -> None:
    first = comes(spool, "1.1", ONE)
    (to,) = sent(spool, first)
    row = spool.views.instance(first)
    assert row is not None
    assert (row.destinations, row.reason) == ([to], f"sent to one of ai, other, pacs; chosen: {to}")
    spool.orders.pause(to, "ann")
    assert sent(spool, comes(spool, "1.2", ONE)) == [to]
    without = Decision("chests", tuple(name for name in NAMES if name != to), "because", one_of="study")
    (instead,) = sent(spool, comes(spool, "1.3", without))
    assert instead != to
    assert sent(spool, comes(spool, "1.4", ONE)) == [instead]


def test_only_what_is_tried_now_is_chosen(spool: Spool) -> None:
    spool.orders.pause("ai", "ann")
    spool.destinations.set_circuit("pacs", 60.0, 1, "refused")
    for number in range(8):
        assert sent(spool, comes(spool, f"1.{number}", ONE, f"2.{number}")) == ["other"]
    spool.orders.pause("other", "ann")
    assert len(sent(spool, comes(spool, "1.9", ONE, "2.9"))) == 1


def test_without_a_study_or_by_instance_each_is_chosen_alone(spool: Spool) -> None:
    for decision, study in ((ONE, ""), (EACH, "1.9")):
        to = {sent(spool, comes(spool, f"{study}1.{number}", decision, study))[0] for number in range(24)}
        assert to == set(NAMES)


def test_a_new_decision_stays_where_the_old_one_was(spool: Spool) -> None:
    which = comes(spool, "1.1", EACH)
    (to,) = sent(spool, which)
    spool.orders.pause(to, "ann")
    assert spool.orders.redecide(which, "ann")
    assert decide(spool, claims(spool)["1.1"], EACH)
    assert sent(spool, which) == [to]


def test_a_study_that_stays_together_follows_to_the_choice(spool: Spool) -> None:
    early = comes(spool, "1.1", Decision("otherwise", ("rest",), "because"))
    leads = Decision("chests", NAMES, "because", one_of="study", study=True)
    (to,) = sent(spool, comes(spool, "1.2", leads))
    work_off(spool)
    assert sent(spool, early) == sorted([to, "rest"])
    assert sent(spool, comes(spool, "1.3", ONE)) == [to]


def test_a_choice_is_kept_as_long_as_records_are(spool: Spool) -> None:
    (to,) = sent(spool, comes(spool, "1.1", ONE))
    assert spool.database.run(lambda c: replicas.forget(c, 1e18, 10)) == 0
    (one,) = spool.deliveries.claim(to, 1)
    assert spool.deliveries.close(one, DeliveryState.DONE).result()
    for name in ("delivery", "instance"):
        spool.database.run(lambda c, name=name: c.exec_driver_sql(f"DELETE FROM {name}") and None)  # type: ignore[misc]
    assert spool.database.run(lambda c: replicas.forget(c, 1e18, 10)) == 1


@pytest.mark.postgresql
def test_two_nodes_choose_the_same(tmp_path: Path, postgresql: Callable[[], str]) -> None:
    """They decide at once, and the health of the destinations changes between."""
    wanted = settings_of(tmp_path / "spool", postgresql())
    nodes = open_spool(wanted), open_spool(wanted)
    ids = [arrive(nodes[0], f"1.{number}").id for number in range(40)]

    def decides(spool: Spool, paused: str) -> None:
        while got := spool.decisions.claim(2):
            for claim in got:
                study = f"2.{int(claim.instance.sop_instance.split('.')[1]) % 5}"
                spool.orders.pause(paused, "ann")
                assert spool.decisions.record(claim, Seen("none", named(study)), ONE, {}).result(60)
                spool.orders.resume(paused, "ann")

    threads = [threading.Thread(target=decides, args=pair) for pair in zip(nodes, ("ai", "pacs"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    to: dict[str, set[str]] = {}
    for which in ids:
        row = nodes[0].views.instance(which)
        assert row is not None
        to.setdefault(str(row.study), set()).update(sent(nodes[0], which))
    assert len(to) == 5
    assert all(len(places) == 1 for places in to.values())
    for one in nodes:
        one.close()


# -- in the table

TABLE = """
destinations:
  ai: {ae_title: A, host: 127.0.0.1, port: 104}
  other: {ae_title: B, host: 127.0.0.1, port: 105, enabled: %s}
  pacs: {ae_title: C, host: 127.0.0.1, port: 106}
rules:
  - {name: no pixels, when: {pixels: none}, send: {one_of: [ai, other]}}
otherwise: {send: pacs}
"""


def test_a_rule_with_one_of(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    one = Instance("0" * 32, 0.0, CALLERS[0], "1.2", "1.2", "1.2", 0, 0, "")
    for enabled, names, shown in (("true", ("ai", "other"), "one of ai, other"), ("false", ("ai",), "one of ai")):
        file.write_text(TABLE % enabled)
        loaded = load(file, {})
        decision = decided(loaded.rules, one, Seen("none"), enabled=loaded.enabled)
        assert (decision.destinations, decision.one_of, places(decision)) == (names, "study", (shown,))
        assert "sent to one of ai" in decision.reason
    for wrong, said in (
        ("{one_of: [ai]}", "must name two destinations"),
        ("{by: study}", "must name two destinations"),
        ("{one_of: [ai, nobody]}", "unknown destination 'nobody'"),
        ("{one_of: [ai, other], by: patient}", "'patient' is not allowed"),
    ):
        file.write_text((TABLE % "true").replace("{one_of: [ai, other]}", wrong))
        with pytest.raises(ConfigError, match=said):
            load(file, {})


def test_otherwise_with_one_of(spool: Spool, tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    text = (TABLE % "true").replace("pixels: none", "pixels: failed")
    for written, by in (("{one_of: [ai, other]}", "study"), ("{one_of: [ai, other], by: instance}", "instance")):
        file.write_text(text.replace("otherwise: {send: pacs}", f"otherwise: {{send: {written}}}"))
        loaded = load(file, {})
        assert (loaded.rules.otherwise.send, loaded.rules.otherwise.one_of) == (("ai", "other"), by)
    file.write_text(text.replace("otherwise: {send: pacs}", "otherwise: {send: {one_of: [ai, other, pacs]}}"))
    loaded = load(file, {})
    places_of_study = set()
    for number in range(6):
        arrive(spool, f"1.{number}", "1.9")
        claim = claims(spool)[f"1.{number}"]
        seen = Seen("none", {STUDY: ("1.9",)})
        decision = decided(loaded.rules, claim.instance, seen, enabled=loaded.enabled, dry_run=number == 5)
        assert spool.decisions.record(claim, seen, decision, loaded.limits, loaded.rules).result()
        (to,) = sent(spool, claim.instance.id)
        places_of_study.add(to)
        row = spool.views.instance(claim.instance.id)
        assert row
        assert (row.reason or "").endswith(f"; chosen: {to}")
    assert len(places_of_study) == 1
    for wrong, said in (
        ("{one_of: [ai]}", "must name two destinations"),
        ("{one_of: [ai, nobody]}", "unknown destination 'nobody'"),
        ("{by: study}", "must name two destinations"),
    ):
        file.write_text(text.replace("otherwise: {send: pacs}", f"otherwise: {{send: {wrong}}}"))
        with pytest.raises(ConfigError, match=said):
            load(file, {})


def test_replay_takes_the_choice_for_the_same(spool: Spool, tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(TABLE % "true")
    loaded = load(file, {})
    arrive(spool, "1.1", "1.9")
    claim = claims(spool)["1.1"]
    decision = decided(loaded.rules, claim.instance, Seen("none"), enabled=loaded.enabled)
    assert spool.decisions.record(claim, Seen("none"), decision, loaded.limits, loaded.rules).result()
    assert replay(loaded.rules, spool.rules.came(), loaded.enabled).same == 1
    (kept,) = spool.database.ask(lambda c: kept_tables(c, ""))
    assert table_of(kept.written).rules[0].one_of == "study"
    file.write_text((TABLE % "true").replace("[ai, other]", "[other, pacs]"))
    (to,) = sent(spool, claim.instance.id)
    found = replay(load(file, {}).rules, spool.rules.came(), loaded.enabled)
    assert found.moved == (to == "ai")
