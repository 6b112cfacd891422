"""What an answer means for a delivery: a table of DIMSE statuses (PS3.4 table B.2-1, PS3.7 annex C). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal


class Fate(Enum):
    """done: it has arrived. later: try again until `give_up_after`. few: try a few times over hours, then bury.
    bury: no further try can help, a person must look."""

    DONE = "done"
    LATER = "later"
    FEW = "few"
    BURY = "bury"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of one attempt, its DIMSE status where there was one, and a reason in words of our own.

    `sign` says what the attempt shows of the destination: that it answered (a status, or the contexts that it accepts),
    was silent, or ended the association; `ours`: nothing, because the failure was here.
    """

    fate: Fate
    reason: str = ""
    status: int | None = None
    sign: Literal["answered", "silent", "ended", "ours"] = "answered"


DUPLICATE = 0x0111

DONE = {
    0x0000: "",
    0xB000: "stored, with coercion of data elements",
    0xB006: "stored, with elements discarded",
    0xB007: "stored, though the data set does not match its SOP class",
    0x0107: "stored, with a warning about attributes",
    0x0116: "stored, with a value out of range",
    DUPLICATE: "was there already",
}
LATER = {
    0x0110: "processing failure",
    0x0213: "resource limitation",
}
FEW = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0112: "no such SOP instance",
    0x0115: "invalid argument value",
    0x0117: "invalid SOP instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}


def outcome_of(status: int) -> Outcome:
    """The outcome of a C-STORE that was answered with a status. A status nobody defined is tried a few times."""
    if status in DONE:
        return Outcome(Fate.DONE, DONE[status], status)
    if status in LATER or status >> 8 == 0xA7:
        return Outcome(Fate.LATER, _words(status, LATER.get(status, "out of resources")), status)
    if status >> 8 == 0xA9:
        return Outcome(Fate.FEW, _words(status, "the data set does not match its SOP class"), status)
    if status >> 12 == 0xC:
        return Outcome(Fate.FEW, _words(status, "cannot understand the data set"), status)
    return Outcome(Fate.FEW, _words(status, FEW.get(status, "a status that is no success")), status)


def _words(status: int, words: str) -> str:
    return f"answered 0x{status:04X} ({words})"
