"""What each answer of a STOW-RS server means for the delivery: a table, and answers that nobody should send."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config.settings import HOUR
from router.forward.http import Answer
from router.forward.outcomes import DUPLICATE, Fate, Outcome, Sign
from router.forward.store_answers import outcome_of_answer, trouble_of
from tests.unit.webpeer import JSON, element, failed, stored

OURS, OTHER = "1.2.3", "1.2.4"


def told(status: int, body: Any = b"", media_type: str = JSON, **more: Any) -> Outcome:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return outcome_of_answer(Answer(status, media_type, text, **more), OURS)


@pytest.mark.parametrize(
    ("status", "body", "fate", "number"),
    [
        (200, stored(OURS), Fate.DONE, 0),
        (200, [stored(OURS)], Fate.DONE, 0),
        (202, stored(OURS), Fate.DONE, 0),
        (200, stored(OURS, warning=0xB000), Fate.DONE, 0xB000),
        (200, stored(OURS, warning=0xB123), Fate.DONE, 0xB123),
        (202, stored(OURS, warning=0xB007), Fate.DONE, 0xB007),
        (409, stored(OURS), Fate.FEW, None),
        (200, stored(OTHER), Fate.FEW, None),
        (200, stored(OURS) | failed(OURS, 0x0110), Fate.LATER, 0x0110),
        (200, stored(OURS) | failed(OTHER, 0x0110), Fate.DONE, 0),
        (202, failed(OURS, 0xA700), Fate.LATER, 0xA700),
        (409, failed(OURS, 0xA700), Fate.LATER, 0xA700),
        (409, failed(OURS, 0xA900), Fate.FEW, 0xA900),
        (409, failed(OURS, 0xC000), Fate.FEW, 0xC000),
        (409, failed(OURS, 0xC122), Fate.FEW, 0xC122),
        (409, failed(OURS, 0x0122), Fate.FEW, 0x0122),
        (409, failed(OURS, 0x0124), Fate.FEW, 0x0124),
        (409, failed(OURS, 0x0111), Fate.DONE, DUPLICATE),
        (409, failed(OURS, 45070), Fate.DONE, DUPLICATE),
        (409, failed(OURS, 45071), Fate.LATER, 45071),
        (409, failed(None, 0xA700), Fate.LATER, 0xA700),
        (409, failed(None, 0xA700, "0008119A"), Fate.LATER, 0xA700),
        (409, failed(OTHER, 0x0110), Fate.FEW, None),
        (409, failed(OURS, None), Fate.FEW, None),
        (409, failed(OURS, 0), Fate.FEW, None),
        (409, failed(OURS, 0xB000), Fate.FEW, None),
        (409, failed(OURS, -1), Fate.FEW, None),
        (200, {}, Fate.FEW, None),
        (200, [], Fate.FEW, None),
        (200, [stored(OURS), stored(OURS)], Fate.FEW, None),
        (200, b"{", Fate.FEW, None),
        (200, b"[" * 100_000, Fate.FEW, None),
        (200, b'{"00081199": {"Value": [1]}}', Fate.FEW, None),
        (200, b'{"00081199": 5}', Fate.FEW, None),
        (202, b"", Fate.FEW, None),
        (409, b"", Fate.FEW, None),
        (201, stored(OURS), Fate.FEW, None),
        (204, b"", Fate.FEW, None),
    ],
)
def test_the_body_says_what_became_of_the_instance(status: int, body: Any, fate: Fate, number: int | None) -> None:
    found = told(status, body)
    assert (found.fate, found.status, found.sign) == (fate, number, Sign.ANSWERED)


def test_200_without_a_body_or_in_xml_counts_and_says_so() -> None:
    assert told(200) == Outcome(Fate.DONE, "answered 200 without a word on the instance")
    assert told(200, b"<x/>", "application/dicom+xml") == Outcome(Fate.DONE, "answered 200 in XML, which is not read")
    assert told(409, b"<x/>", "application/dicom+xml").fate is Fate.FEW


def test_a_page_of_somebody_else_is_no_success() -> None:
    assert told(200, b"<html>Log in</html>", "text/html").fate is Fate.FEW
    assert told(200, stored(OURS), is_too_long=True).fate is Fate.FEW


def test_success_before_everything_was_sent_is_none() -> None:
    found = told(200, stored(OURS), is_early=True)
    assert (found.fate, found.sign) == (Fate.LATER, Sign.ENDED)
    assert told(413, is_early=True) == told(413)


@pytest.mark.parametrize(
    ("statuses", "fate", "sign"),
    [
        ((400, 406, 411, 413, 415, 422, 499, 505, 102, 103), Fate.FEW, Sign.ANSWERED),
        ((301, 302, 307, 308, 401, 403, 404, 405, 407, 410, 421, 501), Fate.LATER, Sign.REFUSED),
        ((408, 425, 429, 500, 502, 503, 504, 507, 599), Fate.LATER, Sign.ANSWERED),
    ],
)
def test_other_statuses(statuses: tuple[int, ...], fate: Fate, sign: Sign) -> None:
    assert {(told(status).fate, told(status).sign) for status in statuses} == {(fate, sign)}


def test_retry_after_is_heeded_within_bounds() -> None:
    def after(status: int, written: str) -> float:
        return told(status, retry_after=written).after

    assert [after(503, "7"), after(429, " 90 ")] == [7.0, 90.0]
    assert [after(503, "999999"), after(503, "9" * 5000)] == [HOUR, HOUR]
    assert [after(503, text) for text in ("", "-5", "soon", "1.5", "٣", "Fri, 99 Foo", "0")] == [0.0] * 7
    assert 100 < after(503, format_datetime(datetime.now(UTC) + timedelta(seconds=200), usegmt=True)) <= 200
    assert after(503, format_datetime(datetime.now(UTC) - timedelta(days=2), usegmt=True)) == 0.0
    assert after(500, "7") == 0.0


def test_nothing_of_the_server_is_in_a_reason() -> None:
    secret = "DOE^JOHN"
    bodies = [stored(secret), failed(OURS, 0xA700) | {"00100010": element("PN", secret)}, secret.encode()]
    for status in (200, 202, 400, 409, 500):
        for body in bodies:
            for media_type in (JSON, secret, "text/html"):
                assert secret not in told(status, body, media_type, retry_after=secret).reason


def test_a_server_need_not_know_options() -> None:
    assert [trouble_of(Answer(status)) for status in (200, 204, 400, 405, 501)] == [""] * 5
    assert all(trouble_of(Answer(status)) for status in (301, 401, 403, 404, 429, 500, 503))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda below: st.lists(below) | st.dictionaries(
        st.sampled_from(["00081199", "00081198", "0008119A", "00081155", "00081197", "Value", "vr"]), below
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=40)
@given(st.integers(100, 999), JSON_VALUES)
def test_no_answer_is_done_unless_it_names_the_instance(status: int, body: Any) -> None:
    text = json.dumps(body)
    outcome = told(status, text.encode())
    if outcome.fate is Fate.DONE:
        assert outcome.status == DUPLICATE or OURS in text


@settings(max_examples=40)
@given(st.integers(100, 999), st.binary(max_size=200))
def test_no_answer_raises(status: int, body: bytes) -> None:
    assert told(status, body).fate in Fate
