"""Results are matched to the deliveries that they answer, in whatever order things happen; a missing one is noted."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.config.settings import ResultsFrom
from router.dicom.uids import RESULTS
from router.flow import Caller, Decision, Delivery, Instance, Seen
from router.spool import DeliveryState, InstanceState, Spool, SpoolError, open_spool, results, steady
from router.spool.events import add_event
from router.spool.find import Filter, Result
from router.spool.keyed import STUDY
from router.spool.matching import ALONE, REFERENCE, Match, may_be_result
from router.spool.matching import STUDY as OF_STUDY
from tests.unit.spooling import SOP_CLASS, instance_for, sealed, settings_of, turned_by_hand

SR = "1.2.840.10008.5.1.4.1.1.88.33"
SC = "1.2.840.10008.5.1.4.1.1.7"
XRAY, CHEST, BONE, WORKSTATION = (
    Caller(title, "ROUTER", "10.0.0.1") for title in ("XRAY", "CHEST_AI", "BONE_AI", "WORK")
)  # fmt: skip
GIVERS = {
    "chest-ai": ResultsFrom(frozenset({"CHEST_AI", "CHEST_OUT"}), True),
    "bone-ai": ResultsFrom(frozenset({"BONE_AI"}), False),
}
LIMITS: Mapping[str, int | None] = dict.fromkeys(("chest-ai", "bone-ai", "pacs", "people"))
EXPECTS: dict[str, tuple[float, str | None]] = {"chest-ai": (600.0, "people")}


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def comes(
    spool: Spool, uid: str, caller: Caller, *to: str, study: str = "1.9", sop_class: str = SOP_CLASS,
    refers_to: tuple[str, ...] = (), decision: Decision | None = None, data: bytes = b"",
) -> str:  # fmt: skip
    """An instance is received and decided, as the classifier does it. Returns its id."""
    blob = sealed(spool, data or uid.encode())
    one = replace(instance_for(blob, uid, caller, time.time()), sop_class=sop_class)
    spool.intake.accept(blob, one)
    (claim,) = spool.decisions.claim(1)
    seen = Seen("none", {STUDY: (study,)}, references=refers_to)
    found = match(spool, one, study, refers_to)
    wanted = decision or Decision("a rule", to, "a rule")
    assert spool.decisions.record(claim, seen, wanted, LIMITS, found=found).result()
    return one.id


def match(spool: Spool, one: Instance, study: str, refers_to: tuple[str, ...]) -> Match:
    key = spool.decisions.key
    assert key is not None
    return spool.results.match(one, key.study(study), refers_to, GIVERS, frozenset({"PACS"}))


def image(spool: Spool, uid: str, *to: str, study: str = "1.9") -> str:
    return comes(spool, uid, XRAY, *(to or ("chest-ai",)), study=study)


def answer(spool: Spool, uid: str = "2.1", caller: Caller = CHEST, *to: str, refers_to: tuple[str, ...] = (),
           study: str = "1.9", sop_class: str = SR) -> str:  # fmt: skip
    return comes(spool, uid, caller, *(to or ("pacs",)), study=study, sop_class=sop_class, refers_to=refers_to)


def begin(spool: Spool, name: str = "chest-ai") -> list[Delivery]:
    return spool.deliveries.claim(name, 100)


def end(spool: Spool, claimed: list[Delivery], expect: float | None = 600.0, took: float = 0.0) -> None:
    for one in claimed:
        assert spool.deliveries.close(one, DeliveryState.DONE, expect=expect, took=took).result()


def send(spool: Spool, name: str = "chest-ai", expect: float | None = 600.0) -> None:
    end(spool, begin(spool, name), expect)


def of(spool: Spool, which: str) -> list[tuple[str, str, str]]:
    return [(row.result_id, row.destination, row.how) for row in spool.results.answering(which)]


def row_of(spool: Spool, which: str, name: str = "chest-ai") -> Any:
    (row,) = [row for row in spool.views.deliveries(instance_id=which) if row.destination == name]
    return row


def states(spool: Spool, which: str) -> dict[str, str]:
    return {row.destination: str(row.state) for row in spool.views.deliveries(instance_id=which)}


# -- whose result it is


def test_what_refers_to_a_delivered_instance_answers_it(spool: Spool) -> None:
    one, other = image(spool, "1.1"), image(spool, "1.2", study="1.8")
    send(spool)
    result = answer(spool, refers_to=("1.1", "9.9"), study="1.77")
    assert of(spool, one) == [(result, "chest-ai", REFERENCE)]
    assert of(spool, other) == []
    (row,) = spool.results.answered_by(result)
    assert row.instance_id == one
    assert row.seconds is not None
    assert 0 <= row.seconds < 60


def test_without_a_reference_the_study_and_the_ae_title_say_it(spool: Spool) -> None:
    one, other = image(spool, "1.1"), image(spool, "1.2", study="1.8")
    send(spool)
    result = answer(spool, caller=Caller("CHEST_OUT", "ROUTER", "10.0.0.9"))
    assert of(spool, one) == [(result, "chest-ai", OF_STUDY)]
    assert of(spool, other) == []


def test_one_result_of_a_study_answers_all_that_was_delivered_of_it_before(spool: Spool) -> None:
    first, second = image(spool, "1.1"), image(spool, "1.2")
    send(spool)
    third = image(spool, "1.3")
    result = answer(spool, refers_to=("1.2",))
    assert of(spool, second) == [(result, "chest-ai", REFERENCE)]
    assert of(spool, first) == [(result, "chest-ai", OF_STUDY)]
    send(spool)
    assert of(spool, third) == []
    assert row_of(spool, third).result_due is not None


@pytest.mark.parametrize(
    ("caller", "sop_class", "refers_to", "study", "how"),
    [
        (WORKSTATION, SR, ("1.1",), "1.9", ALONE),
        (WORKSTATION, SR, (), "1.9", None),
        (Caller("PACS", "ROUTER", "10.0.0.1"), SR, ("1.1",), "1.9", None),
        (XRAY, SR, ("1.1",), "1.9", None),
        (BONE, SR, ("1.1",), "1.9", None),
        (CHEST, SR, (), "1.7", None),
        (CHEST, SOP_CLASS, (), "1.9", OF_STUDY),
    ],
    ids=["another AE title", "no reference", "the PACS", "the modality", "another AI", "another study",
         "an X-ray of a named one"],
)  # fmt: skip
def test_who_counts(
    spool: Spool, caller: Caller, sop_class: str, refers_to: tuple[str, ...], study: str, how: str | None
) -> None:
    one = image(spool, "1.1")
    send(spool)
    result = comes(spool, "2.1", caller, "pacs", study=study, sop_class=sop_class, refers_to=refers_to)
    assert of(spool, one) == ([(result, "chest-ai", how)] if how else [])


def test_an_x_ray_is_no_result_of_an_ai_that_is_not_named(spool: Spool) -> None:
    one = image(spool, "1.1", "bone-ai")
    send(spool, "bone-ai")
    comes(spool, "2.1", BONE, "pacs")
    assert of(spool, one) == []
    result = answer(spool, "2.2", BONE)
    assert of(spool, one) == [(result, "bone-ai", OF_STUDY)]


def test_what_is_delivered_after_a_result_came_is_not_answered_by_it(spool: Spool) -> None:
    """Also if the result is decided later still."""
    first, second = image(spool, "1.1"), image(spool, "1.2")
    early, late = begin(spool)
    end(spool, [early])
    blob = sealed(spool, b"result")
    one = replace(instance_for(blob, "2.1", CHEST, time.time()), sop_class=SR)
    end(spool, [late])
    found = match(spool, one, "1.9", ("1.1",))
    assert [row.instance_id for row in found.answered] == [first]
    assert second not in {row.instance_id for row in match(spool, one, "1.9", ()).answered}
    blob.discard()


def test_a_reference_alone_decides_only_if_one_destination_has_it(spool: Spool) -> None:
    one = image(spool, "1.1", "chest-ai", "bone-ai")
    send(spool)
    send(spool, "bone-ai")
    answer(spool, caller=WORKSTATION, refers_to=("1.1",))
    assert of(spool, one) == []


def test_what_was_never_sent_is_answered_only_by_who_names_it(spool: Spool) -> None:
    one, other = image(spool, "1.1"), image(spool, "1.2", study="1.8")
    result = answer(spool, refers_to=("1.1",))
    assert of(spool, one) == [(result, "chest-ai", REFERENCE)]
    answer(spool, "2.2", study="1.8")
    answer(spool, "2.3", WORKSTATION, refers_to=("1.2",))
    assert of(spool, other) == []


def test_a_kill_in_a_try_leaves_no_trace_and_its_result_counts(tmp_path: Path) -> None:
    opened = open_spool(settings_of(tmp_path / "spool"))
    one = image(opened, "1.1")
    assert begin(opened)
    opened.close()
    opened = open_spool(settings_of(tmp_path / "spool"))
    result = answer(opened, refers_to=("1.1",))
    send(opened)
    assert of(opened, one) == [(result, "chest-ai", REFERENCE)]
    assert row_of(opened, one).result_due is None
    opened.close()


def test_a_modality_costs_no_question(spool: Spool) -> None:
    blob = sealed(spool, b"x")
    one = instance_for(blob, "1.1", XRAY)
    assert not may_be_result(one, GIVERS)
    assert may_be_result(replace(one, caller=CHEST), GIVERS)
    assert all(may_be_result(replace(one, sop_class=sop_class), GIVERS) for sop_class in RESULTS)
    assert not may_be_result(replace(one, sop_class=SR), {})
    blob.discard()


# -- in any order


def test_a_result_that_is_quicker_than_the_note_of_its_delivery(spool: Spool) -> None:
    one = image(spool, "1.1")
    claimed = begin(spool)
    result = answer(spool, refers_to=("1.1",))
    assert of(spool, one) == [(result, "chest-ai", REFERENCE)]
    assert spool.results.answering(one)[0].seconds is None
    end(spool, claimed)
    assert spool.results.answering(one)[0].seconds == 0.0
    assert row_of(spool, one).result_due is None


def test_a_result_without_reference_that_comes_during_the_try(spool: Spool) -> None:
    first, second, third = image(spool, "1.1"), image(spool, "1.2"), image(spool, "1.3")
    claimed = begin(spool)
    end(spool, claimed[:1])
    result = answer(spool)
    assert of(spool, first) == [(result, "chest-ai", OF_STUDY)]
    end(spool, claimed[1:2], took=30.0)
    assert of(spool, second) == [(result, "chest-ai", OF_STUDY)]
    end(spool, claimed[2:], took=0.0)
    assert of(spool, third) == []
    assert row_of(spool, third).result_due is not None


def test_a_delivery_that_fails_after_all_and_is_done_later(spool: Spool) -> None:
    one = image(spool, "1.1")
    (claimed,) = begin(spool)
    assert spool.deliveries.retry(claimed, 0.0, "no answer").result()
    result = answer(spool, refers_to=("1.1",))
    send(spool)
    assert of(spool, one) == [(result, "chest-ai", REFERENCE)]
    assert row_of(spool, one).result_due is None


def test_a_new_decision_of_a_result_matches_again_and_once(spool: Spool) -> None:
    one = image(spool, "1.1")
    send(spool)
    result = answer(spool, refers_to=("1.1",))
    assert spool.orders.redecide(result, "ann")
    (claim,) = spool.decisions.claim(1)
    found = match(spool, claim.instance, "1.9", ("1.1",))
    assert spool.decisions.record(claim, Seen("none"), Decision("r", ("pacs",), "r"), LIMITS, found=found).result()
    assert of(spool, one) == [(result, "chest-ai", REFERENCE)]


# -- never back


def test_a_result_never_goes_back_by_any_rule(spool: Spool) -> None:
    image(spool, "1.1")
    send(spool)
    result = answer(spool, "2.1", CHEST, "pacs", "chest-ai", refers_to=("1.1",))
    assert states(spool, result) == {"pacs": "open", "chest-ai": "skipped"}
    row = spool.views.instance(result)
    assert row is not None
    assert str(row.reason).endswith("not sent to chest-ai: it came from there")
    only = comes(spool, "2.2", CHEST, "chest-ai", study="5.5")
    assert states(spool, only) == {"chest-ai": "skipped"}
    row = spool.views.instance(only)
    assert row is not None
    assert row.state is InstanceState.FINISHED


def test_a_result_goes_to_none_of_several_nodes_of_its_ai(spool: Spool) -> None:
    image(spool, "1.1")
    send(spool)
    wanted = Decision("r", ("bone-ai", "chest-ai"), "r", one_of="study")
    result = comes(spool, "2.1", CHEST, decision=wanted, sop_class=SR)
    assert states(spool, result) == {"chest-ai": "skipped"}


def test_a_result_of_a_result_goes_to_neither(spool: Spool) -> None:
    image(spool, "1.1")
    send(spool)
    first = answer(spool, "2.1", CHEST, "bone-ai", refers_to=("1.1",))
    assert states(spool, first) == {"bone-ai": "open"}
    send(spool, "bone-ai")
    second = answer(spool, "2.2", BONE, "chest-ai", "bone-ai", "pacs", refers_to=("2.1",))
    assert states(spool, second) == {"chest-ai": "skipped", "bone-ai": "skipped", "pacs": "open"}


@pytest.mark.parametrize("first", ["result", "leader"])
def test_a_result_does_not_follow_its_study_back(spool: Spool, first: str) -> None:
    image(spool, "1.1")
    send(spool)
    leads = Decision("chest study", ("chest-ai",), "r", study=True)

    def lead() -> None:
        comes(spool, "1.2", XRAY, decision=leads)

    if first == "leader":
        lead()
    found = [answer(spool, "2.1", refers_to=("1.1",)), comes(spool, "2.2", CHEST, "pacs"),
             answer(spool, "2.3", BONE)]  # fmt: skip
    if first == "result":
        lead()
    while spool.studies.step(LIMITS, givers=GIVERS) is not None:
        pass
    assert [states(spool, which) for which in found] == [
        {"pacs": "open"}, {"pacs": "open"}, {"pacs": "open", "chest-ai": "open"},
    ]  # fmt: skip


def test_a_result_leads_no_study_to_where_it_came_from(spool: Spool) -> None:
    other = image(spool, "1.1", "pacs")
    leads = Decision("chest study", ("chest-ai",), "r", study=True)
    comes(spool, "2.1", CHEST, decision=leads, sop_class=SR)
    while spool.studies.step(LIMITS, givers=GIVERS) is not None:
        pass
    assert states(spool, other) == {"pacs": "open"}


def test_a_person_may_send_it_back(spool: Spool) -> None:
    result = comes(spool, "2.1", CHEST, "chest-ai", sop_class=SR)
    assert spool.orders.send_also(result, "chest-ai", "ann")
    assert [str(row.state) for row in spool.views.deliveries(instance_id=result)] == ["skipped", "open"]


# -- what does not come


def miss(spool: Spool, expects: Mapping[str, tuple[float, str | None]] = EXPECTS) -> None:
    """Look more often than there are batches."""
    for _ in range(3):
        spool.results.step(expects, LIMITS, givers=GIVERS)


def test_a_missing_result_is_noted_once_and_goes_to_the_fallback_once(spool: Spool) -> None:
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        send(spool)
        miss(spool)
        assert states(spool, one) == {"chest-ai": "done"}
        assert [found.id for found in spool.views.find(Filter(result=Result.AWAITED))] == [one]
        clock.turn(601)
        miss(spool)
        miss(spool)
        assert states(spool, one) == {"chest-ai": "done", "people": "open"}
        assert spool.views.counts().missing == {"chest-ai": 1}
        (event,) = [event for event in spool.views.events() if event.kind == results.MISSING]
        assert (event.instance_id, event.destination, event.detail) == (one, "chest-ai", {"fallback": "people"})
        for wanted in (Filter(result=Result.MISSING), Filter(result=Result.MISSING, to="chest-ai")):
            assert [found.id for found in spool.views.find(wanted)] == [one]
        assert spool.views.find(Filter(result=Result.MISSING, to="bone-ai")) == []
        assert spool.views.find(Filter(result=Result.AWAITED)) == []


def test_a_late_result_ends_the_trouble(spool: Spool) -> None:
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        send(spool)
        clock.turn(601)
        miss(spool)
        answer(spool, refers_to=("1.1",))
        assert spool.views.counts().missing == {}
        assert row_of(spool, one).result_missing_at is None
        assert [found.id for found in spool.views.find(Filter(result=Result.CAME, to="chest-ai"))] == [one]
        assert [found.id for found in spool.views.find(Filter(result=Result.CAME))] == [one]


def test_a_result_expects_none(spool: Spool) -> None:
    image(spool, "1.1")
    send(spool, expect=None)
    result = answer(spool, "2.1", CHEST, "bone-ai", refers_to=("1.1",))
    send(spool, "bone-ai", expect=600.0)
    assert row_of(spool, result, "bone-ai").result_due is None


def test_what_waits_for_its_decision_may_be_the_result(spool: Spool) -> None:
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        send(spool)
        blob = sealed(spool, b"late")
        waiting = replace(instance_for(blob, "2.1", CHEST, clock.at + 1), sop_class=SR)
        spool.intake.accept(blob, waiting)
        clock.turn(601)
        miss(spool)
        assert row_of(spool, one).result_missing_at is None
        (claim,) = spool.decisions.claim(1)
        found = match(spool, claim.instance, "1.9", ("1.1",))
        assert spool.decisions.record(claim, Seen("none"), Decision("r", ("pacs",), "r"), LIMITS, found=found).result()
        clock.turn(601)
        miss(spool)
        assert states(spool, one) == {"chest-ai": "done"}
        assert spool.views.counts().missing == {}


def test_time_without_a_node_does_not_count(spool: Spool) -> None:
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        send(spool)
        clock.put(3600)
        miss(spool)
        assert row_of(spool, one).result_missing_at is None
        clock.turn(601)
        miss(spool)
        assert row_of(spool, one).result_missing_at is not None


def test_the_blob_stays_while_a_fallback_may_need_it(spool: Spool) -> None:
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        send(spool)
        assert spool.retention.remove_all() == 0
        clock.turn(601)
        miss(spool)
        send(spool, "people", expect=None)
        assert spool.retention.remove_all() == 1
        assert states(spool, one) == {"chest-ai": "done", "people": "done"}


@pytest.mark.parametrize("why", ["had", "disabled", "no fallback", "settings", "came from there"])
def test_who_gets_no_fallback(spool: Spool, why: str) -> None:
    with turned_by_hand() as clock:
        to = ("chest-ai", "people") if why == "had" else ("chest-ai",)
        one = comes(spool, "1.1", BONE if why == "came from there" else XRAY, *to)
        send(spool)
        clock.turn(601)
        limits = {name: None for name in LIMITS if name != "people" or why != "disabled"}
        fallback = {"no fallback": None, "came from there": "bone-ai"}.get(why, "people")
        expects = {} if why == "settings" else {"chest-ai": (600.0, fallback)}
        givers = {name: replace(one, named=True) for name, one in GIVERS.items()}
        spool.results.step(expects, limits, givers=givers)
        assert len(spool.views.deliveries(instance_id=one)) == len(to)
        assert spool.views.counts().missing == ({} if why == "settings" else {"chest-ai": 1})


def test_a_crash_between_note_and_fallback_leaves_neither(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    with turned_by_hand() as clock:
        ids = [image(spool, f"1.{n}", study=f"3.{n}") for n in range(4)]
        send(spool)
        clock.turn(601)
        spool.database.run(steady.look)
        count = 0

        def fails_late(*of: Any, **more: Any) -> None:
            nonlocal count
            count += 1
            if count == 3:
                raise SpoolError("the node is killed here")
            add_event(*of, **more)

        with monkeypatch.context() as patch:
            patch.setattr(results, "add_event", fails_late)
            with pytest.raises(SpoolError):
                miss(spool)
        assert all(states(spool, one) == {"chest-ai": "done"} for one in ids)
        miss(spool)
        assert all(states(spool, one) == {"chest-ai": "done", "people": "open"} for one in ids)
        assert spool.views.counts().missing == {"chest-ai": 4}


# -- what people see, and for how long


def test_the_median_is_that_of_each_result_since_the_last_delivery(spool: Spool) -> None:
    with turned_by_hand() as clock:
        clock.at = time.time() - 50.0
        image(spool, "1.1")
        send(spool)
        clock.turn(30.0)
        image(spool, "1.2")
        send(spool)
        answer(spool, "2.1", refers_to=("1.1",))
        image(spool, "1.3", study="1.8")
        claimed = begin(spool)
        answer(spool, "2.2", refers_to=("1.3",), study="1.8")
        clock.turn(60.0)
        end(spool, claimed)
        found = spool.results.lately(600.0)["chest-ai"]
        assert found.came == 2
        assert found.seconds == pytest.approx(10.0, abs=9.0)
        assert spool.results.lately(-600.0) == {}


def test_what_is_known_goes_with_its_instances(spool: Spool) -> None:
    one = image(spool, "1.1")
    send(spool)
    answer(spool, refers_to=("1.1",))
    send(spool, "pacs", expect=None)
    spool.retention.remove_all()
    keep = settings_of(spool.settings.path, spool.settings.database, keep_records=0.0)
    spool.retention._settings = keep
    while spool.retention.sweep():
        pass
    assert spool.views.instance(one) is None
    assert spool.results.answering(one) == []
    assert spool.database.ask(lambda c: c.exec_driver_sql("SELECT count(*) FROM result").scalar()) == 0


# -- all of it, in any order

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["image", "begin", "end", "refers", "study", "fails", "turn", "miss", "crash"]),
        st.integers(0, 5),
    ),
    min_size=4, max_size=24,
)  # fmt: skip


class History:
    """A spool to which things happen, and what is known of it: of each instance, when it was done and answered."""

    def __init__(self, folder: Path, database: str) -> None:
        self.wanted = settings_of(folder, database)
        self.spool = open_spool(self.wanted)
        self.images: list[str] = []
        self.claimed: list[Delivery] = []
        self.known: set[str] = set()
        """Of these the spool knows that a try was begun."""
        self.answered: set[str] = set()
        self.count = 0

    def image(self, _: int) -> None:
        self.images.append(image(self.spool, f"1.{len(self.images)}", study=f"7.{len(self.images)}"))

    def begin(self, _: int) -> None:
        new = begin(self.spool)
        self.claimed += new
        self.known |= {one.instance.id for one in new}

    def end(self, which: int) -> None:
        if self.claimed:
            end(self.spool, [self.claimed.pop(which % len(self.claimed))])

    def fails(self, which: int) -> None:
        if self.claimed:
            self.spool.deliveries.retry(self.claimed.pop(which % len(self.claimed)), 0, "no").result()

    def refers(self, which: int) -> None:
        self._answers((f"1.{which}",), "8.8", {*self.images[which : which + 1]})

    def study(self, which: int) -> None:
        self._answers((), f"7.{which}", {*self.images[which : which + 1]} & self.known)

    def _answers(self, refers_to: tuple[str, ...], study: str, answered: set[str]) -> None:
        self.count += 1
        answer(self.spool, f"2.{self.count}", refers_to=refers_to, study=study)
        self.answered |= answered

    def crash(self, _: int) -> None:
        self.spool.close()
        self.spool = open_spool(self.wanted)
        tried = {row.instance_id for row in self.spool.views.deliveries(states=("open",), to="chest-ai") if row.tries}
        self.known -= {one.instance.id for one in self.claimed} - tried
        self.claimed = []

    def miss(self, _: int) -> None:
        miss(self.spool)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_an_answered_one_is_never_missing_and_another_always(steps: list[tuple[str, int]]) -> None:
    """Image, try, failure, result, end and crash in any order: after all that, what was answered after it had been
    sent is not missing, and what was not answered is, and is at the fallback once."""
    check_any_order(steps, "sqlite")


def check_any_order(steps: list[tuple[str, int]], database: str) -> None:
    with tempfile.TemporaryDirectory(prefix="results ") as folder, turned_by_hand() as clock:
        clock.at = time.time()
        history = History(Path(folder, "spool"), database)
        for step, value in steps:
            if step == "turn":
                clock.turn(100.0)
                continue
            getattr(history, step)(value)
        spool = history.spool
        end(spool, [*history.claimed, *begin(spool)])
        clock.turn(2000.0)
        miss(spool)
        for which in history.images:
            row = row_of(spool, which)
            assert row.result_due is None
            fallen = [one for one in spool.views.deliveries(instance_id=which) if one.destination == "people"]
            is_answered = bool(spool.results.answering(which))
            assert which not in history.answered or is_answered
            assert (row.result_missing_at is not None) == (not is_answered)
            assert is_answered or len(fallen) == 1
            assert len(fallen) <= 1
        spool.close()


@pytest.mark.slow
@pytest.mark.postgresql
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_the_same_on_postgresql(postgresql: Callable[[], str], steps: list[tuple[str, int]]) -> None:
    check_any_order(steps, postgresql())


@pytest.fixture
def nodes(tmp_path: Path, postgresql: Callable[[], str]) -> Iterator[tuple[Spool, Spool]]:
    wanted = settings_of(tmp_path / "spool", postgresql())
    both = open_spool(wanted), open_spool(wanted)
    yield both
    for one in both:
        one.close()


@pytest.mark.postgresql
def test_of_two_nodes_one_owes_the_fallback(nodes: tuple[Spool, Spool]) -> None:
    one, other = nodes
    ids = [image(one, f"1.{n}", study=f"3.{n}") for n in range(20)]
    send(one, expect=-1.0)
    ready = threading.Barrier(2)

    def work(spool: Spool) -> None:
        ready.wait(10)
        miss(spool)

    both = [threading.Thread(target=work, args=(spool,)) for spool in nodes]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    miss(other)
    assert all(states(one, which) == {"chest-ai": "done", "people": "open"} for which in ids)
    assert len([event for event in one.views.events(limit=1000) if event.kind == results.MISSING]) == 20
