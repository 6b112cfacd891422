"""Requests for storage commitment in SQLite and PostgreSQL: claimed once, fenced, listed by an index, forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.flow import Caller
from router.spool import CommitmentState, DeliveryState, Spool, commitment_rows, open_spool
from router.spool.commitment_rows import CLAIM_LASTS, Outcome, Place
from tests.unit.spooling import accept, decide, settings_of, turned_by_hand

CALLER, OTHER = Caller("XRAY_1", "ROUTER", "10.0.0.1"), Caller("XRAY_2", "ROUTER", "10.0.0.2")
ONE, TWO = ("1.2.840.10008.5.1.4.1.1.1.1", "1.1"), ("1.2.840.10008.5.1.4.1.1.1.1", "1.2")


@pytest.fixture
def settings(tmp_path: Path, database: str) -> SpoolSettings:
    return settings_of(tmp_path / "spool", database)


def test_one_at_a_time_and_the_longest_due_first(spool: Spool) -> None:
    work = spool.commitments
    first = work.add(CALLER, "1.2", [ONE, TWO], 60)
    second = work.add(OTHER, "1.2", [ONE], 60)
    assert work.add(CALLER, "1.2", [ONE], 60) == first != second
    due = work.claim(())
    assert due is not None
    assert (due.id, due.caller, due.transaction, due.is_answered, due.tries) == (first, CALLER, "1.2", False, 0)
    assert [row.sop_instance for row in work.pending(due)] == ["1.1", "1.2"]
    assert work.claim(("XRAY_2",)) is None
    other = work.claim(("XRAY_1",))
    assert other is not None
    assert other.id == second
    assert work.claim(()) is None


def test_one_caller_leaves_places_for_others(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.spool.commitment_rows.MOST_OF_ONE", 2)
    work = spool.commitments
    assert [work.add(CALLER, f"1.{n}", [ONE], 60) is None for n in range(3)] == [False, False, True]
    assert work.add(OTHER, "1.2", [ONE], 60) is not None


def many(count: int, first: int = 0) -> list[tuple[str, str]]:
    return [(ONE[0], f"1.2.{n}") for n in range(first, first + count)]


def count(spool: Spool, table: str) -> int:
    return int(spool.database.ask(lambda c: c.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()))


def test_a_flood_of_references_ends_and_leaves_room_for_others(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.spool.commitment_rows.MOST_REFERENCES_OF_ONE", 1500)
    monkeypatch.setattr("router.spool.commitment_rows.MOST_REFERENCES", 2000)
    work = spool.commitments
    assert [work.add(CALLER, f"1.{n}", many(700), 60) is None for n in range(4)] == [False, False, True, True]
    assert count(spool, "commitment_reference") == 1400
    assert work.add(OTHER, "1.2", many(601), 60) is None
    assert work.add(OTHER, "1.2", many(600), 60) is not None
    assert work.add(CALLER, "1.1", [ONE], 60) is None


def test_one_change_writes_few_references_and_other_changes_come_between(spool: Spool) -> None:
    """Who stores an instance meanwhile shares a commit with at most so many references, and not with all of them."""
    changes: list[list[str]] = []
    run = spool.database.run

    def watched(change: Any, *others: Any) -> Any:
        def noted(connection: sa.Connection) -> Any:
            changes.append([])
            listener = lambda _c, _cur, statement, parameters, *_: changes[-1].extend(  # noqa: E731
                [statement] * (len(parameters) if isinstance(parameters, list) else 1)
            )
            sa.event.listen(connection, "before_cursor_execute", listener)
            try:
                return change(connection)
            finally:
                sa.event.remove(connection, "before_cursor_execute", listener)

        return run(noted, *others)

    spool.database.run = watched  # type: ignore[method-assign, assignment]
    number = spool.commitments.add(CALLER, "1.2", many(1700), 60)
    due = spool.commitments.claim(())
    assert due is not None
    assert due.id == number
    rows = spool.commitments.pending(due)
    assert [row.sop_instance for row in rows] == [uid for _, uid in many(1700)]
    spool.commitments.asked([row.id for row in rows], "pacs", "2.25.1")
    assert spool.commitments.answer(["pacs"], "2.25.1", many(1699), {many(1, 1699)[0]: 0x0112}, 0x0110)
    assert [one.reason for one in spool.commitments.outcomes(due)] == [0] * 1699 + [0x0112]
    assert max(map(len, changes)) <= 500 + 10
    assert len(changes) > 8


def test_a_request_that_a_crash_cut_short_is_never_worked_on(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    new, has_more = spool.database.run(lambda c: commitment_rows.begin(c, CALLER, "1.2", many(700), 60))
    assert (new is not None, has_more) == (True, True)
    spool.close()
    spool = open_spool(settings)
    assert spool.commitments.claim(()) is None
    whole = spool.commitments.add(CALLER, "1.2", many(700), 60)
    due = spool.commitments.claim(())
    assert due is not None
    assert due.id == whole != new
    assert len(spool.commitments.pending(due)) == 700
    spool.close()


def test_references_go_soon_after_their_request_is_closed(settings: SpoolSettings) -> None:
    with turned_by_hand() as clock:
        spool = open_spool(settings)
        for number, size in enumerate((700, 3)):
            spool.commitments.add(CALLER, f"1.{number}", many(size), 60)
            due = spool.commitments.claim(())
            assert due is not None
            spool.commitments.close(due, CommitmentState.DONE)
        spool.commitments.add(OTHER, "1.9", [ONE, TWO], 60)
        clock.turn(commitment_rows.REFERENCES_KEPT)
        assert spool.retention.sweep() == 0
        clock.turn(1)
        found = [spool.retention.sweep() for _ in range(4)]
        assert (found[0], sum(found), found[-1]) == (500, 703, 0)
        assert (count(spool, "commitment_reference"), count(spool, "commitment")) == (2, 3)
        spool.close()


def test_a_claim_ends_and_its_holder_can_then_change_nothing(spool: Spool) -> None:
    work = spool.commitments
    with turned_by_hand() as clock:
        work.add(CALLER, "1.2", [ONE], 60)
        late = work.claim(())
        assert late is not None
        clock.turn(CLAIM_LASTS - 1)
        assert work.claim(()) is None
        clock.turn(2)
        due = work.claim(())
        assert due is not None
        work.close(late, CommitmentState.DONE)
        work.release(late, 0.0, tries=9)
        assert work.claim(()) is None
        work.release(due, 10.0, tries=1)
        assert work.claim(()) is None
        assert work.next_due(()) == clock.at + 10
        assert work.next_due(("XRAY_1",)) is None
        clock.turn(11)
        again = work.claim(())
        assert again is not None
        assert again.tries == 1


def test_an_answer_is_for_what_was_asked_and_counts_once(spool: Spool) -> None:
    work = spool.commitments
    work.add(CALLER, "1.2", [ONE, TWO], 60)
    due = work.claim(())
    assert due is not None
    rows = work.pending(due)
    work.asked([rows[0].id], "pacs", "2.25.1")
    assert not work.answer(["pacs"], "2.25.2", [ONE, TWO], {}, 0x0110)
    assert not work.answer(["other"], "2.25.1", [ONE, TWO], {}, 0x0110)
    assert not work.is_answered("2.25.1")
    assert work.answer(["pacs"], "2.25.1", [ONE, TWO], {}, 0x0110)
    assert work.is_answered("2.25.1")
    assert work.answer(["pacs"], "2.25.1", [], {ONE: 0x0112}, 0x0110)
    assert [row.sop_instance for row in work.pending(due)] == ["1.2"]
    work.set_outcomes({rows[0].id: 0x0110, rows[1].id: 0x0112})
    assert work.outcomes(due) == [Outcome(ONE, 0), Outcome(TWO, 0x0112)]


@pytest.mark.parametrize(
    ("good", "failed", "outcome"),
    [([ONE], {}, 0), ([], {ONE: 0x0119}, 0x0119), ([ONE], {ONE: 0x0112}, 0x0112), ([ONE], {ONE: 0}, 7), ([], {}, 7)],
)
def test_only_what_is_clearly_committed_is(
    spool: Spool, good: list[tuple[str, str]], failed: dict[tuple[str, str], int], outcome: int
) -> None:
    work = spool.commitments
    work.add(CALLER, "1.2", [ONE], 60)
    due = work.claim(())
    assert due is not None
    work.asked([row.id for row in work.pending(due)], "pacs", "2.25.1")
    work.answer(["pacs"], "2.25.1", good, failed, 7)
    assert work.outcomes(due) == [Outcome(ONE, outcome)]


def test_an_answer_in_the_middle_of_a_claim_is_not_slept_over(spool: Spool) -> None:
    work = spool.commitments
    work.add(CALLER, "1.2", [ONE], 60)
    due = work.claim(())
    assert due is not None
    work.asked([row.id for row in work.pending(due)], "pacs", "2.25.1")
    work.answer(["pacs"], "2.25.1", [ONE], {}, 0x0110)
    assert work.claim(()) is None, "it is still held"
    work.release(due, 300.0, tries=1)
    again = work.claim(())
    assert again is not None
    work.release(again, 300.0, state=CommitmentState.ANSWERED, tries=1)
    assert work.claim(()) is None, "a report that was not taken waits"


def test_an_answer_wakes_what_waits_for_it(spool: Spool) -> None:
    work = spool.commitments
    work.add(CALLER, "1.2", [ONE], 60)
    due = work.claim(())
    assert due is not None
    work.asked([row.id for row in work.pending(due)], "pacs", "2.25.1")
    work.release(due, 300.0, tries=1)
    assert work.claim(()) is None
    work.answer(["pacs"], "2.25.1", [ONE], {}, 0x0110)
    assert work.claim(()) is not None


def test_what_is_there_under_a_uid(spool: Spool) -> None:
    for data in (b"one", b"two"):
        accept(spool, data, "1.1")
    decide(spool, "pacs", "ai")
    for delivery in spool.deliveries.claim("pacs", 9):
        spool.deliveries.close(delivery, DeliveryState.DONE).result()
    newest, oldest = spool.commitments.places(["1.1", "1.7"])["1.1"]
    assert (newest.is_decided, newest.deliveries) == (False, {})
    assert (oldest.is_decided, dict(oldest.deliveries)) == (
        True,
        {"pacs": frozenset({DeliveryState.DONE}), "ai": frozenset({DeliveryState.OPEN})},
    )
    assert newest.digest != oldest.digest
    assert isinstance(newest, Place)


def test_a_start_frees_what_was_held_and_asks_again(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    spool.commitments.add(CALLER, "1.2", [ONE], 60)
    due = spool.commitments.claim(())
    assert due is not None
    spool.commitments.asked([row.id for row in spool.commitments.pending(due)], "pacs", "2.25.1")
    spool.close()
    spool = open_spool(settings)
    due = spool.commitments.claim(())
    assert due is not None
    (row,) = spool.commitments.pending(due)
    assert (row.asked_at, row.asked_uid) == (None, "2.25.1")
    spool.close()


def test_records_are_forgotten_with_the_others(settings: SpoolSettings) -> None:
    with turned_by_hand() as clock:
        spool = open_spool(settings)
        for number, state in enumerate((CommitmentState.DONE, CommitmentState.GIVEN_UP, None)):
            spool.commitments.add(CALLER, f"1.{number}", [ONE, TWO], 60)
            due = spool.commitments.claim(())
            assert due is not None
            if state:
                spool.commitments.close(due, state)
        clock.turn(settings.keep_records)
        while spool.retention.sweep():
            pass
        assert (count(spool, "commitment"), count(spool, "commitment_reference")) == (3, 2)
        clock.turn(1)
        assert spool.retention.sweep() == 2
        assert (count(spool, "commitment"), count(spool, "commitment_reference")) == (1, 2)
        spool.close()


def test_work_is_found_by_an_index(tmp_path: Path) -> None:
    spool = open_spool(settings_of(tmp_path / "spool"))
    seen: list[str] = []

    def watched(connection: sa.Connection) -> None:
        @sa.event.listens_for(connection, "before_cursor_execute")
        def before(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            if not statement.startswith("EXPLAIN"):
                one: Any = parameters[0] if isinstance(parameters, list) else parameters
                seen.extend(row.detail for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, one))

        commitment_rows.has_room(connection, CALLER, 1)
        commitment_rows.begin(connection, CALLER, "1.2", [ONE], 60)
        commitment_rows.complete(connection, 1, OTHER, "1.3", 0)
        due = commitment_rows.claim(connection, ("X",), 7)
        assert due is not None
        commitment_rows.places(connection, ["1.1"])
        commitment_rows.asked_under(connection, ["pacs"], "2.25.1")
        commitment_rows.set_outcomes(connection, [(1, 0)])
        commitment_rows.is_due(connection, 1)
        commitment_rows.release(connection, due, 1.0, CommitmentState.OPEN, 1)
        commitment_rows.forget(connection, 1.0, 10)
        commitment_rows.forget_references(connection, 0.0, 1.0)
        commitment_rows.free_claims(connection)

    spool.database.run(watched)
    spool.close()
    assert len(seen) > 8
    tables = ("SCAN commitment", "SCAN commitment_reference", "SCAN instance", "SCAN delivery")
    assert not [detail for detail in seen if detail.startswith(tables)]
