"""From an instance in the spool to its decision, with a stand-in for inference that answers, fails or dies as told."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from router.classify import Classifier
from router.classify.classifier import IN_FLIGHT, OF_ONE_CALLER, SLOW_OF_ONE_CALLER, TRIES
from router.config import Settings, load, shipped
from router.config.settings import SpoolSettings
from router.flow import CLASSES, Caller, Instance, Prediction, Seen
from router.inference import InferenceError
from router.observe.metrics import REGISTRY
from router.spool import InstanceRow, Spool, open_spool
from tests.unit.peer import wait_for

SPINE = Prediction((0.01, 0.01, 0.01, 0.96, 0.01), "spine", 0.96, 0.1, False, "spine", "f" * 64)
CR = {0x00080060: ("CR",)}


class Oracle:
    """Answers by the first bytes of the data set: what it is told to say of them."""

    def __init__(self) -> None:
        self.is_ready = True
        self.asked: list[bytes] = []
        self.are_slow = False
        """Whether those that are not answered yet are decoded slowly."""
        self.answers: dict[bytes, Seen | Exception | None] = {}

    def look(self, path: Path, tags: frozenset[int], caller: Caller, slowed: Callable[[], None]) -> Future[Seen]:
        assert 0x00080060 in tags
        name = path.read_bytes()
        self.asked.append(name)
        future: Future[Seen] = Future()
        answer = self.answers[name]
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif answer is not None:
            future.set_result(answer)
        elif self.are_slow:
            slowed()
        return future


class Stage:
    def __init__(self, folder: Path) -> None:
        self.spool: Spool = open_spool(SpoolSettings(path=folder / "spool", reserve=0))
        self.oracle = Oracle()
        self.settings: Settings = load(shipped(), {})
        self.classifier = Classifier(self.spool, self.oracle, lambda: self.settings)  # type: ignore[arg-type]

    def receive(self, name: bytes, answer: Seen | Exception | None, calling_ae: str = "XRAY") -> str:
        self.oracle.answers[name] = answer
        blob = self.spool.intake.begin(b"")
        blob.write(memoryview(name))
        blob.seal()
        caller = Caller(calling_ae, "ROUTER", "127.0.0.1")
        uid = f"1.{len(self.oracle.answers)}"
        instance = Instance(
            blob.id, time.time(), caller, "1.2", uid, "1.2.840.10008.1.2", 0, len(name), blob.digest()
        )  # fmt: skip
        return self.spool.intake.accept(blob, instance).instance_id

    def decided(self, instance_id: str) -> InstanceRow:
        deadline = time.monotonic() + 20
        while True:
            row = self.spool.views.instance(instance_id)
            if row and row.decided_at:
                return row
            assert time.monotonic() < deadline, "not decided"
            time.sleep(0.01)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr("router.classify.classifier.AGAIN_AFTER", 0.05)
    stage = Stage(tmp_path)
    stage.classifier.start()
    yield stage
    stage.classifier.stop(time.monotonic() + 0.5)
    stage.spool.close()


def test_prediction_decision_and_deliveries_are_one(stage: Stage) -> None:
    row = stage.decided(stage.receive(b"spine", Seen("decoded", CR, SPINE)))
    assert (row.class_name, row.rule, row.destinations) == ("spine", "spine", ["spine-ai"])
    assert row.model == SPINE.model
    (delivery,) = stage.spool.views.deliveries(instance_id=row.id)
    assert (delivery.destination, delivery.state) == ("spine-ai", "open")


@pytest.mark.parametrize("state", ["none", "undecodable", "unparseable", "failed"])
def test_without_a_prediction_rules_decide_with_the_fact(stage: Stage, state: str) -> None:
    row = stage.decided(stage.receive(b"x", Seen(state, CR, reason="why")))  # type: ignore[arg-type]
    assert (row.pixels, row.class_name, row.destinations) == (state, None, ["catch-all"])
    assert row.why_no_prediction == "why"


def test_an_unforeseen_failure_does_not_keep_an_instance_from_its_decision(stage: Stage) -> None:
    """Its blob may not be brought, for a reason that the object store's library makes up."""
    broken = stage.receive(b"x", RuntimeError("unforeseen"))
    assert stage.decided(broken).pixels == "failed"


def test_what_kills_inference_each_time_goes_on_as_failed(stage: Stage) -> None:
    poison = stage.receive(b"poison", InferenceError("inference died"))
    good = stage.receive(b"good", Seen("decoded", CR, SPINE))
    assert stage.decided(good).rule == "spine"
    row = stage.decided(poison)
    assert (row.pixels, row.destinations) == ("failed", ["catch-all"])
    assert stage.oracle.asked.count(b"poison") == TRIES


def test_what_was_asked_about_before_is_asked_again_alone_and_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash: instances with a try wait among others, and each may be what killed inference."""
    stage = Stage(tmp_path)
    open_questions: queue.SimpleQueue[tuple[bytes, Future[Seen]]] = queue.SimpleQueue()

    def look(path: Path, *_: object) -> Future[Seen]:
        future: Future[Seen] = Future()
        open_questions.put((path.read_bytes(), future))
        return future

    monkeypatch.setattr(stage.oracle, "look", look)
    suspects = [b"suspect %d" % n for n in range(3)]
    ids = [stage.receive(name, None) for name in suspects]
    for claim in stage.spool.decisions.claim(len(ids)):
        stage.spool.decisions.release(claim)
    ids += [stage.receive(b"%d" % n, None) for n in range(2 * IN_FLIGHT)]
    stage.classifier.start()
    claimed_beside = [open_questions.get(timeout=10) for _ in range(OF_ONE_CALLER)]
    for name, future in claimed_beside:
        assert name not in suspects
        future.set_result(Seen("decoded", CR, SPINE))
    for suspect in suspects:
        name, future = open_questions.get(timeout=10)
        assert name == suspect
        stage.classifier.wake()
        with pytest.raises(queue.Empty):
            open_questions.get(timeout=0.1)
        future.set_result(Seen("decoded", CR, SPINE))
    for _ in range(2 * IN_FLIGHT - len(claimed_beside)):
        open_questions.get(timeout=10)[1].set_result(Seen("decoded", CR, SPINE))
    assert {stage.decided(instance).rule for instance in ids} == {"spine"}
    stage.classifier.stop(time.monotonic() + 1)
    stage.spool.close()


@pytest.mark.parametrize("slow", [False, True])
def test_a_hundred_images_of_one_caller_that_take_for_ever_delay_no_other(stage: Stage, slow: bool) -> None:
    stage.oracle.are_slow = slow
    for n in range(100):
        stage.receive(b"hostile %d" % n, None, "HOSTILE")
    for n in range(10):
        assert stage.decided(stage.receive(b"other %d" % n, Seen("decoded", CR, SPINE), "OTHER")).rule == "spine"
    under_way = sum(name.startswith(b"hostile") for name in stage.oracle.asked)
    assert OF_ONE_CALLER <= under_way <= OF_ONE_CALLER + SLOW_OF_ONE_CALLER < 100


@pytest.mark.slow
def test_a_slow_image_does_not_hold_up_the_quick_ones_of_its_own_caller(stage: Stage) -> None:
    stage.oracle.are_slow = True
    for n in range(SLOW_OF_ONE_CALLER - 1):
        stage.receive(b"slow %d" % n, None)
    for n in range(2 * OF_ONE_CALLER):
        assert stage.decided(stage.receive(b"quick %d" % n, Seen("decoded", CR, SPINE))).rule == "spine"


def test_a_suspect_that_is_decoded_slowly_lets_others_go_on(tmp_path: Path) -> None:
    """It is asked about alone until it is known to be slow: else each would hold up everybody for its time limit."""
    stage = Stage(tmp_path)
    stage.oracle.are_slow = True
    stage.receive(b"suspect", None)
    (claim,) = stage.spool.decisions.claim(1)
    stage.spool.decisions.release(claim).result()
    stage.classifier.start()
    assert stage.decided(stage.receive(b"other", Seen("decoded", CR, SPINE))).rule == "spine"
    assert stage.oracle.asked[0] == b"suspect"
    stage.classifier.stop(time.monotonic() + 0.1)
    stage.spool.close()


def test_a_new_decision_by_a_person_is_no_slow_one(stage: Stage) -> None:
    """It would count the hours since the instance came."""

    def counted() -> float | None:
        return REGISTRY.get_sample_value("dicom_router_decide_seconds_count")

    instance, before = stage.receive(b"spine", Seen("decoded", CR, SPINE)), counted() or 0.0
    decided_at = stage.decided(instance).decided_at
    wait_for(lambda: counted() == before + 1)
    assert stage.spool.orders.redecide(instance, "a person")
    wait_for(lambda: stage.spool.views.instance(instance).decided_at > decided_at)  # type: ignore[union-attr, operator]
    stage.decided(stage.receive(b"another", Seen("decoded", CR, SPINE)))  # what is told is told in order
    wait_for(lambda: counted() == before + 2)


def test_nothing_is_decided_while_inference_is_away(stage: Stage) -> None:
    stage.oracle.is_ready = False
    instance = stage.receive(b"spine", Seen("decoded", CR, SPINE))
    assert not stage.oracle.asked
    row = stage.spool.views.instance(instance)
    assert row is not None
    assert row.decided_at is None
    stage.oracle.is_ready = True
    stage.classifier.wake()
    assert stage.decided(instance).rule == "spine"


def test_new_rules_decide_what_comes_after_a_reload(stage: Stage) -> None:
    before = stage.decided(stage.receive(b"a", Seen("decoded", CR, SPINE)))
    stage.settings = replace(stage.settings, node=replace(stage.settings.node, dry_run=True))
    after = stage.decided(stage.receive(b"b", Seen("decoded", CR, SPINE)))
    assert before.destinations == ["spine-ai"]
    assert after.destinations == ["catch-all"]
    assert "spine" in str(after.reason)
    assert stage.spool.views.instance(before.id) == before


def test_an_answer_that_never_comes_delays_nobody(stage: Stage) -> None:
    stage.receive(b"never", None)
    for n in range(40):
        assert stage.decided(stage.receive(b"%d" % n, Seen("decoded", CR, SPINE))).rule == "spine"


def test_every_class_has_its_own_destination(stage: Stage) -> None:
    wanted = ["abdominal-ai", "adult-chest-ai", "pediatric-chest-ai", "spine-ai", "catch-all"]
    for n, name in enumerate(CLASSES):
        chances = tuple(0.96 if k == n else 0.01 for k in range(5))
        prediction = replace(SPINE, probabilities=chances, top=name, class_name=name)
        row = stage.decided(stage.receive(name.encode(), Seen("decoded", CR, prediction)))
        assert row.destinations == [wanted[n]]
