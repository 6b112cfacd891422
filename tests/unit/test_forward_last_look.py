"""Several associations to a destination: when something comes, not each of their workers asks the spool for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.config.settings import DestinationSettings
from router.flow import Delivery
from router.forward import last_look
from router.forward.circuit import Circuit
from router.forward.last_look import LastLook
from router.forward.worker import Worker
from tests.unit.forwarding import Stage, no_transcoder

TO = DestinationSettings("dest", "DEST", "127.0.0.1", 104, associations=2)
Look = Callable[[], list[Delivery]]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path / "spool", {"dest": TO})
    stage.open()
    yield stage
    stage.spool.close()


@pytest.fixture
def asked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were claimed by each question to the spool."""
    asked: list[int] = []
    claim = stage.spool.deliveries.claim

    def counted(*of: int | str, **more: float | None) -> list[Delivery]:
        found = claim(*of, **more)  # type: ignore[arg-type]
        asked.append(len(found))
        return found

    monkeypatch.setattr(stage.spool.deliveries, "claim", counted)
    return asked


@pytest.fixture
def looks(stage: Stage) -> list[Look]:
    """What each of two workers does at the beginning of a turn. They do not run: the test says when each looks."""
    circuit, last = Circuit("dest", stage.spool, lambda: 0.5), LastLook()

    def of(worker: Worker) -> Look:
        def look() -> list[Delivery]:
            worker._version = stage.spool.signals.of("dest").version
            return worker._claim(TO)

        return look

    return [of(Worker("dest", stage.spool, stage.settings, circuit, last, no_transcoder)) for _ in range(2)]


def test_what_one_found_empty_no_other_asks_for(
    stage: Stage, looks: list[Look], asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_look, "KNOWN", 3600.0)
    first, second = looks
    assert first() == second() == first() == []
    assert asked == [0]
    stage.owe("dest")
    assert len(second()) == 1
    assert first() == second() == []
    assert asked == [0, 1, 0]


def test_what_is_due_later_is_found_without_a_signal(
    stage: Stage, looks: list[Look], asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_look, "KNOWN", 0.0)
    first, second = looks
    assert first() == second() == []
    assert asked == [0, 0]
