"""`scope: study`: where one instance of a study goes, the others follow, in whatever order they are decided."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.flow import Decision, Header, Instance, Seen
from router.spool import BULK, Claim, DeliveryState, InstanceState, Spool, SpoolError, open_spool, owing, studies
from router.spool.keyed import STUDY
from router.spool.schema import study_destination
from tests.unit.peer import wait_for
from tests.unit.spooling import CALLERS, instance_for, sealed, settings_of

TO: Mapping[str, int | None] = {"ai": None, "pacs": None, "other": None}
LEADS = Decision("chest study", ("ai",), "rule 'chest study' (class): sent to ai", study=True)
RESTS = Decision("otherwise", ("pacs",), "otherwise: no rule fired")
DISCARDS = Decision("no raw images", (), "rule 'no raw images': discarded", discard=True)


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def named(study: str) -> Header:
    return {STUDY: (study,)} if study else {}


def arrive(spool: Spool, uid: str, study: str = "", data: bytes = b"pixels") -> Instance:
    """`study` empty: receiving does not know it."""
    blob = sealed(spool, data)
    one = instance_for(blob, uid, CALLERS[0])
    spool.intake.accept(blob, one, named(study))
    return one


def claims(spool: Spool) -> dict[str, Claim]:
    return {one.instance.sop_instance: one for one in spool.decisions.claim(100)}


def decide(
    spool: Spool, claim: Claim, decision: Decision, study: str = "1.9", to: Mapping[str, int | None] = TO
) -> bool:
    seen = Seen("none", named(study), reason="no pixel data")
    return spool.decisions.record(claim, seen, decision, to).result()


def comes(spool: Spool, uid: str, decision: Decision, study: str = "1.9") -> str:
    """An instance is received and decided. Returns its id."""
    arrive(spool, uid, study)
    assert decide(spool, claims(spool)[uid], decision, study)
    return str(next(row.id for row in spool.views.instances() if row.sop_instance == uid))


def work_off(spool: Spool, to: Mapping[str, int | None] = TO) -> int:
    """Let all follow that have still to. Returns the steps that it took."""
    steps = 0
    while spool.studies.step(to) is not None:
        steps += 1
        assert steps < 1000
    return steps


def sent(spool: Spool, which: str) -> list[str]:
    return sorted(row.destination for row in spool.views.deliveries(instance_id=which))


# -- who follows


def test_earlier_and_later_ones_follow_and_say_whom(spool: Spool) -> None:
    early, leader = comes(spool, "1.1", RESTS), comes(spool, "1.2", LEADS)
    assert sent(spool, early) == ["pacs"]
    work_off(spool)
    late = comes(spool, "1.3", RESTS)
    assert sent(spool, early) == sent(spool, late) == ["ai", "pacs"]
    assert sent(spool, leader) == ["ai"]
    for which in (early, late):
        (ai,) = [row for row in spool.views.deliveries(instance_id=which) if row.destination == "ai"]
        assert (ai.follows, ai.state) == (leader, DeliveryState.OPEN)
        (event,) = [one for one in spool.views.events(instance_id=which) if one.kind == studies.FOLLOWS]
        assert (event.destination, event.detail) == ("ai", {"follows": leader, "rule": "chest study"})
    row = spool.views.instance(late)
    assert row is not None
    assert (row.rule, row.destinations) == ("otherwise", ["pacs"])
    assert row.reason == (
        f"otherwise: no rule fired; follows instance {leader} of its study to ai (rule 'chest study')"
    )
    first = spool.views.instance(early)
    assert first is not None
    assert first.reason == "otherwise: no rule fired"
    assert comes(spool, "2.1", RESTS, "another") not in {row.instance_id for row in spool.views.deliveries(to="ai")}


def test_what_a_rule_discards_does_not_follow(spool: Spool) -> None:
    early = comes(spool, "1.1", DISCARDS)
    comes(spool, "1.2", LEADS)
    late = comes(spool, "1.3", DISCARDS)
    work_off(spool)
    assert sent(spool, early) == sent(spool, late) == []


def test_without_a_study_it_goes_alone_and_says_so(spool: Spool) -> None:
    alone = comes(spool, "1.1", LEADS, study="")
    other = comes(spool, "1.2", RESTS, study="")
    work_off(spool)
    assert (sent(spool, alone), sent(spool, other)) == (["ai"], ["pacs"])
    row = spool.views.instance(alone)
    assert row is not None
    assert row.reason is not None
    assert row.reason.endswith(studies.NO_STUDY)


def test_never_twice_to_one_destination(spool: Spool) -> None:
    """Whatever became of the first delivery: it arrived, or a person dropped it, or ordered a new decision."""
    early, dropped = comes(spool, "1.1", RESTS), comes(spool, "1.2", RESTS)
    comes(spool, "1.3", LEADS)
    work_off(spool)
    for one in spool.deliveries.claim("ai", 10):
        if one.instance.id == dropped:
            spool.deliveries.retry(one, 0, "", tried=False).result()
        else:
            spool.deliveries.close(one, DeliveryState.DONE).result()
    (waiting,) = [row.id for row in spool.views.deliveries(to="ai", states=("open",))]
    assert spool.orders.discard([waiting], "ann") == 1
    for which, uid in ((early, "1.1"), (dropped, "1.2")):
        assert spool.orders.redecide(which, "ann")
        assert decide(spool, claims(spool)[uid], RESTS)
    comes(spool, "1.4", LEADS)
    work_off(spool)
    assert sent(spool, early) == sent(spool, dropped) == ["ai", "pacs"]


def test_what_is_decided_anew_by_such_a_rule_leads_then(spool: Spool) -> None:
    first, second = comes(spool, "1.1", RESTS), comes(spool, "1.2", RESTS)
    assert spool.orders.redecide(first, "ann")
    assert decide(spool, claims(spool)["1.1"], LEADS)
    work_off(spool)
    assert sent(spool, second) == ["ai", "pacs"]


def test_a_lost_claim_leads_nobody(spool: Spool) -> None:
    arrive(spool, "1.1", "1.9")
    claim = claims(spool)["1.1"]
    spool.decisions.release(claim).result()
    assert not decide(spool, claim, LEADS)
    assert sent(spool, comes(spool, "1.2", RESTS)) == ["pacs"]


def test_a_disabled_destination_is_followed_to_when_it_is_enabled(spool: Spool) -> None:
    early = comes(spool, "1.1", RESTS)
    comes(spool, "1.2", LEADS)
    without = {"pacs": None}
    assert spool.studies.step(without) is None
    arrive(spool, "1.3", "1.9")
    assert decide(spool, claims(spool)["1.3"], RESTS, to=without)
    assert {row.instance_id for row in spool.views.deliveries(to="ai")}.isdisjoint({early})
    work_off(spool)
    assert sent(spool, early) == ["ai", "pacs"]


def test_limit_and_loops_hold_for_what_follows(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owing, "CIRCLING_COPIES", 2)
    for _ in range(3):  # the same bytes under one UID from one caller
        comes(spool, "1.1", RESTS)
        for one in spool.deliveries.claim("pacs", 10):
            spool.deliveries.close(one, DeliveryState.DONE).result()
    for uid in ("1.2", "1.3"):
        comes(spool, uid, RESTS)
    comes(spool, "1.4", LEADS)
    work_off(spool, {"ai": 2, "pacs": None})
    reasons = sorted(str(row.reason) for row in spool.views.deliveries(to="ai", states=("buried",)))
    assert reasons == sorted([owing.CIRCLING, *[owing.LIMIT_REACHED] * 3])
    assert len(spool.views.deliveries(to="ai", states=("open",))) == 2


def test_thousands_follow_in_bounded_steps_that_a_crash_does_not_repeat(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "BITE", 3)
    early = [comes(spool, f"1.{n}", RESTS) for n in range(8)]
    comes(spool, "2.1", LEADS)
    assert spool.studies.step(TO) is not None
    assert len(spool.views.deliveries(to="ai")) == 1 + 2  # the leader is looked at too
    count = 0

    def fails_late(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise SpoolError("the node is killed here")

    note = studies.note
    with monkeypatch.context() as patch:
        patch.setattr(studies, "note", fails_late)
        with pytest.raises(SpoolError):
            spool.studies.step(TO)
    assert len(spool.views.deliveries(to="ai")) == 1 + 2
    assert studies.note is note
    assert work_off(spool) == 3
    assert all(sent(spool, which) == ["ai", "pacs"] for which in early)


# -- what a person orders


def test_a_person_sends_a_study_that_is_still_to_come(spool: Spool) -> None:
    first, second = comes(spool, "1.1", RESTS), comes(spool, "1.2", RESTS)
    signal = spool.signals.of(BULK)
    version = signal.version
    assert spool.orders.send_also(first, "ai", "ann", study=True)
    assert signal.version > version
    work_off(spool)
    third = comes(spool, "1.3", RESTS)
    assert all(sent(spool, which) == ["ai", "pacs"] for which in (first, second, third))
    follows = {row.instance_id: row.follows for row in spool.views.deliveries(to="ai")}
    assert follows == {first: None, second: first, third: first}
    row = spool.views.instance(third)
    assert row is not None
    assert str(row.reason).endswith(f"follows instance {first} of its study to ai (ordered by a person)")
    (order,) = [one for one in spool.views.events() if one.kind == "study sent by a person"]
    assert (order.instance_id, order.destination, order.detail) == (first, "ai", {"who": "ann"})


def test_a_study_that_is_not_known_is_not_sent(spool: Spool) -> None:
    assert not spool.orders.send_also(comes(spool, "1.1", RESTS, study=""), "ai", "ann", study=True)
    assert not spool.orders.send_also("0" * 32, "ai", "ann", study=True)
    assert not spool.orders.send_also(arrive(spool, "1.2", "1.9").id, "ai", "ann", study=True)


@pytest.mark.parametrize("by_rule", [True, False])
def test_a_person_ends_it_and_no_rule_begins_it_again(spool: Spool, by_rule: bool) -> None:
    first = comes(spool, "1.1", LEADS if by_rule else RESTS)
    if not by_rule:
        assert spool.orders.send_also(first, "ai", "ann", study=True)
    work_off(spool)
    before = comes(spool, "1.2", RESTS)
    assert spool.views.follows_to(study_of(spool, first)) == ["ai"]
    assert spool.orders.end_study(before, "ai", "bob")
    assert spool.views.follows_to(study_of(spool, first)) == []
    after = comes(spool, "1.3", RESTS)
    led = comes(spool, "1.4", LEADS)
    work_off(spool)
    last = comes(spool, "1.5", RESTS)
    assert [sent(spool, which) for which in (before, after, last)] == [["ai", "pacs"], ["pacs"], ["pacs"]]
    assert "ai" in sent(spool, led), "what a rule sends is sent"
    (event,) = [one for one in spool.views.events() if one.kind == "study ended by a person"]
    assert (event.instance_id, event.destination, event.detail) == (before, "ai", {"who": "bob"})
    assert not spool.orders.end_study(before, "ai", "bob"), "it has ended"
    assert spool.orders.send_also(last, "ai", "ann", study=True)
    work_off(spool)
    assert sent(spool, after) == ["ai", "pacs"]
    assert sent(spool, comes(spool, "1.6", RESTS)) == ["ai", "pacs"]


def test_what_has_still_to_follow_does_not_follow_any_more(spool: Spool) -> None:
    early = comes(spool, "1.1", RESTS)
    leads = comes(spool, "1.2", LEADS)
    assert spool.orders.end_study(leads, "ai", "bob")
    assert work_off(spool) == 0
    assert sent(spool, early) == ["pacs"]


def test_only_what_goes_on_can_be_ended(spool: Spool) -> None:
    assert not spool.orders.end_study(comes(spool, "1.1", RESTS), "ai", "bob")
    assert not spool.orders.end_study(comes(spool, "1.2", RESTS, study=""), "ai", "bob")
    assert not spool.orders.end_study("0" * 32, "ai", "bob")


def study_of(spool: Spool, which: str) -> str:
    row = spool.views.instance(which)
    assert row
    assert row.study
    return row.study


# -- as long as records are kept


def test_late_ones_follow_for_as_long_as_records_are_kept(spool: Spool) -> None:
    leader = comes(spool, "1.1", LEADS)
    (one,) = spool.deliveries.claim("ai", 1)
    assert spool.deliveries.close(one, DeliveryState.DONE).result()
    assert spool.retention.remove_all() == 1
    row = spool.views.instance(leader)
    assert row is not None
    assert row.state is InstanceState.GONE
    assert spool.database.run(lambda c: studies.forget(c, 1e18, 10)) == 0
    late = comes(spool, "1.2", RESTS)
    assert sent(spool, late) == ["ai", "pacs"]
    assert sent(spool, comes(spool, "1.3", RESTS, "no other")) == ["pacs"]

    def forget(connection: sa.Connection) -> int:
        for name in ("delivery", "instance"):
            connection.exec_driver_sql(f"DELETE FROM {name}")
        return studies.forget(connection, 1e18, 10)

    assert spool.database.run(forget) == 1
    assert sent(spool, comes(spool, "1.4", RESTS)) == ["pacs"]


# -- nobody is left behind

KINDS = st.sampled_from(["leads", "rests", "discards"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(["1.8", "1.9"]), st.booleans()),
        st.tuples(st.just("decide"), st.integers(0, 5), KINDS),
        st.tuples(st.just("follow"), st.just(0), st.just(0)),
        st.tuples(st.just("crash"), st.just(0), st.just(0)),
        st.tuples(st.just("again"), st.integers(0, 5), KINDS),
    ),
    min_size=4,
    max_size=24,
)
DECISIONS = {"leads": LEADS, "rests": RESTS, "discards": DISCARDS}


class History:
    """A spool to which things happen, and what is known of it."""

    def __init__(self, folder: Path) -> None:
        self.settings = settings_of(folder)
        self.spool = open_spool(self.settings)
        self.study_of: dict[str, str] = {}
        self.waiting: list[str] = []
        self.decided: dict[str, str] = {}
        self.led: set[str] = set()

    def arrive(self, study: str, is_known: bool) -> None:
        uid = f"1.{len(self.study_of)}"
        self.study_of[uid] = study
        self.waiting.append(uid)
        arrive(self.spool, uid, study if is_known else "")

    def decide(self, which: int, kind: str) -> None:
        if not self.waiting:
            return
        uid = self.waiting.pop(which % len(self.waiting))
        held = claims(self.spool)
        assert decide(self.spool, held.pop(uid), DECISIONS[kind], self.study_of[uid])
        for one in held.values():
            self.spool.decisions.release(one, forget_try=True).result()
        self.decided[uid] = kind
        if kind == "leads":
            self.led.add(self.study_of[uid])

    def again(self, which: int, kind: str) -> None:
        if not self.decided:
            return
        uid = sorted(self.decided)[which % len(self.decided)]
        (row,) = [row for row in self.spool.views.instances() if row.sop_instance == uid]
        assert self.spool.orders.redecide(row.id, "ann")
        del self.decided[uid]
        self.waiting.append(uid)
        self.decide(len(self.waiting) - 1, kind)

    def follow(self, *_: int) -> None:
        self.spool.studies.step(TO)

    def crash(self, *_: int) -> None:
        self.spool.close()
        self.spool = open_spool(self.settings)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_no_instance_is_left_behind_in_any_order(steps: list[tuple[str, Any, Any]]) -> None:
    """Arrival, decision, new decision, following and crash in any order: in the end all of a study are where one is."""
    with tempfile.TemporaryDirectory(prefix="studies ") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "BITE", 2)
        history = History(Path(folder, "spool"))
        for step, value, more in steps:
            getattr(history, step)(value, more)
        while history.waiting:
            history.decide(0, "rests")
        spool = history.spool
        work_off(spool)
        for row in spool.views.instances():
            deliveries = spool.views.deliveries(instance_id=row.id)
            there = "ai" in {one.destination for one in deliveries}
            leads = history.study_of[row.sop_instance] in history.led
            assert there or not leads or history.decided[row.sop_instance] == "discards"
            assert leads or not there
            assert sum(one.follows is not None for one in deliveries) <= 1
        spool.close()


@pytest.fixture
def nodes(tmp_path: Path, postgresql: Callable[[], str]) -> Iterator[tuple[Spool, Spool]]:
    wanted = settings_of(tmp_path / "spool", postgresql())
    both = open_spool(wanted), open_spool(wanted)
    yield both
    for one in both:
        one.close()


@pytest.mark.postgresql
def test_two_nodes_that_decide_at_once_leave_none_behind(
    nodes: tuple[Spool, Spool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has read that nothing is followed, and not committed yet, when the other begins to lead. Only the decision
    knows the study, so no index shows the first instance until its commit."""
    one, other = nodes
    arrive(one, "1.1")
    arrive(one, "1.2")
    held = claims(one)
    has_read, go_on = threading.Event(), threading.Event()
    owe = owing.owe

    def slow(connection: sa.Connection, which: Instance, *rest: Any) -> dict[str, str]:
        if which.sop_instance == "1.1":
            has_read.set()
            assert go_on.wait(60)
        return owe(connection, which, *rest)

    monkeypatch.setattr(owing, "owe", slow)
    seen = Seen("none", named("1.9"), reason="no pixel data")
    first = one.decisions.record(held["1.1"], seen, RESTS, TO)
    assert has_read.wait(60)
    second = other.decisions.record(held["1.2"], seen, LEADS, TO)

    def waits(connection: sa.Connection) -> bool:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool(connection.exec_driver_sql(query).scalar())

    wait_for(lambda: second.done() or other.database.ask(waits))
    if second.done():
        work_off(other)
    go_on.set()
    assert first.result(60)
    assert second.result(60)
    work_off(other)
    assert sent(one, held["1.1"].instance.id) == ["ai", "pacs"]


@pytest.mark.postgresql
def test_many_decisions_on_two_nodes_leave_none_behind(nodes: tuple[Spool, Spool]) -> None:
    """Both lead and follow in the same studies at once, and both work off what is to follow."""
    ids: dict[str, str] = {}
    for number in range(60):
        uid = f"1.{number}"
        ids[uid] = arrive(nodes[0], uid).id
    stopping = threading.Event()

    def decides(spool: Spool) -> None:
        while got := spool.decisions.claim(3):
            futures = []
            for claim in got:
                number = int(claim.instance.sop_instance.split(".")[1])
                seen = Seen("none", named(f"1.{number % 4}"), reason="no pixel data")
                futures.append(spool.decisions.record(claim, seen, LEADS if number % 5 == 0 else RESTS, TO))
            assert all(one.result(60) for one in futures)

    def follows(spool: Spool) -> None:
        while not stopping.is_set():
            if spool.studies.step(TO) is None:
                stopping.wait(0.02)

    workers = [threading.Thread(target=decides, args=[one]) for one in nodes]
    helpers = [threading.Thread(target=follows, args=[one]) for one in nodes]
    for thread in workers + helpers:
        thread.start()
    for thread in workers:
        thread.join(120)
    stopping.set()
    for thread in helpers:
        thread.join(120)
    work_off(nodes[0])
    to = {which: sent(nodes[0], which) for which in ids.values()}
    assert all("ai" in names for names in to.values())
    assert all(len(names) == len(set(names)) for names in to.values())
    query = sa.select(sa.func.count()).select_from(study_destination)
    assert nodes[0].database.ask(lambda c: c.execute(query).scalar()) == 4
