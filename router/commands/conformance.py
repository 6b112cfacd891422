"""The DICOM conformance statement (PS3.2) of a configuration; what it says is read from what the code uses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from router.association.negotiation import MOST_CONTEXTS
from router.association.pdu import MAX_PDU
from router.association.proposing import NATIVE
from router.commands.quota_words import in_words
from router.commitment.data_set import MOST_REFERENCES
from router.commitment.judge import CLASS_CONFLICT, NO_SUCH_INSTANCE, PROCESSING_FAILURE
from router.config import Settings
from router.config.settings import MIB, DestinationSettings, HttpAuth
from router.dicom.uids import (
    APPLICATION_CONTEXT,
    COMMITMENT,
    EXPLICIT,
    IMPLEMENTATION_UID,
    IMPLEMENTATION_VERSION,
    IMPLICIT,
    KNOWN_SYNTAXES,
    LOSSY,
    STORAGE,
    VERIFICATION,
    name_of,
)
from router.forward.outcomes import DONE, FEW, LATER, RANGES, Fate
from router.forward.store_answers import LATER as BUSY
from router.forward.store_answers import REFUSALS
from router.forward.together import ALONE_FOR, MOST, MOST_BYTES
from router.templates import fill

TEMPLATE = Path(__file__).with_name("conformance.md.j2")
REASONS = {
    NO_SUCH_INSTANCE: "the node has not received the instance, or its rules send it to no archive",
    CLASS_CONFLICT: "the instance came with another SOP class",
    PROCESSING_FAILURE: "no archive answered in time, the delivery was buried, or the archive has other bytes of it",
}
"""The failure reasons that this node gives; those of an archive are passed on."""


def statement(settings: Settings) -> str:
    """The whole statement, in Markdown."""
    may_ask = [line for line in settings.node.accept or () if line.commitment]
    return fill(
        TEMPLATE, node=settings.node, archives=settings.archives,
        destinations=[to for to in settings.destinations.values() if to.stow is None],
        web=[to for to in settings.destinations.values() if to.stow is not None], identified=_identified,
        refusals=sorted(REFUSALS), busy=sorted(BUSY), together=MOST, together_mib=MOST_BYTES // MIB,
        alone_minutes=round(ALONE_FOR / 60), timed=_timed(settings), rules=settings.rules.rules,
        choices=_choices(settings),
        by_time=[rule.name for rule in settings.rules.rules if re.search(r"\btime\b", rule.when.subject)],
        # Storage commitment is refused where no archive could answer.
        callers=may_ask if settings.archives else [],
        syntaxes=[(name_of(uid), uid, uid in LOSSY) for uid in in_order(KNOWN_SYNTAXES)],
        classes=[(name_of(uid), uid) for uid in in_order(STORAGE)],
        native=[name_of(uid) for uid in NATIVE], implicit=name_of(IMPLICIT), explicit=name_of(EXPLICIT),
        done=_codes(DONE), later=_ranges(Fate.LATER) + _codes(LATER), few=_ranges(Fate.FEW) + _codes(FEW),
        reasons=REASONS,
        APPLICATION_CONTEXT=APPLICATION_CONTEXT, COMMITMENT=COMMITMENT, IMPLEMENTATION_UID=IMPLEMENTATION_UID,
        IMPLEMENTATION_VERSION=IMPLEMENTATION_VERSION, MAX_PDU=MAX_PDU, MOST_CONTEXTS=MOST_CONTEXTS,
        MOST_REFERENCES=MOST_REFERENCES, VERIFICATION=VERIFICATION,
    )  # fmt: skip


def _timed(settings: Settings) -> list[tuple[str, str, str, str]]:
    """The destinations that do not get everything at once: name, pause, hours, quota."""
    return [
        (
            to.name,
            f"{to.gather:g} s, at most {to.gather_limit:g} s" if to.gather is not None else "–",
            "; ".join(one.written for one in to.hours) or "always",
            in_words(to.limit_rate) if to.limit_rate is not None else "–",
        )
        for to in settings.destinations.values()
        if to.gather is not None or to.hours or to.limit_rate is not None
    ]


def _choices(settings: Settings) -> list[tuple[str, str, str]]:
    """The rules that send to one of several destinations: name, destinations, by what."""
    table = settings.rules
    all_of = [(rule.name, rule.send, rule.one_of) for rule in table.rules]
    all_of.append(("otherwise", table.otherwise.send, table.otherwise.one_of))
    return [(name, ", ".join(send), one_of) for name, send, one_of in all_of if one_of]


def _identified(to: DestinationSettings) -> str:
    """How the node identifies itself to a web server."""
    auth = to.auth or HttpAuth()
    ways = {
        "a bearer token": auth.bearer, "user and password": auth.user, "OAuth 2 client credentials": auth.token_url,
        "a client certificate": to.tls and to.tls.certificate,
    }  # fmt: skip
    return ", ".join(name for name, used in ways.items() if used) or "nothing"


def in_order(uids: Iterable[str]) -> list[str]:
    """By the numbers of their parts: 1.2.9 comes before 1.2.10."""
    return sorted(uids, key=lambda uid: [int(part) for part in uid.split(".")])


def _codes(statuses: Iterable[int]) -> list[str]:
    return [f"{code:04X}" for code in sorted(statuses)]


def _ranges(fate: Fate) -> list[str]:
    return [digits for digits, (becomes, _) in RANGES.items() if becomes is fate]
