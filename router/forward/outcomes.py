"""What an answer means for a delivery: a table of DIMSE statuses (PS3.4 table B.2-1, PS3.7 annex C). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Fate(Enum):
    """What becomes of a delivery after an attempt."""

    DONE = "done"
    """It has arrived."""
    LATER = "later"
    """Try again until `give_up_after`."""
    FEW = "few"
    """Try a few times over hours, then bury."""
    BURY = "bury"
    """No further try can help: a person must look."""


class Sign(StrEnum):
    """What an attempt shows of the destination."""

    ANSWERED = "answered"
    """It answered, with a status or with the contexts that it accepts."""
    SILENT = "silent"
    """It did not answer in time."""
    ENDED = "ended"
    """It ended the association."""
    OURS = "ours"
    """Nothing: the failure was here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of one attempt, its DIMSE status where there was one, and a reason in this node's own words."""

    fate: Fate
    reason: str = ""
    status: int | None = None
    sign: Sign = Sign.ANSWERED


DUPLICATE = 0x0111
"""The destination has an instance with this UID already (PS3.7 annex C)."""

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
    """The outcome of a C-STORE that was answered with a status. An unknown status is tried a few times."""
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
