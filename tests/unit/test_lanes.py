"""Whose picture is made next, with workers whose "decoding" waits until the test lets it go."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from router.inference import lanes
from router.inference.fair import FairQueue
from router.inference.framing import unpack
from router.inference.lanes import CRASHED, Lanes
from router.inference.nursery import LOWEST
from router.inference.schedule import Request
from router.inference.worker_handle import Answer, WorkerDiedError
from tests.unit.peer import wait_for

TIMEOUT = 5.0
SOON = 5.0


class Stage:
    """What the fake workers do. A request's `does` says how it is answered: at once, when let go, or by dying."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.can_start = threading.Event()
        self.can_start.set()
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self.slowed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.deaths = 0
        self.alone: list[bool] = []
        self.at_work: set[FakeWorker] = set()

    def lanes(self, workers: int, timeout: float = TIMEOUT) -> Lanes:
        made = Lanes(
            workers, timeout, lambda: FakeWorker(self),
            answered=lambda request, message, _: self.answers.put((request["name"], message)),
            failed=lambda request, reason: self.answers.put((request["name"], {"failed": reason})),
            slowed=lambda request: self.slowed.put(request["name"]),
        )  # fmt: skip
        made.start()
        return made

    def answered(self) -> str:
        return self.answers.get(timeout=SOON)[0]


class FakeWorker:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._request: Request = {}
        self.is_warm, self.lowered = False, 0

    @property
    def is_lowered(self) -> bool:
        return self.lowered > 0

    def start(self, *, is_low: bool = False) -> None:
        if not self.is_warm:
            self._stage.can_start.wait(10 * SOON)
        self.is_warm, self.lowered = True, LOWEST if is_low else self.lowered

    def ask(self, request: Request) -> None:
        self._request = request
        self._stage.begun.put(request["name"])
        self._stage.at_work.add(self)

    def answer(self, seconds: float) -> Answer:
        request, stage = self._request, self._stage
        does = request["does"]
        if does == "die" or (does.startswith("die once") and not stage.deaths):
            stage.deaths += 1
            stage.alone.append(sum(one.is_lowered for one in stage.at_work - {self}) == 0)
            stage.at_work.discard(self)
            raise WorkerDiedError
        if does == "be expensive" and request["patience"] is not None:
            stage.at_work.discard(self)
            return {"expensive": True}, b""
        if does in ("wait", "be expensive", "die once, then wait") and not stage.let_go.wait(seconds):
            raise TimeoutError
        stage.at_work.discard(self)
        return {"lowered": self.lowered}, b""

    def lower(self, by: int) -> None:
        self.lowered = by

    def cpu_seconds(self) -> float:
        return time.monotonic()  # it works as hard as it can

    def stop(self) -> None:
        self._stage.at_work.discard(self)
        self.is_warm, self.lowered = False, 0


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(lanes, "PATIENCE_LOOK", 0.05)
    monkeypatch.setattr(lanes, "PATIENCE_COPY", 2.0)
    monkeypatch.setattr(lanes, "LONG", 0.02)
    monkeypatch.setattr(lanes, "STARVED", 1.0)
    stage = Stage()
    yield stage
    stage.let_go.set()
    stage.can_start.set()


def look(name: str, calling_ae: str = "A", does: str = "answer", peer: str = "10.0.0.1") -> Request:
    return {"op": "look", "name": name, "does": does, "caller": [calling_ae, peer]}


def copy(name: str, calling_ae: str = "A", does: str = "answer") -> Request:
    return look(name, calling_ae, does) | {"op": "transcode"}


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("does", ["wait", "be expensive"])
def test_a_hundred_hostile_images_of_one_caller_hold_up_no_other(stage: Stage, workers: int, does: str) -> None:
    """Not one of the hostile ones is ever answered here; each of the others is."""
    asked = stage.lanes(workers)
    for number in range(100):
        asked.put(look(f"hostile {number}", "HOSTILE", does))
    for number in range(20):
        asked.put(look(f"other {number}", "OTHER"))
        assert stage.answered() == f"other {number}"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_long_look_makes_room_before_its_patience_is_over(
    stage: Stage, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_LOOK", 2.0)
    asked = stage.lanes(workers)
    for number in range(10):
        asked.put(look(f"hostile {number}", "HOSTILE", "wait"))
    for number in range(5):
        asked.put(look(f"other {number}", "OTHER"))
        assert stage.answered() == f"other {number}"
    assert stage.slowed.empty()
    assert stage.begun.qsize() == workers + 5  # and for no more of its own caller's


def test_a_long_look_has_a_lower_priority_and_is_not_yet_slow(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_LOOK", 10 * SOON)
    asked = stage.lanes(1, timeout=20 * SOON)
    asked.put(look("long", "XRAY", "wait"))
    (worker,) = wait_for(lambda: [one for one in stage.at_work if one.is_lowered], SOON)
    assert worker.lowered == lanes.LOWERED < LOWEST
    stage.let_go.set()
    assert stage.answers.get(timeout=SOON) == ("long", {"lowered": lanes.LOWERED})
    assert stage.slowed.empty()
    asked.put(look("quick", "XRAY"))
    assert stage.answers.get(timeout=SOON) == ("quick", {"lowered": 0})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_warm_worker_is_left_to_others(stage: Stage, workers: int) -> None:
    """A start takes time: whose images kill workers waits for it, and no other does."""
    asked = stage.lanes(workers)
    asked.put(look("expensive", "HOSTILE", "be expensive"))
    assert [stage.begun.get(timeout=SOON) for _ in range(2)] == ["expensive", "expensive"]
    asked.put(look("quick", "HOSTILE"))  # has its turn when one more than the lane's own is warm
    assert stage.answered() == "quick"
    stage.can_start.clear()
    for number in range(10):
        asked.put(look(f"hostile {number}", "HOSTILE", "wait"))
    with suppress(queue.Empty):  # each kills its worker, but for the last that is warm: that one is begun on by no more
        while stage.slowed.get(timeout=0.2):
            pass
    for number in range(5):
        asked.put(look(f"other {number}", "OTHER"))
        assert stage.answered() == f"other {number}"


def test_callers_take_turns(stage: Stage) -> None:
    asked = stage.lanes(1)
    asked.put(look("first", "A", "wait"))
    stage.begun.get(timeout=SOON)
    for name, caller in (("a1", "A"), ("a2", "A"), ("a3", "A"), ("b1", "B"), ("c1", "C"), ("b2", "B")):
        asked.put(look(name, caller))
    stage.let_go.set()
    assert [stage.answered() for _ in range(7)] == ["first", "a1", "b1", "c1", "a2", "b2", "a3"]


def test_what_is_slow_is_answered_in_the_slow_lane_and_said_so(stage: Stage) -> None:
    asked = stage.lanes(2)
    asked.put(look("expensive", "A", "be expensive"))
    asked.put(look("takes long", "B", "wait"))
    assert {stage.slowed.get(timeout=SOON) for _ in range(2)} == {"expensive", "takes long"}
    stage.let_go.set()
    found = dict(stage.answers.get(timeout=SOON) for _ in range(2))
    assert set(found) == {"expensive", "takes long"}
    assert all(message == {"lowered": LOWEST} for message in found.values())


def test_an_honest_image_is_not_moved(stage: Stage) -> None:
    asked = stage.lanes(2)
    asked.put(look("honest"))
    assert stage.answers.get(timeout=SOON) == ("honest", {"lowered": 0})
    assert stage.slowed.empty()


def test_beyond_the_whole_time_limit_it_is_undecodable(stage: Stage) -> None:
    asked = stage.lanes(2, timeout=0.1)
    asked.put(look("for ever", does="wait"))
    _, message = stage.answers.get(timeout=SOON)
    assert unpack(message["seen"]).pixels == "undecodable"
    assert "0.1 s" in message["error"]


def test_a_worker_that_was_killed_once_costs_its_instance_nothing(stage: Stage) -> None:
    asked = stage.lanes(2)
    asked.put(look("unlucky", does="die once"))
    assert stage.answers.get(timeout=SOON) == ("unlucky", {"lowered": LOWEST})


def test_what_its_worker_dies_of_twice_is_undecodable(stage: Stage) -> None:
    asked = stage.lanes(4)
    asked.put(look("deadly", does="die"))
    _, message = stage.answers.get(timeout=SOON)
    assert unpack(message["seen"]).reason == message["error"] == CRASHED
    assert stage.deaths == 2


def test_the_second_try_has_the_slow_lane_for_itself(stage: Stage) -> None:
    """Of four workers two may be slow: the one that dies again waits until no other is."""
    asked = stage.lanes(4)
    asked.put(look("slow", "B", "be expensive"))
    assert [stage.begun.get(timeout=SOON) for _ in range(2)] == ["slow", "slow"]  # and begun anew
    asked.put(look("deadly", "A", "die"))
    assert stage.begun.get(timeout=SOON) == "deadly"
    with pytest.raises(queue.Empty):
        stage.begun.get(timeout=0.05)
    stage.let_go.set()
    assert {stage.answered(), stage.answered()} == {"slow", "deadly"}
    assert stage.alone[1]


def test_nothing_slow_is_begun_beside_a_second_try(stage: Stage) -> None:
    asked = stage.lanes(4)
    asked.put(look("deadly", "A", "die once, then wait"))
    assert [stage.begun.get(timeout=SOON) for _ in range(2)] == ["deadly", "deadly"]
    asked.put(look("slow", "B", "be expensive"))
    assert stage.begun.get(timeout=SOON) == "slow"  # only to find that it is expensive
    stage.slowed.get(timeout=SOON)
    with pytest.raises(queue.Empty):
        stage.begun.get(timeout=0.05)
    stage.let_go.set()
    assert stage.answered() == "deadly"
    assert stage.answered() == "slow"


def test_what_workers_die_of_does_not_keep_the_slow_lane_from_others(stage: Stage) -> None:
    stage.let_go.set()
    asked = stage.lanes(1)
    for number in range(10):
        asked.put(look(f"deadly {number}", "A", "die"))
    asked.put(look("slow", "B", "be expensive"))
    assert "slow" in [stage.answered() for _ in range(6)]


def test_copies_and_looks_do_not_wait_for_each_other(stage: Stage) -> None:
    asked = stage.lanes(1)
    for number in range(5):
        asked.put(copy(f"long copy {number}", "OTHER", "wait"))
    asked.put(look("look", "OTHER"))
    assert stage.answered() == "look"
    for number in range(5):
        asked.put(look(f"slow look {number}", "HOSTILE", "be expensive"))
        assert stage.slowed.get(timeout=SOON) == f"slow look {number}"
    asked.put(look("another look", "OTHER"))
    assert stage.answered() == "another look"
    assert stage.slowed.empty()  # no copy is there: one that takes somewhat longer than a look is none of the slow ones


def test_what_only_waits_is_not_under_way(stage: Stage) -> None:
    """Else a long queue would look like a process that hangs."""
    asked = stage.lanes(1)
    assert asked.working_seconds() == 0
    asked.put(look("one", does="wait"))
    stage.begun.get(timeout=SOON)
    assert 0 < asked.working_seconds() < SOON
    stage.let_go.set()
    stage.answered()
    assert asked.working_seconds() == 0


def test_a_worker_that_does_not_start_is_said(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "START_AGAIN", 0.0)
    asked = stage.lanes(1)

    def start(_: object, *, is_low: bool = False) -> None:
        raise OSError

    monkeypatch.setattr(FakeWorker, "start", start)
    asked.put(look("one"))
    assert stage.answers.get(timeout=SOON) == ("one", {"failed": "no pixel worker (OSError)"})


def test_a_fault_of_ours_costs_one_answer_and_no_worker(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "START_AGAIN", 0.0)
    asked = stage.lanes(1)

    def ask(_: object, request: Request) -> None:
        raise KeyError(request["name"])

    with monkeypatch.context() as patch:
        patch.setattr(FakeWorker, "ask", ask)
        asked.put(look("one"))
        assert stage.answers.get(timeout=SOON) == ("one", {"failed": "no pixel worker (KeyError)"})
    asked.put(look("two"))
    assert stage.answered() == "two"


def test_turns_go_by_peer_before_calling_ae_title() -> None:
    """One address with many AE titles is still one."""
    waiting: FairQueue[str] = FairQueue()
    for number in range(10):
        waiting.put((f"AE{number}", "10.0.0.1"), f"many {number}")
    waiting.put(("A", "10.0.0.2"), "one")
    waiting.put(("A", "10.0.0.2"), "two")
    taken = [waiting.take() for _ in range(4)]
    assert taken == ["many 0", "one", "many 1", "two"]
    assert [waiting.take() for _ in range(9)] == [*(f"many {number}" for number in range(2, 10)), None]


def test_a_caller_whose_turn_is_passed_over_keeps_it() -> None:
    waiting: FairQueue[str] = FairQueue()
    waiting.put(("A", "p"), "a")
    waiting.put(("B", "p"), "b")
    assert waiting.has(lambda item: item == "b")
    assert waiting.take(lambda item: item != "a") == "b"
    assert waiting.take() == "a"
    assert not waiting.has(lambda _: True)
