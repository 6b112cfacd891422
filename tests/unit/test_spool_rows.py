"""The spool is bounded, what is buried is visible, equal bytes merge only where they may, and time can stand still."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from router.config.settings import SpoolSettings
from router.flow import Caller, PictureFacts, Seen
from router.spool import DeliveryState, Spool, SpoolError, open_spool, statements
from tests.unit.spooling import (
    CALLERS,
    HEADER,
    SEEN,
    accept,
    decide,
    decision,
    files,
    instance_for,
    sealed,
    settings_of,
    turned_by_hand,
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, database: str) -> SpoolSettings:
    return settings_of(tmp_path / "spool", database)


# -- bounded


def test_full_is_refused_until_finished_blobs_have_gone(settings: SpoolSettings) -> None:
    spool = open_spool(replace(settings, limit=100))
    accept(spool, b"x" * 100, "1.1")
    with pytest.raises(SpoolError, match="full"):
        spool.intake.begin(HEADER)
    assert not spool.space.has_room()
    decide(spool, "ai")
    with pytest.raises(SpoolError, match="full"):
        spool.intake.begin(HEADER)
    (owed,) = spool.deliveries.claim("ai", 1)
    assert spool.deliveries.close(owed, DeliveryState.DONE).result()
    assert accept(spool, b"y" * 100, "1.2").merged is False
    assert len(files(settings.path)) == 1
    assert spool.views.counts().bytes == 100
    spool.close()
    again = open_spool(replace(settings, limit=100))
    assert again.views.counts().bytes == 100
    assert not again.space.has_room()
    again.close()


def test_the_reserve_of_the_disk_stays_free(settings: SpoolSettings) -> None:
    spool = open_spool(replace(settings, reserve=1 << 60))
    with pytest.raises(SpoolError, match="reserve"):
        spool.intake.begin(HEADER)
    spool.close()


LARGE = Seen("decoded", facts=PictureFacts("MONOCHROME2", rows=100, columns=200, frames=2))
"""A native copy of what these are the facts of has 80,000 bytes of pixels."""


def test_native_copies_count_and_go_with_their_blob(settings: SpoolSettings) -> None:
    spool = open_spool(replace(settings, limit=100_000))
    accept(spool)
    (claim,) = spool.decisions.claim(1)
    assert spool.decisions.record(claim, LARGE, decision("ai"), {}).result()
    target = claim.path.with_suffix(".1.native")
    with spool.space.for_copy(claim.instance, target):
        assert spool.views.counts().bytes == 6 + 6 + 80_000
        with pytest.raises(OSError, match="no room"), spool.space.for_copy(claim.instance, target):
            raise AssertionError("there was room")
        target.write_bytes(bytes(50_000))
    assert spool.views.counts().bytes == 6 + 50_000
    with pytest.raises(OSError, match="no room"), spool.space.for_copy(claim.instance, target.with_suffix(".2")):
        raise AssertionError("there was room")
    (owed,) = spool.deliveries.claim("ai", 1)
    assert spool.deliveries.close(owed, DeliveryState.DONE).result()
    assert spool.orders.wipe() == 1
    assert spool.views.counts().bytes == 0
    spool.close()


def test_a_copy_that_was_not_made_counts_no_more(spool: Spool) -> None:
    accept(spool)
    claim = decide(spool, "ai")
    with pytest.raises(ValueError), spool.space.for_copy(claim.instance, claim.path.with_suffix(".1.native")):
        raise ValueError("the pixels differ")
    assert spool.views.counts().bytes == 6


def test_a_copy_leaves_the_reserve_free(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside others that are being made, which the file system does not know of yet."""
    spool = open_spool(replace(settings, reserve=1000))
    accept(spool)
    (claim,) = spool.decisions.claim(1)
    assert spool.decisions.record(claim, LARGE, decision("ai"), {}).result()
    one, other = (claim.path.with_suffix(f".{number}.native") for number in (1, 2))
    monkeypatch.setattr("router.spool.blobs.BlobStore.free", lambda _: 160_000)
    with (
        spool.space.for_copy(claim.instance, one),
        pytest.raises(OSError, match="reserve"),
        spool.space.for_copy(claim.instance, other),
    ):
        raise AssertionError("there was room")
    with spool.space.for_copy(claim.instance, other):
        pass
    spool.close()


def test_finished_blobs_make_way_for_a_copy(settings: SpoolSettings) -> None:
    spool = open_spool(replace(settings, limit=100_000))
    accept(spool, bytes(50_000), "1.1")
    decide(spool)
    accept(spool, uid="1.2")
    (claim,) = spool.decisions.claim(1)
    assert spool.decisions.record(claim, LARGE, decision("ai"), {}).result()
    with spool.space.for_copy(claim.instance, claim.path.with_suffix(".1.native")):
        assert files(settings.path) == {claim.instance.id + ".dcm"}
    spool.close()


def test_a_destination_over_its_limit_is_buried_in_sight(spool: Spool) -> None:
    for number in range(3):
        accept(spool, uid=f"1.{number}")
        decide(spool, "slow-ai", "other-ai", **{"slow-ai": 2})
    counts = spool.views.counts()
    assert (counts.open, counts.buried) == ({"slow-ai": 2, "other-ai": 3}, {"slow-ai": 1})
    (buried,) = spool.views.deliveries(states=(DeliveryState.BURIED,))
    assert "limit" in str(buried.reason)
    events = [one for one in spool.views.events() if one.kind == "buried"]
    assert [(one.destination, one.instance_id) for one in events] == [("slow-ai", buried.instance_id)]
    assert spool.orders.retry_now([buried.id], "a person") == 1
    assert len(spool.deliveries.claim("slow-ai", 10)) == 3


@pytest.mark.slow
def test_more_than_a_database_takes_at_once(spool: Spool) -> None:
    accept(spool)
    decide(spool, "ai")
    (owed,) = spool.views.deliveries()
    assert spool.orders.retry_now([*range(owed.id + 1, 70_000), owed.id], "a person") == 1
    assert spool.orders.discard([*range(owed.id + 1, 70_000), owed.id], "a person") == 1


# -- claims


def test_a_claim_that_was_given_back_changes_nothing_any_more(spool: Spool) -> None:
    accept(spool)
    (old,) = spool.decisions.claim(1)
    spool.decisions.release(old).result()
    (new,) = spool.decisions.claim(1)
    assert not spool.decisions.record(old, SEEN, decision("wrong"), {}).result()
    spool.decisions.release(old).result()
    assert spool.decisions.claim(1) == []
    assert spool.decisions.record(new, SEEN, decision("ai"), {}).result()
    assert not spool.decisions.record(new, SEEN, decision("wrong"), {}).result()

    (first,) = spool.deliveries.claim("ai", 1)
    assert spool.deliveries.retry(first, 0, "later").result()
    (second,) = spool.deliveries.claim("ai", 1)
    assert not spool.deliveries.close(first, DeliveryState.DONE).result()
    assert not spool.deliveries.retry(first, 0, "later").result()
    assert spool.deliveries.claim("ai", 1) == []
    assert spool.deliveries.close(second, DeliveryState.DONE).result()
    assert not spool.deliveries.close(second, DeliveryState.BURIED).result()
    assert spool.views.counts().open == spool.views.counts().buried == {}


def test_what_is_given_back_untried_keeps_why_it_failed_before(spool: Spool) -> None:
    accept(spool)
    decide(spool, "ai")
    (tried,) = spool.deliveries.claim("ai", 1)
    spool.deliveries.retry(tried, 0, "no answer", 0xA700).result()
    (given_back,) = spool.deliveries.claim("ai", 1)
    spool.deliveries.retry(given_back, 0, "", tried=False).result()
    (row,) = spool.views.deliveries()
    assert (row.reason, row.status, row.tries, row.token) == ("no answer", 0xA700, 1, 0)


def test_the_newest_that_was_not_tried(spool: Spool) -> None:
    for number in range(4):
        accept(spool, uid=f"1.{number}")
        decide(spool, "ai")
    oldest, *_, newest = (row.id for row in spool.views.deliveries())
    tried, kept = spool.deliveries.claim("ai", 2)
    assert tried.id == oldest
    spool.deliveries.retry(tried, 0.001, "no answer").result()
    spool.deliveries.retry(kept, 0, "", tried=False).result()
    found = [one.id for _ in range(4) for one in spool.deliveries.claim_untried("ai")]
    assert found == [newest, newest - 1, kept.id]
    assert spool.deliveries.claim_untried("other") == []


def test_a_killed_node_counts_as_a_try_for_pixels_and_never_for_a_delivery(settings: SpoolSettings) -> None:
    killed = 3
    spool = open_spool(settings)
    accept(spool)
    for tries in range(killed):
        (claim,) = spool.decisions.claim(1)
        assert claim.tries == tries
        spool.close()
        spool = open_spool(settings)
    decide(spool, "ai")
    spool.close()
    for _ in range(killed):
        spool = open_spool(settings)
        (delivery,) = spool.deliveries.claim("ai", 1)
        assert (delivery.tries, delivery.buriable_tries) == (0, 0)
        spool.close()


def test_a_claim_from_before_a_restart_changes_nothing(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    accept(spool)
    decide(spool, "ai")
    (old,) = spool.deliveries.claim("ai", 1)
    spool.close()
    spool = open_spool(settings)
    (new,) = spool.deliveries.claim("ai", 1)
    assert (new.id, new.tries) == (old.id, 0)
    assert not spool.deliveries.close(old, DeliveryState.DONE).result()
    assert spool.deliveries.close(new, DeliveryState.DONE).result()
    spool.close()


# -- people


def test_a_new_decision_does_not_end_what_the_old_one_owes(spool: Spool) -> None:
    """It names a destination that is owed already: nothing is owed twice, and the blob is still needed."""
    instance_id = accept(spool).instance_id
    decide(spool, "ai", "archive")
    assert spool.orders.redecide(instance_id, "a person")
    decide(spool, "ai")
    assert spool.views.counts().open == {"ai": 1, "archive": 1}
    assert spool.orders.wipe() == 0
    for name in ("ai", "archive"):
        (owed,) = spool.deliveries.claim(name, 5)
        assert owed.path.exists()
        assert spool.deliveries.close(owed, DeliveryState.DONE).result()
    assert spool.orders.wipe() == 1


def test_the_record_keeps_which_rule_a_new_decision_overwrites(spool: Spool) -> None:
    instance_id = accept(spool).instance_id
    decide(spool, "ai")
    before = spool.views.instance(instance_id)
    assert before is not None
    assert spool.orders.redecide(instance_id, "a person")
    (event,) = spool.views.events(instance_id=instance_id, kind="new decision ordered")
    assert event.detail == {"who": "a person", "rule_before": before.rule, "table_before": before.table}


def test_what_a_worker_holds_is_its_own(spool: Spool) -> None:
    accept(spool)
    decide(spool, "ai")
    (owed,) = spool.deliveries.claim("ai", 1)
    assert spool.orders.retry_now([owed.id], "a person") == 0
    assert spool.orders.discard([owed.id], "a person") == 0
    assert spool.deliveries.claim("ai", 1) == []
    assert spool.deliveries.close(owed, DeliveryState.BURIED, "refused").result()
    assert spool.orders.discard([owed.id], "a person") == 1
    assert not spool.deliveries.close(owed, DeliveryState.DONE).result()
    kinds = [(one.kind, one.detail.get("who")) for one in spool.views.events()]
    assert kinds == [("buried", None), ("discarded by a person", "a person")]
    assert spool.orders.wipe() == 1


# -- the same UID again


def test_merged_only_where_all_is_equal_and_open(spool: Spool) -> None:
    first = accept(spool, b"data", "1.1")
    assert accept(spool, b"data", "1.1").merged
    assert not accept(spool, b"Data", "1.1").merged
    assert not accept(spool, b"data", "1.1", CALLERS[1]).merged
    blob = sealed(spool, b"data")
    other_syntax = replace(instance_for(blob, "1.1"), transfer_syntax="1.2.840.10008.1.2")
    assert not spool.intake.accept(blob, other_syntax).merged
    seen = [(one.instance_id, one.detail["merged"]) for one in spool.views.events()]
    assert len(seen) == 4
    assert seen[0] == (first.instance_id, True)
    assert [merged for _, merged in seen[1:]] == [False] * 3


def test_what_only_waits_for_a_person_takes_no_copy_in(spool: Spool) -> None:
    """A caller that sends again wants it to arrive; merged into a buried delivery it never would."""
    accept(spool)
    decide(spool, "ai")
    (owed,) = spool.deliveries.claim("ai", 1)
    assert spool.deliveries.close(owed, DeliveryState.BURIED, "refused").result()
    assert not accept(spool).merged
    decide(spool, "ai")
    assert spool.views.counts().open == {"ai": 1}


def test_equal_digests_are_not_taken_for_equal_bytes(spool: Spool) -> None:
    blob = sealed(spool, b"data")
    spool.intake.accept(blob, instance_for(blob))
    other = sealed(spool, b"Data")
    forged = replace(instance_for(other), digest=instance_for(blob).digest)
    assert not spool.intake.accept(other, forged).merged


# -- time that stands still does not count towards giving up


def test_owed_since_moves_on_while_nothing_is_tried(settings: SpoolSettings) -> None:
    with turned_by_hand() as clock:
        spool = open_spool(settings)
        begin = clock.at
        spool.destinations.set_circuit("ai", 1.0, 1, "refused")
        clock.turn(10)
        accept(spool)
        decide(spool, "ai")  # owed since 10; 10 s of standing still lie before it and are not its own
        clock.turn(20)
        spool.orders.pause("ai", "a person")  # paused and circuit open at once: time is counted once
        clock.turn(30)
        spool.destinations.set_circuit("ai", None, 0, "")
        clock.turn(40)
        spool.orders.resume("ai", "a person")
        clock.turn(5)
        (owed,) = spool.deliveries.claim("ai", 1)
        assert owed.owed_for == pytest.approx(clock.at - (begin + 10 + 20 + 30 + 40))
        assert spool.deliveries.retry(owed, 0, "later").result()
        assert spool.orders.retry_now([owed.id], "a person") == 1
        (owed,) = spool.deliveries.claim("ai", 1)
        assert owed.owed_for == pytest.approx(0)
        spool.close()


def test_an_open_circuit_goes_on_standing_still_through_a_restart(settings: SpoolSettings) -> None:
    with turned_by_hand() as clock:
        spool = open_spool(settings)
        accept(spool)
        decide(spool, "ai")
        begin = clock.at
        clock.turn(1)
        spool.destinations.set_circuit("ai", 3600, 4, "no answer")
        spool.close()
        clock.turn(1000)
        spool = open_spool(settings)
        assert spool.destinations.state("ai").circuit_failures == 4
        (owed,) = spool.deliveries.claim("ai", 1)
        assert owed.owed_for == pytest.approx(clock.at - begin - 1000)
        spool.close()


def test_what_was_not_answered_is_claimed_before_what_came_later(spool: Spool) -> None:
    """Under a backlog that never ends it would else never be claimed again."""
    with turned_by_hand() as hands:
        victim = accept(spool, uid="1.1").instance_id
        (claim,) = spool.decisions.claim(1)
        spool.decisions.release(claim, after=1.0).result()
        for number in range(40):
            accept(spool, uid=f"2.{number}")
        assert victim not in [one.instance.id for one in spool.decisions.claim(8)]
        hands.turn(1)
        assert victim in [one.instance.id for one in spool.decisions.claim(8)]


def test_claims_go_evenly_among_callers(spool: Spool) -> None:
    few, many = CALLERS
    for number in range(20):
        accept(spool, uid=f"1.{number}", caller=many)
    for number in range(3):
        accept(spool, uid=f"2.{number}", caller=few)

    def claimed(limit: int, taken: dict[tuple[str, str], int], most: int) -> Counter[Caller]:
        return Counter(one.instance.caller for one in spool.decisions.claim(limit, taken, most))

    busy = {(many.calling_ae, many.peer): 4}
    assert claimed(1, busy, 5) == {few: 1}  # who has less under way
    assert claimed(8, busy, 5) == {few: 2, many: 1}  # and of nobody more than it may have
    assert claimed(8, {}, 8) == {many: 8}  # but all places, where no other wants them


def test_more_callers_than_one_claim_looks_at_all_have_their_turn(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.spool.turns.CALLERS_AT_ONCE", 4)
    callers = {Caller(f"AE{number}", "ROUTER", f"10.0.0.{number % 3}") for number in range(11)}
    for number, caller in enumerate(callers):
        for copy in range(3):
            accept(spool, uid=f"1.{number}.{copy}", caller=caller)
    first = [claim.instance.caller for _ in range(3) for claim in spool.decisions.claim(4)]
    assert set(first) == callers
    rest = 3 * len(callers) - len(first)
    assert sum(len(spool.decisions.claim(4)) for _ in range(rest)) == rest


def test_a_claim_looks_through_no_backlog(tmp_path: Path) -> None:
    """Each step is one in an index, so that a claim costs the same with a million instances of one caller."""
    values = {"peer": "", "ae": "", "from_peer": "", "from_ae": "", "most": 1, "now": 1, "by": 1, "until": 1}
    spool = open_spool(settings_of(tmp_path / "spool", "sqlite"))
    with spool.database._read_engine.connect() as connection:
        for statement in (statements.CALLERS["sqlite"], statements.CLAIM_FRESH, statements.CLAIM_AGAIN):
            compiled = statement.compile(dialect=connection.dialect)
            given = compiled.construct_params({name: values[name] for name in values if name in compiled.params})
            places = tuple(given[name] for name in compiled.positiontup or ())
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", places)]
            assert any("INDEX instance_" in step for step in plan)
            assert not [step for step in plan if step.startswith("SCAN instance") or "ORDER BY" in step]
    spool.close()
