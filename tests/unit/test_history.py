"""The judge of the chaos harness: it must see every kind of broken promise, and forgive nothing without a cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.history import Arrival, Crash, Sent, SpoolRow, Verdict, judge, total

BOTH = frozenset({"one", "two"})
THREE = frozenset({"three"})
ONE = Sent("1.1", "aa", BOTH, 1, acknowledged=True)
ROW = SpoolRow("1.1", "aa", "finished", "decoded", BOTH)
AT_ONE, AT_TWO = Arrival("1.1", "aa", "one", 10.0), Arrival("1.1", "aa", "two", 11.0)
NODE = Crash("node", 20.0)
LATE = replace(AT_ONE, at=30.0)
HEADER = replace(ONE, expected=frozenset({"one"}), by_header=True)
BLIND = replace(ROW, pixels="undecodable", destinations=THREE)


def verdict(
    *arrivals: Arrival,
    sent: tuple[Sent, ...] = (ONE,),
    crashes: tuple[Crash, ...] = (),
    rows: tuple[SpoolRow, ...] = (ROW,),
    without_blob: tuple[str, ...] = (),
    claimed: int = 1,
) -> Verdict:
    return judge(sent, arrivals, crashes, rows, without_blob, THREE, claimed)


def broken(found: Verdict) -> dict[str, int]:
    """The promises that were broken, with their counts; each with its line."""
    names = ("lost", "wrong_place", "altered", "unexplained", "undelivered_rows", "rows_without_blob")
    counts = {name: value for name, value in found.numbers().items() if name in names and value}
    assert sum(counts.values()) == len(found.faults)
    assert found.kept == (not counts)
    return counts


def test_a_history_in_order() -> None:
    found = verdict(AT_ONE, AT_TWO, crashes=(NODE,))
    assert not broken(found)
    assert (found.sent, found.acknowledged, found.delivered, found.duplicates, found.kills) == (1, 1, 2, 0, 1)


def test_what_did_not_arrive_at_one_of_its_places_is_lost() -> None:
    assert broken(verdict(AT_ONE, crashes=(NODE,))) == {"lost": 1}


def test_what_arrived_nowhere_and_has_no_row_is_lost_at_every_place() -> None:
    assert broken(verdict(rows=())) == {"lost": 3}


def test_an_acknowledged_instance_without_a_row_is_lost_even_where_it_arrived() -> None:
    assert broken(verdict(AT_ONE, AT_TWO, rows=()))["lost"] == 1


def test_what_was_never_acknowledged_nor_stored_is_not_lost() -> None:
    assert not broken(verdict(sent=(replace(ONE, acknowledged=False),), rows=()))


def test_what_was_stored_without_an_acknowledgement_must_arrive_all_the_same() -> None:
    assert broken(verdict(AT_ONE, sent=(replace(ONE, acknowledged=False),))) == {"lost": 1}


def test_a_place_that_is_not_its_own() -> None:
    assert broken(verdict(AT_ONE, AT_TWO, replace(AT_ONE, place="three"))) == {"wrong_place": 1}


def test_a_decision_for_another_place() -> None:
    assert "wrong_place" in broken(verdict(AT_ONE, AT_TWO, rows=(replace(ROW, destinations=THREE),)))


def test_an_instance_that_nobody_sent() -> None:
    stranger = Arrival("9.9", "aa", "one", 12.0)
    assert broken(verdict(AT_ONE, AT_TWO, stranger)) == {"wrong_place": 1}
    assert broken(verdict(AT_ONE, AT_TWO, rows=(ROW, replace(ROW, uid="9.9")))) == {"wrong_place": 1}


@pytest.mark.parametrize("where", ["arrival", "row"])
def test_other_bytes(where: str) -> None:
    arrival = replace(AT_TWO, digest="bb") if where == "arrival" else AT_TWO
    row = replace(ROW, digest="bb") if where == "row" else ROW
    assert broken(verdict(AT_ONE, arrival, rows=(row,))) == {"altered": 1}


@pytest.mark.parametrize("state", ["new", "decided"])
def test_what_still_waits_at_the_end(state: str) -> None:
    assert broken(verdict(AT_ONE, AT_TWO, rows=(replace(ROW, state=state),))) == {"undelivered_rows": 1}


def test_a_buried_delivery_is_not_at_rest() -> None:
    assert broken(verdict(AT_ONE, AT_TWO, rows=(replace(ROW, open_deliveries=1),))) == {"undelivered_rows": 1}


def test_a_row_without_its_blob_is_counted_once() -> None:
    assert broken(verdict(AT_ONE, AT_TWO, without_blob=("ab", "ab"))) == {"rows_without_blob": 1}


def test_a_duplicate_after_a_crash_is_explained() -> None:
    found = verdict(AT_ONE, AT_TWO, LATE, crashes=(NODE,))
    assert not broken(found)
    assert (found.duplicates, found.delivered, found.most_duplicates_of_a_crash) == (1, 2, 1)


@pytest.mark.parametrize(
    "crashes",
    [(), (Crash("node", 5.0),), (Crash("node", 35.0),), (Crash("inference", 20.0),), (Crash("worker", 20.0),)],
    ids=["none", "before both", "after both", "inference", "worker"],
)
def test_a_duplicate_without_a_crash_of_the_node_between(crashes: tuple[Crash, ...]) -> None:
    assert broken(verdict(AT_ONE, AT_TWO, LATE, crashes=crashes)) == {"unexplained": 1}


@pytest.mark.parametrize(
    ("at", "until", "explained"),
    [(5.0, 9.0, False), (5.0, 15.0, True), (15.0, 25.0, True), (25.0, 40.0, True), (31.0, 40.0, False)],
)
def test_a_failure_of_the_server_explains_a_duplicate_while_it_lasts(at: float, until: float, explained: bool) -> None:
    found = verdict(AT_ONE, AT_TWO, LATE, crashes=(Crash("server", at, until=until),))
    assert broken(found) == ({} if explained else {"unexplained": 1})


def test_one_crash_explains_one_duplicate_of_an_instance_and_two_explain_two() -> None:
    later = replace(AT_ONE, at=31.0)
    assert broken(verdict(AT_ONE, AT_TWO, LATE, later, crashes=(NODE,))) == {"unexplained": 1}
    between = Crash("node", 30.5)
    found = verdict(AT_ONE, AT_TWO, LATE, later, crashes=(NODE, between))
    assert not broken(found)
    assert found.duplicates == 2


def test_a_crash_explains_no_more_duplicates_at_a_place_than_were_claimed_there() -> None:
    other, its_row = replace(ONE, uid="1.2"), replace(ROW, uid="1.2")
    arrivals = [replace(one, uid=uid) for one in (AT_ONE, AT_TWO, LATE) for uid in ("1.1", "1.2")]
    history = {"sent": (ONE, other), "rows": (ROW, its_row), "crashes": (NODE,)}
    assert broken(verdict(*arrivals, **history)) == {"unexplained": 1}  # type: ignore[arg-type]
    assert not broken(verdict(*arrivals, **history, claimed=2))  # type: ignore[arg-type]


def test_what_was_sent_again_may_arrive_again() -> None:
    found = verdict(AT_ONE, AT_TWO, LATE, sent=(replace(ONE, tries=2),), rows=(ROW, ROW))
    assert not broken(found)
    assert (found.sent_again, found.duplicates) == (1, 0)


def test_more_rows_than_tries() -> None:
    assert broken(verdict(AT_ONE, AT_TWO, LATE, rows=(ROW, ROW))) == {"unexplained": 1}


def test_failures_of_the_server_explain_no_instance_without_a_header() -> None:
    crashes = tuple(Crash("server", at) for at in (1.0, 2.0, 3.0))
    arrived = Arrival("1.1", "aa", "three", 30.0)
    assert broken(verdict(arrived, sent=(HEADER,), rows=(BLIND,), crashes=crashes)) == {"unexplained": 1}


@pytest.mark.parametrize(("kills", "explained"), [(2, False), (3, True)])
def test_three_other_kills_explain_one_instance_without_a_header(kills: int, explained: bool) -> None:
    arrived = replace(AT_ONE, place="three")
    crashes = tuple(Crash("node", at) for at in range(1, kills + 1))
    assert (not broken(verdict(arrived, sent=(HEADER,), rows=(BLIND,), crashes=crashes))) is explained


def test_without_a_header_otherwise_is_right_and_needs_a_dead_worker() -> None:
    arrived = replace(AT_ONE, place="three")
    assert not broken(verdict(arrived, sent=(HEADER,), rows=(BLIND,), crashes=(Crash("worker", 9.0),)))
    assert broken(verdict(arrived, sent=(HEADER,), rows=(BLIND,), crashes=(NODE,))) == {"unexplained": 1}


def test_what_goes_by_its_caller_goes_there_without_a_header_too() -> None:
    found = verdict(replace(AT_ONE, place="three"), rows=(BLIND,), crashes=(Crash("worker", 9.0),))
    assert broken(found) == {"wrong_place": 2, "lost": 2}


def test_the_sum_of_histories() -> None:
    good = verdict(AT_ONE, AT_TWO, LATE, crashes=(NODE,))
    whole = total([good, good, verdict(AT_ONE)])
    assert (whole.kills, whole.sent, whole.delivered, whole.duplicates, whole.lost) == (2, 3, 5, 2, 1)
    assert whole.most_duplicates_of_a_crash == 1
    assert not whole.kept


# -- several in one request, and studies that stay together


def test_a_place_that_takes_several_at_once_gets_as_many_twice_and_no_more() -> None:
    sent = tuple(replace(ONE, uid=f"1.{n}", expected=frozenset({"web"})) for n in range(3))
    rows = tuple(replace(ROW, uid=one.uid, destinations=one.expected) for one in sent)
    arrivals = [Arrival(one.uid, "aa", "web", at) for one in sent for at in (10.0, 30.0)]
    found = {most: judge(sent, arrivals, (NODE,), rows, (), THREE, 1, {"web": most}) for most in (2, 3)}
    assert (broken(found[2]), broken(found[3])) == ({"unexplained": 1}, {})
    assert found[3].duplicates == 3


LEADS = Sent("1.1", "aa", frozenset({"one"}), 1, acknowledged=True, by_header=True, study="s", leads=frozenset({"one"}))
FOLLOWS = Sent("1.2", "bb", THREE, 1, acknowledged=True, by_header=True, study="s")
STUDY = (
    SpoolRow("1.1", "aa", "finished", "decoded", frozenset({"one"})),
    SpoolRow("1.2", "bb", "finished", "decoded", THREE),
)
ARRIVED = (
    Arrival("1.1", "aa", "one", 1.0), Arrival("1.2", "bb", "three", 2.0), Arrival("1.2", "bb", "one", 3.0),
)  # fmt: skip


def test_what_follows_its_study_must_arrive_there_too() -> None:
    assert broken(verdict(*ARRIVED, sent=(LEADS, FOLLOWS), rows=STUDY)) == {}
    assert broken(verdict(*ARRIVED[:2], sent=(LEADS, FOLLOWS), rows=STUDY)) == {"lost": 1}
    other = replace(FOLLOWS, study="t")
    assert broken(verdict(*ARRIVED, sent=(LEADS, other), rows=STUDY)) == {"wrong_place": 1}


def test_what_could_not_be_read_neither_leads_nor_follows() -> None:
    blind = (replace(STUDY[0], pixels="failed", destinations=THREE), STUDY[1])
    crashes = (Crash("worker", 0.5),)
    at_three = replace(ARRIVED[0], place="three")
    assert broken(verdict(at_three, ARRIVED[1], sent=(LEADS, FOLLOWS), rows=blind, crashes=crashes)) == {}
    rows = (STUDY[0], replace(STUDY[1], pixels="failed"))
    assert broken(verdict(*ARRIVED[:2], sent=(LEADS, FOLLOWS), rows=rows, crashes=crashes)) == {}
