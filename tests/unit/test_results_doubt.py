"""What only looks like an answer of an AI: nothing is kept from a destination for it, and no alarm ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from router.commands.status import status_of
from router.config.loading import load
from router.flow import Caller, Decision, Seen
from router.spool import Spool, open_spool
from router.spool.matching import ALONE
from router.spool.rows import Claim
from tests.unit.spooling import SOP_CLASS, instance_for, sealed, settings_of, turned_by_hand
from tests.unit.test_results import (
    BONE,
    CHEST,
    LIMITS,
    SR,
    WORKSTATION,
    answer,
    begin,
    comes,
    end,
    image,
    match,
    miss,
    of,
    row_of,
    send,
    states,
)


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("sop_class", "refers_to"), [(SOP_CLASS, ()), (SR, ()), (SR, ("1.1",))], ids=["image", "study", "reference"]
)
def test_two_systems_of_one_ae_title_one_of_them_no_ai(
    spool: Spool, sop_class: str, refers_to: tuple[str, ...]
) -> None:
    """An archive that sends, and one that is sent to, both named as they were made: everything passes."""
    sender = replace(BONE, peer="10.0.0.7")
    first = comes(spool, "1.1", sender, "bone-ai")
    assert states(spool, first) == {"bone-ai": "open"}
    send(spool, "bone-ai", expect=None)
    second = comes(spool, "1.2", sender, "bone-ai", sop_class=sop_class, refers_to=refers_to)
    assert states(spool, second) == {"bone-ai": "open"}
    assert of(spool, first) == []


def test_what_comes_back_as_it_was_sent_does_not_go_there_again(spool: Spool) -> None:
    """As of two of these nodes that name each other, with other AE titles or addresses for what they send."""
    image(spool, "1.1", "bone-ai")
    send(spool, "bone-ai", expect=None)
    back = comes(spool, "1.1", BONE, "bone-ai", "pacs")
    assert states(spool, back) == {"bone-ai": "skipped", "pacs": "open"}
    changed = comes(spool, "1.1", BONE, "bone-ai", data=b"corrected")
    assert states(spool, changed) == {"bone-ai": "open"}


def test_what_a_caller_sends_again_goes_there_again(spool: Spool) -> None:
    comes(spool, "1.1", BONE, "bone-ai")
    send(spool, "bone-ai", expect=None)
    again = comes(spool, "1.1", Caller("BONE_AI", "ROUTER", "10.0.0.7"), "bone-ai")
    assert states(spool, again) == {"bone-ai": "open"}


def test_an_image_of_one_of_several_nodes_goes_to_no_other(spool: Spool) -> None:
    """They would answer each other for ever. Forwarding compares the address of the one that is left."""
    wanted = Decision("r", ("chest-ai", "bone-ai", "pacs"), "r", one_of="instance")
    for number in range(8):
        assert states(spool, comes(spool, f"2.{number}", BONE, decision=wanted)) == {"bone-ai": "open"}


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "late"])
def test_what_only_refers_to_an_image_ends_no_wait(spool: Spool, *, is_late: bool) -> None:
    """A workstation makes a presentation state of an image that the AI is silent about."""
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        send(spool)
        if is_late:
            clock.turn(601)
            miss(spool)
        result = answer(spool, caller=WORKSTATION, refers_to=("1.1",))
        assert of(spool, one) == [(result, "chest-ai", ALONE)]
        other = image(spool, "1.2")
        end(spool, begin(spool), took=1.0)
        clock.turn(601)
        miss(spool)
        assert [states(spool, which) for which in (one, other)] == [{"chest-ai": "done", "people": "open"}] * 2
        assert spool.views.counts().missing == {"chest-ai": 2}


@pytest.mark.parametrize("seconds", [86_400.0, -86_400.0])
def test_a_clock_that_jumps_while_it_is_sent_moves_no_wait(spool: Spool, seconds: float) -> None:
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        claimed = begin(spool)
        clock.put(seconds)
        end(spool, claimed)
        miss(spool)
        clock.turn(599)
        miss(spool)
        assert spool.views.counts().missing == {}
        clock.turn(2)
        miss(spool)
        assert row_of(spool, one).result_missing_at is not None


def test_an_ai_that_always_sends_something_still_misses_one(spool: Spool) -> None:
    """Something from it always waits for its decision."""
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        send(spool)
        claims: list[Claim] = []
        for number in range(8):
            clock.turn(4 if number else 595)
            blob = sealed(spool, b"another")
            other = replace(instance_for(blob, f"2.{number}", CHEST, clock.at), sop_class=SR)
            spool.intake.accept(blob, other)
            claims += spool.decisions.claim(10)
            for claim in claims[:-2]:
                found = match(spool, claim.instance, "5.5", ())
                decided = Decision("r", ("pacs",), "r")
                assert spool.decisions.record(claim, Seen("none"), decided, LIMITS, found=found).result()
            claims = claims[-2:]
            miss(spool)
        assert len(claims) == 2
        assert row_of(spool, one).result_missing_at is not None


def test_many_that_wait_for_their_decision_are_counted_once(spool: Spool) -> None:
    """Not for each result that is waited for: nobody else could write meanwhile."""
    with turned_by_hand() as clock:
        for number in range(20):
            image(spool, f"1.{number}", study=f"3.{number}")
        send(spool)
        clock.turn(601)
        asked: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *of: Any) -> None:
            if "received_at" in statement and "instance.calling_ae IN" in statement:
                asked.append(statement)

        sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
        try:
            miss(spool)
        finally:
            sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
        assert spool.views.counts().missing == {"chest-ai": 20}
        assert len(asked) == 1


WITHOUT_IT = """
spool: {path: spool}
destinations: {pacs: {ae_title: PACS, host: 127.0.0.1, port: 105}}
rules: []
otherwise: {send: pacs}
"""


def test_an_ai_that_is_removed_while_it_is_silent_is_not_forgotten(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text(WITHOUT_IT)
    settings = load(tmp_path / "routing.yaml", {})
    with turned_by_hand() as clock:
        one = image(spool, "1.1")
        send(spool)
        clock.turn(601)
        spool.results.step(settings.expects, settings.limits, givers=settings.results_from)
        assert row_of(spool, one).result_missing_at is not None
        (problem,) = [one for one in status_of(settings, spool, None, 0).problems if one.kind == "result"]
        assert problem.what == "chest-ai gave no result for 1 delivery"
