"""What an answer means for a delivery: a table of DIMSE statuses (PS3.4 table B.2-1, PS3.7 annex C). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from router.association.dimse import STORED


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
    """What an attempt shows about the destination."""

    ANSWERED = "answered"
    """It answered, with a status or with the contexts that it accepts."""
    SILENT = "silent"
    """It did not answer in time."""
    ENDED = "ended"
    """It ended the association."""
    REFUSED = "refused"
    """It refuses this node as a whole, whatever the instance. Only a person can help."""
    OURS = "ours"
    """Nothing: this node failed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of one attempt, its DIMSE status (or STOW-RS failure reason), and a reason in this node's own words."""

    fate: Fate
    reason: str = ""
    status: int | None = None
    sign: Sign = Sign.ANSWERED
    after: float = 0.0
    """Seconds for which the destination asks not to be tried again."""


DUPLICATE = 0x0111
"""The destination has an instance with this UID already (PS3.7 annex C)."""

DONE = STORED | {DUPLICATE: "was there already"}
"""These are fewer statuses than those that claim to have the instance (`association.requestor`): after a warning of
unknown meaning, a delivery is tried a few times. And there is one more: after "duplicate" the peer has an instance with
this UID, but it does not claim to have this data set."""
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


RANGES = {
    "A7xx": (Fate.LATER, "out of resources"),
    "A9xx": (Fate.FEW, "the data set does not match its SOP class"),
    "Cxxx": (Fate.FEW, "cannot understand the data set"),
}
"""Statuses by their first hexadecimal digits; the others do not count."""


def outcome_of(status: int) -> Outcome:
    """The outcome of a C-STORE by the status of its answer. After an unknown status there are a few more tries."""
    if status in DONE:
        return Outcome(Fate.DONE, DONE[status], status)
    if status in LATER:
        return Outcome(Fate.LATER, _words(status, LATER[status]), status)
    for digits, (fate, words) in RANGES.items():
        if f"{status:04X}".startswith(digits.rstrip("x")):
            return Outcome(fate, _words(status, words), status)
    return Outcome(Fate.FEW, _words(status, FEW.get(status, "a status that is no success")), status)


def _words(status: int, words: str) -> str:
    return f"answered 0x{status:04X} ({words})"
