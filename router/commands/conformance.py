"""The DICOM conformance statement (PS3.2) of a configuration; what it says is read from what the code uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap

from router.association.negotiation import MOST_CONTEXTS
from router.association.pdu import MAX_PDU
from router.association.proposing import NATIVE
from router.commitment.data_set import MOST_REFERENCES
from router.commitment.judge import CLASS_CONFLICT, NO_SUCH_INSTANCE, PROCESSING_FAILURE
from router.config import Settings
from router.config.settings import Accept, DestinationSettings
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
from router.forward.outcomes import DONE, FEW, LATER

WIDTH = 120
REASONS = {
    NO_SUCH_INSTANCE: "the instance has not come here, or its rules send it to no archive",
    CLASS_CONFLICT: "it has come with another SOP class",
    PROCESSING_FAILURE: "no archive has answered in time, has taken it, or is known to have this version of it",
}
"""Failure reasons of our own; an archive's are passed on."""

STATUSES = (
    ("0000", "Success", "blob, folder and database row are synced to disk"),
    (
        "A700",
        "Refused: out of resources",
        "disk or database cannot take it, a limit is reached, or the node is stopping",
    ),
    ("A900", "Error: data set does not match SOP class", "SOP class or instance UID of command and data set differ"),
    ("C000", "Error: cannot understand", "the first elements of the data set are absent or unreadable"),
    ("0122", "Refused: SOP class not supported", "the SOP class is not that of the presentation context"),
    ("0211", "Refused: unrecognized operation", "any DIMSE request of a service that was not negotiated"),
)


def statement(settings: Settings) -> str:
    """The whole statement, in Markdown."""
    sections = (_overview, _entity, _policies, _contexts, _statuses, _destinations, _commitment, _security)
    return "\n\n".join("\n".join(section(settings)) for section in sections) + "\n"


def _overview(settings: Settings) -> Iterator[str]:
    commits = "yes" if _callers(settings) else "no"
    yield from ("# DICOM conformance statement: dicom-router", "", "## 1 Overview", "")
    yield from _paragraph(
        "The node receives composite instances (Storage, as SCP), keeps them until they are delivered, and forwards "
        "each unchanged (Storage, as SCU) to the destinations that its rules choose from pixels and header."
    )
    yield from (
        "",
        "| Network service | SCU | SCP |",
        "|---|---|---|",
        "| Storage | yes | yes |",
        "| Verification | yes | yes |",
        f"| Storage Commitment (Push Model) | {commits} | {commits} |",
        "| Query/Retrieve, Worklist, media | no | no |",
    )


def _entity(settings: Settings) -> Iterator[str]:
    node = settings.node
    tls = f", TLS on port {node.tls.port}" if node.tls else ""
    checked = "yes" if node.require_called_ae else "no"
    callers = "everybody" if node.accept is None else f"{len(node.accept)} entries in `node.accept`"
    yield from ("## 2 Application entity", "")
    yield from _paragraph(
        f"AE title `{node.ae_title}`, port {node.port}{tls}. Called AE title checked: {checked}. Callers: {callers}."
    )


def _policies(settings: Settings) -> Iterator[str]:
    node = settings.node
    roles = "for Storage Commitment alone" if _callers(settings) else "not answered"
    yield from (
        "### 2.1 Association policies",
        "",
        "| | |",
        "|---|---|",
        f"| Application context | {APPLICATION_CONTEXT} |",
        f"| Implementation class UID | {IMPLEMENTATION_UID} |",
        f"| Implementation version name | {IMPLEMENTATION_VERSION} |",
        f"| Maximum PDU length received | {MAX_PDU} |",
        f"| Associations received at once | {node.associations} ({node.associations_per_peer} for each peer) |",
        "| Asynchronous operations window | not negotiated (1, 1) |",
        f"| Role selection | {roles} |",
        "| Extended negotiation, user identity | not answered |",
        f"| Presentation contexts proposed | at most {MOST_CONTEXTS} |",
        f"| Association request expected within | {node.artim:g} s |",
        f"| Idle association aborted after | {node.idle:g} s |",
    )


def _contexts(settings: Settings) -> Iterator[str]:
    unknown = ", and SOP classes that the standard does not know" if settings.node.unknown_sop_classes else ""
    yield from ("### 2.2 Accepted presentation contexts", "")
    yield from _paragraph(
        f"Verification ({VERIFICATION}) and the {len(STORAGE)} storage SOP classes below{unknown}. Of the transfer "
        "syntaxes proposed, the first known one is accepted, a lossy one only where the context offers neither a "
        "native nor a lossless one."
    )
    yield from ("", "| Transfer syntax | UID | lossy |", "|---|---|---|")
    for uid in sorted(KNOWN_SYNTAXES, key=_order):
        yield f"| {name_of(uid)} | {uid} | {'yes' if uid in LOSSY else ''} |"
    yield from ("", "| Storage SOP class | UID |", "|---|---|")
    yield from (f"| {name_of(uid)} | {uid} |" for uid in sorted(STORAGE, key=_order))


def _statuses(_: Settings) -> Iterator[str]:
    yield from ("### 2.3 Status codes returned to C-STORE", "", "| Code | Meaning | When |", "|---|---|---|")
    yield from (f"| {code} | {meaning} | {when} |" for code, meaning, when in STATUSES)


def _destinations(settings: Settings) -> Iterator[str]:
    native = " and ".join(name_of(uid) for uid in NATIVE)
    yield from ("### 2.4 Destinations (Storage SCU)", "")
    yield from _paragraph(
        f"For each SOP class: one context with the instance's own transfer syntax, and one with {native}. Only where a "
        "destination refuses the instance's own is it transcoded, without loss, to one of these. A data set of odd "
        "length is sent with its odd values padded (PS3.5 §6.2), since no fragment may be odd (PS3.8 annex E). If it "
        "cannot be read, or is deflated, one NUL is added at its end. In Implicit VR a value that is not a sequence, "
        "but has a sequence's tag, becomes private element (0009,xx01) of creator DICOM_ROUTER VR in that "
        "sequence's only item."
    )
    yield from (
        "",
        "| Destination | AE title | Address | TLS | Associations | Answer expected within |",
        "|---|---|---|---|---|---|",
        *map(_destination, settings.destinations.values()),
        "",
        "| Status received | Taken as |",
        "|---|---|",
        f"| {_codes(DONE)} | done |",
        f"| A7xx, {_codes(LATER)} | tried again until `give_up_after` |",
        f"| A9xx, Cxxx, {_codes(FEW)}, any other | tried a few times, then buried |",
    )


def _commitment(settings: Settings) -> Iterator[str]:
    """PS3.4 annex J, and what it depends on."""
    callers = _callers(settings)
    yield from ("### 2.5 Storage Commitment", "")
    if not callers:
        yield from _paragraph(
            "Refused: it needs a destination with `archive: true`, and `commitment` for who may ask in `node.accept`."
        )
        return
    yield from _paragraph(
        f"The node is no archive. What it is asked by N-ACTION ({COMMITMENT}, {name_of(IMPLICIT)} or "
        f"{name_of(EXPLICIT)}, at most {MOST_REFERENCES} references) it asks of {', '.join(settings.archives)}, and "
        "passes that answer on by N-EVENT-REPORT when there is one for each reference, at the latest after "
        f"{settings.node.commitment_deadline:g} s; then it tries to report for as long again. It proposes itself as "
        "SCP by role selection."
    )
    yield from ("", "| Caller | Reports go to |", "|---|---|")
    for line in callers:
        to = line.commitment
        yield f"| {line.ae_title} | " + (f"{to.host}:{to.port}" if to and to.host else "the same association") + " |"
    yield from ("", "| Failure reason | When |", "|---|---|")
    yield from (f"| {code:04X} | {when} |" for code, when in REASONS.items())


def _security(_: Settings) -> Iterator[str]:
    yield from ("## 3 Character sets, security, privacy", "")
    yield from _paragraph(
        "Data sets are forwarded as they came, in any character set. TLS 1.2 or newer with the BCP 195 profile (PS3.15 "
        "annex B) where configured. No patient attribute is written to logs, metrics, file names or errors."
    )


def _callers(settings: Settings) -> list[Accept]:
    """Who may ask for storage commitment; nobody where no archive could answer."""
    return [line for line in settings.node.accept or () if line.commitment] if settings.archives else []


def _paragraph(text: str) -> list[str]:
    return wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _codes(statuses: Iterable[int]) -> str:
    return ", ".join(f"{code:04X}" for code in sorted(statuses))


def _destination(d: DestinationSettings) -> str:
    tls = "yes" if d.tls else "no"
    return (
        f"| {d.name} | {d.ae_title} | {d.host}:{d.port} | {tls} | {d.associations} | {d.response_timeout:g} s + size |"
    )


def _order(uid: str) -> tuple[int, ...]:
    return tuple(int(part) for part in uid.split("."))
