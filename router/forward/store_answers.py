"""What the answer to a STOW-RS request means for its deliveries (PS3.18 §10.5.3, annex I.2). Pure.

Everything in an answer comes from outside. Its numbers are looked up, and none of its texts is passed on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from router.association.dimse import STORED
from router.config.settings import HOUR
from router.forward.http import Answer
from router.forward.outcomes import DUPLICATE, Fate, Outcome, Sign, outcome_of

REFERENCED, FAILED, OTHER = "00081199", "00081198", "0008119A"
INSTANCE, FAILURE_REASON, WARNING_REASON = "00081155", "00081197", "00081196"
JSON = ("application/dicom+json", "application/json")
XML = ("application/dicom+xml", "application/xml", "text/xml", "multipart/related")
SYNTAX_REFUSED = 0xC122
"""Failure reason: the transfer syntax is not supported."""
REASONS = {
    SYNTAX_REFUSED: Outcome(Fate.FEW, "answered 0xC122 (transfer syntax not supported)", SYNTAX_REFUSED),
    0xB00E: Outcome(Fate.DONE, "was there already", DUPLICATE),
    0xB00F: Outcome(Fate.LATER, "answered 0xB00F (the instance is just being stored)", 0xB00F),
}
"""Failure reasons that C-STORE does not have. The last two are those of Azure's DICOM service (45070 and 45071)."""
REFUSALS = {
    300: "a redirect: write the last address as stow", 301: "a redirect: write the last address as stow",
    302: "a redirect: write the last address as stow", 303: "a redirect: write the last address as stow",
    307: "a redirect: write the last address as stow", 308: "a redirect: write the last address as stow",
    401: "it does not accept the credentials: check auth", 403: "it forbids storing",
    404: "no such address: check stow",
    405: "nothing can be stored at this address: check stow", 407: "a proxy wants credentials",
    410: "no such address any more: check stow", 421: "another server has this address", 426: "it wants TLS",
    501: "it cannot store",
}  # fmt: skip
"""Statuses of a server that refuses this node whatever it sends."""
LATER = {408: "it waited too long", 425: "too early", 429: "too many requests", 507: "out of room"}
FEW = {
    400: "it does not understand the request", 406: "it cannot answer in JSON",
    411: "it wants a length", 413: "too large for it",
    415: "media type or transfer syntax not supported", 422: "it cannot process the instance",
    505: "it does not speak HTTP/1.1",
}  # fmt: skip
WHOEVER_ASKS = (401, 429, 503)
"""Statuses that do not depend on what is sent."""
LONGEST_AFTER = HOUR
"""The most seconds that a destination can make a delivery wait by Retry-After."""


def outcome_of_answer(answer: Answer, sop_instance: str) -> Outcome:
    """The outcome for the one instance that was sent."""
    outcome = _outcome(answer, sop_instance)
    if answer.is_early and outcome.fate is Fate.DONE:
        return Outcome(Fate.LATER, "it answered before everything was sent", sign=Sign.ENDED)
    return outcome


def stored_of_answer(answer: Answer, sop_instances: Sequence[str]) -> list[Outcome | None]:
    """For each instance of a request with several: its success, or None. None says nothing of an instance: what became
    of it must be asked for alone. So no failure, no silence and no mistake in an answer is put down to a wrong one.

    If the server refuses whoever asks, or asks for time, that is the outcome of the first."""
    unknown: list[Outcome | None] = [None] * len(sop_instances)
    if answer.status in WHOEVER_ASKS:
        return [outcome_of_answer(answer, sop_instances[0]), *unknown[1:]]
    if answer.status not in (200, 202) or answer.is_early or answer.is_too_long or answer.media_type not in JSON:
        return unknown
    try:
        failed, stored = _told(answer)
    except (ValueError, RecursionError):
        return unknown
    named = {_value(item, INSTANCE) for item in failed}
    if named & {None, ""}:
        return unknown  # it may be about any of them
    found: dict[str, Outcome] = {}
    for item in stored:
        uid = _value(item, INSTANCE)
        if isinstance(uid, str) and uid not in named:
            found[uid] = _success(_number(item, WARNING_REASON))
    return [found.get(uid) for uid in sop_instances]


def trouble_of(answer: Answer) -> str:
    """Why a server that was asked by OPTIONS does not work; empty if it does. Many do not know OPTIONS."""
    if answer.status < 300 or answer.status in (400, 405, 501):
        return ""
    return _words(answer.status, REFUSALS | LATER | FEW)


def trouble_of_nothing(answer: Answer) -> str:
    """The same of a server to which no instance was posted. Where it objects to just that, it works."""
    if answer.status < 300 or answer.status in (400, 409, 411, 415, 422):
        return ""
    return _words(answer.status, REFUSALS | LATER | FEW)


def is_busy(answer: Answer) -> bool:
    """Whether nothing would be stored now, so that nothing need be sent to find out."""
    return answer.status in LATER or (answer.status >= 500 and answer.status not in (*REFUSALS, *FEW))


def refuses_syntax(answer: Answer, outcome: Outcome) -> bool:
    return answer.status == 415 or outcome.status == SYNTAX_REFUSED


def _outcome(answer: Answer, sop_instance: str) -> Outcome:
    status = answer.status
    if status in (200, 202, 409):
        return _by_instance(answer, sop_instance)
    if status in REFUSALS:
        return Outcome(Fate.LATER, _words(status, REFUSALS), sign=Sign.REFUSED)
    if is_busy(answer):
        after = _seconds(answer.retry_after) if status in (429, 503) else 0.0
        return Outcome(Fate.LATER, _words(status, LATER, "the server failed"), after=after)
    return Outcome(Fate.FEW, _words(status, FEW, "no success"))


def _by_instance(answer: Answer, sop_instance: str) -> Outcome:
    """After 200, 202 and 409 the body says what became of the instance."""
    status, is_whole = answer.status, answer.status == 200
    if not answer.body and not answer.is_too_long:
        return _without_a_word(is_whole, status, "without a word on the instance")
    if answer.media_type in XML:
        return _without_a_word(is_whole, status, "in XML, which is not read")
    if answer.media_type not in JSON:
        return Outcome(Fate.FEW, f"answered {status}, but not as STOW-RS does: check stow")
    if answer.is_too_long:
        return Outcome(Fate.FEW, f"answered {status} with more than can be read")
    try:
        failed, items = _told(answer)
        stored = [item for item in items if _value(item, INSTANCE) == sop_instance]
    except (ValueError, RecursionError):
        return Outcome(Fate.FEW, f"answered {status}, but its answer cannot be read")
    # One instance was sent. So a failure without a UID is its failure.
    of_ours = [item for item in failed if _value(item, INSTANCE) in (None, "", sop_instance)]
    if of_ours:
        return _failure(status, _number(of_ours[0], FAILURE_REASON))
    if stored and status != 409:
        return _success(_number(stored[0], WARNING_REASON))
    return Outcome(Fate.FEW, f"answered {status} without a success of this instance")


def _told(answer: Answer) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The items on what failed, and those on what was stored. Raises ValueError, RecursionError."""
    data_set = _data_set(json.loads(answer.body))
    return [item for tag in (FAILED, OTHER) for item in _items(data_set, tag)], list(_items(data_set, REFERENCED))


def _without_a_word(is_whole: bool, status: int, words: str) -> Outcome:
    """200 says that everything was stored (PS3.18 table 10.5.3-1). 202 and 409 say that something was not."""
    return Outcome(Fate.DONE if is_whole else Fate.FEW, f"answered {status} {words}")


def _success(warning: int | None) -> Outcome:
    if warning is None:
        return Outcome(Fate.DONE, status=0)
    words = STORED.get(warning, "a warning")
    return Outcome(Fate.DONE, f"stored with 0x{warning:04X} ({words})", warning)


def _failure(status: int, reason: int | None) -> Outcome:
    if reason is None or reason in STORED:
        return Outcome(Fate.FEW, f"answered {status}: it failed without a reason")
    return REASONS.get(reason) or outcome_of(reason)


def _data_set(found: Any) -> dict[str, Any]:
    """The data set of an answer. Some servers put it into a list."""
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        raise ValueError("no data set")
    return found


def _items(data_set: dict[str, Any], tag: str) -> Iterator[dict[str, Any]]:
    element = data_set.get(tag, {})
    values = element.get("Value", []) if isinstance(element, dict) else None
    if not isinstance(values, list):
        raise ValueError("no sequence")
    for item in values:
        if not isinstance(item, dict):
            raise ValueError("no item")
        yield item


def _value(item: dict[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _number(item: dict[str, Any], tag: str) -> int | None:
    """A status; None if it is none."""
    value = _value(item, tag)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 5:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0xFFFF else None


def _seconds(written: str) -> float:
    """Retry-After (RFC 9110 §10.2.3), within bounds; 0 if it says nothing."""
    text = written.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:10]), LONGEST_AFTER)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError, AttributeError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_AFTER)


def _words(status: int, of: dict[int, str], otherwise: str = "") -> str:
    words = of.get(status, otherwise)
    return f"answered {status} ({words})" if words else f"answered {status}"
