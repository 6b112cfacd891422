"""`gather` on a destination: deliveries of a study wait for a pause, then go together; nothing else waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.config import ConfigError, load
from router.flow import Decision, Seen
from router.spool import DeliveryState, Spool, gathering, open_spool, schema
from router.spool.keyed import STUDY
from tests.unit.forwarding import forwarding
from tests.unit.peer import Peer
from tests.unit.spooling import CALLERS, Clock, instance_for, sealed, settings_of, turned_by_hand

GATHERS = {"ai": (60.0, 600.0)}
SENT = Decision("rule", ("ai", "pacs"), "because")


@pytest.fixture
def hands() -> Iterator[Clock]:
    with turned_by_hand() as hands:
        yield hands


@pytest.fixture
def spool(tmp_path: Path, database: str, hands: Clock) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def comes(spool: Spool, uid: str, study: str = "1.9") -> None:
    blob = sealed(spool, b"pixels")
    spool.intake.accept(blob, instance_for(blob, uid, CALLERS[0]))
    (claim,) = spool.decisions.claim(1)
    seen = Seen("none", {STUDY: (study,)} if study else {}, reason="no pixel data")
    assert spool.decisions.record(claim, seen, SENT, {}, gathers=GATHERS).result()


def due(spool: Spool, most: int = 100) -> list[str]:
    return [one.instance.sop_instance for one in spool.deliveries.claim_study("ai", most)]


def left(spool: Spool) -> float | None:
    seconds = spool.deliveries.next_study_due("ai")
    return None if seconds is None else round(seconds, 3)


def test_a_study_goes_together_after_a_pause_and_only_there(spool: Spool, hands: Clock) -> None:
    for number in range(3):
        comes(spool, f"1.{number}")
        assert (left(spool), due(spool)) == (60.0, [])
        hands.turn(50)
    assert len(spool.deliveries.claim("pacs", 10)) == 3
    assert {row.reason for row in spool.views.deliveries(to="ai")} == {gathering.WAITS}
    hands.turn(10)
    assert left(spool) == 0.0
    assert due(spool) == ["1.0", "1.1", "1.2"]
    assert {row.reason for row in spool.views.deliveries(to="ai")} == {""}


def test_it_waits_no_longer_than_the_limit(spool: Spool, hands: Clock) -> None:
    """One more comes every 50 seconds, so there is never a pause."""
    for number in range(12):
        comes(spool, f"1.{number}")
        assert due(spool) == []
        hands.turn(50)
    comes(spool, "1.12")
    assert due(spool) == [f"1.{number}" for number in range(13)]
    comes(spool, "1.13")
    assert left(spool) == 60.0


def test_studies_are_claimed_one_by_one(spool: Spool, hands: Clock) -> None:
    for number in range(4):
        comes(spool, f"1.{number}", ("1.8", "1.9")[number % 2])
    hands.turn(60)
    assert due(spool) == ["1.0", "1.2"]
    assert due(spool, most=1) == ["1.1"]
    assert due(spool) == ["1.3"]
    assert due(spool) == []


def test_without_a_study_nothing_waits(spool: Spool) -> None:
    comes(spool, "1.1", study="")
    assert due(spool) == ["1.1"]


def test_what_was_tried_keeps_its_own_time(spool: Spool, hands: Clock) -> None:
    comes(spool, "1.1")
    hands.turn(60)
    (one,) = spool.deliveries.claim_study("ai", 10)
    assert spool.deliveries.retry(one, 100, "down").result()
    comes(spool, "1.2")
    hands.turn(60)
    assert due(spool) == ["1.2"]
    assert left(spool) == 40.0
    hands.turn(40)
    assert due(spool) == ["1.1"]


def test_more_than_one_batch_goes_too(spool: Spool, hands: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "BATCH", 2)
    for number in range(5):
        comes(spool, f"1.{number}")
    hands.turn(60)
    got = [due(spool) for _ in range(3)]
    assert got == [["1.0", "1.1"], ["1.2", "1.3"], ["1.4"]]
    rows = sa.select(sa.func.count()).select_from(schema.gathering)
    assert spool.database.ask(lambda c: c.execute(rows).scalar()) == 0


def test_a_crash_ends_no_wait_and_a_clock_that_is_put_back_delays_nothing(
    tmp_path: Path, database: str, hands: Clock
) -> None:
    wanted = settings_of(tmp_path / "spool", database)
    spool = open_spool(wanted)
    comes(spool, "1.1")
    spool.close()
    spool = open_spool(wanted)
    assert left(spool) == 60.0
    hands.put(-86_400.0)
    assert due(spool) == []
    assert left(spool) == 60.0
    hands.turn(60)
    assert due(spool) == ["1.1"]
    spool.close()


def test_a_destination_that_gathers_no_more_gets_what_waits_at_its_limit(spool: Spool, hands: Clock) -> None:
    comes(spool, "1.1")
    assert spool.deliveries.claim("ai", 10) == []
    hands.turn(600)
    assert len(spool.deliveries.claim("ai", 10)) == 1
    assert spool.database.run(lambda c: gathering.forget(c, hands.at + 1)) == 1


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(st.floats(0, 200), st.sampled_from(["1.8", "1.9", ""])), min_size=1, max_size=25))
def test_each_goes_once_and_within_the_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[float, str]]
) -> None:
    with turned_by_hand() as hands:
        spool = open_spool(settings_of(tmp_path_factory.mktemp("gather") / "spool"))
        came: dict[str, float] = {}
        last: dict[str, float] = {}
        for number, (wait, study) in enumerate(steps):
            hands.turn(wait)
            comes(spool, f"1.{number}", study)
            came[f"1.{number}"], last[study] = hands.at, hands.at
            while claimed := spool.deliveries.claim_study("ai", 100):
                for one in claimed:
                    spent = hands.at - came.pop(one.instance.sop_instance)
                    assert spent <= 600 + 200
                    assert spool.deliveries.close(one, DeliveryState.DONE).result()
        hands.turn(600)
        while claimed := spool.deliveries.claim_study("ai", 100):
            for one in claimed:
                del came[one.instance.sop_instance]
                assert spool.deliveries.close(one, DeliveryState.DONE).result()
        assert came == {}
        spool.close()


def test_one_study_is_one_association(tmp_path: Path) -> None:
    """Also of two studies that are due at once, and on an association that would be kept for a while."""
    with Peer() as peer, forwarding(tmp_path, peer, start=False, gather=0.3, gather_limit=5.0, idle=20.0) as stage:
        gathers = stage.settings().gathers
        assert gathers == {"dest": (0.3, 5.0)}
        for number in range(12):
            blob = sealed(stage.spool, b"pixels")
            stage.spool.intake.accept(blob, instance_for(blob, f"1.{number}", CALLERS[0]))
            (claim,) = stage.spool.decisions.claim(1)
            seen = Seen("none", {STUDY: (f"1.{8 + number % 2}",)})
            decision = Decision("rule", ("dest",), "because")
            assert stage.spool.decisions.record(claim, seen, decision, {}, gathers=gathers).result()
        stage.start()
        stage.until("done", 12)
        assert len(peer.proposals) == 2
        came = [one.sop_instance for one in peer.stored]
        halves = [[f"1.{number}" for number in range(first, 12, 2)] for first in (0, 1)]
        assert came in (halves[0] + halves[1], halves[1] + halves[0])


def test_the_limit_is_not_shorter(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    text = (
        "destinations: {ai: {ae_title: A, host: 127.0.0.1, port: 104, gather: %s}}\nrules: []\notherwise: {send: ai}\n"
    )
    file.write_text(text.replace("%s", "60s"))
    assert load(file, {}).gathers == GATHERS
    file.write_text(text.replace("%s", "15min"))
    with pytest.raises(ConfigError, match="gather is longer than gather_limit"):
        load(file, {})
