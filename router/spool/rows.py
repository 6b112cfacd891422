"""The values that the spool gives out. Also turns rows into values of `flow`, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from router.decide.header_facts import Asked, facts_of
from router.flow import Caller, Decision, Instance, Prediction, Seen
from router.spool import header_facts
from router.spool.keyed import Key
from router.spool.states import DeliveryState, InstanceState

MISSING_WITHIN = 12 * 3600.0
"""Seconds for which a missing result needs a person. Afterwards `find` still shows it."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an instance: its row, or the older equal one that it was merged into."""

    instance_id: str
    merged: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """An instance that a classifier has claimed. `token` fences it. `tries` counts the claims before this one.

    `is_new_decision`: it was decided before, and a person has ordered a new decision.
    """

    instance: Instance
    path: Path
    token: int
    tries: int
    is_new_decision: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """An earlier instance with the same UID as a new one. `is_gone`: its blob was removed."""

    instance: Instance
    is_gone: bool


@dataclass(frozen=True, slots=True)
class DestinationState:
    """Pause and circuit of a destination, which survive a restart. Times are Unix seconds, 0 for none."""

    paused: bool = False
    circuit_until: float = 0.0
    circuit_failures: int = 0
    circuit_reason: str = ""
    circuit_left: float | None = None
    """Seconds until the next try of an open circuit, by the database's clock."""
    still_since: float = 0.0
    """Since when nothing is tried, paused or with an open circuit."""
    pause_until: float = 0.0
    """When a pause ends by itself; 0: only a person ends it."""
    pause_left: float | None = None
    """Seconds until then by the database's clock; None without an end."""
    closed_until: float = 0.0
    """When its hours begin again, if it is outside of them; 0: it is not."""
    quota_ahead: float = 0.0
    """Seconds by which what was sent is ahead of its `limit_rate`, by the database's clock (`rates.seconds_left`)."""

    @property
    def try_ordered(self) -> bool:
        """Whether a person wants an open circuit to be probed at once. If failures opened it, their count is not 0."""
        return self.circuit_until > 0 and not self.circuit_failures


@dataclass(frozen=True, slots=True)
class Counts:
    """Open work: instances without a decision, and for each destination its open and buried deliveries."""

    undecided: int = 0
    oldest_undecided: float = 0.0
    """Unix time at which the first instance without a decision was received; 0 if there is none."""
    open: Mapping[str, int] = field(default_factory=dict)
    buried: Mapping[str, int] = field(default_factory=dict)
    oldest: Mapping[str, float] = field(default_factory=dict)
    """Unix time at which the oldest open delivery became owed."""
    bytes: int = 0
    set_aside: int = 0
    """Blobs that could not be verified and wait for a person."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """By destination: deliveries of the last hours (`MISSING_WITHIN`) whose result is missing."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Instances with nothing open or buried whose blobs are still there; `oldest`: when the first of them ended."""

    n: int
    bytes: int
    oldest: float


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery as in its row. `schema` says what the columns mean. Times are Unix seconds."""

    id: int
    instance_id: str
    destination: str
    state: DeliveryState
    ready_at: float
    token: int
    tries: int
    buriable_tries: int
    owed_since: float
    stood_still: float
    closed_at: float | None
    status: int | None
    reason: str | None
    follows: str | None
    """The instance of the same study that it follows there."""
    priority: int
    """The less, the sooner it goes."""
    result_due: float | None
    """Until when a result is waited for."""
    result_missing_at: float | None
    """Since when it is missing."""


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance as in its row. `schema` says what the columns mean. Times are Unix seconds.

    The last fields are of its latest decision. Those that were stored as JSON are `{"damaged": True}` if they cannot be
    read.
    """

    id: str
    received_at: float
    calling_ae: str
    called_ae: str
    peer: str
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    offset: int
    size: int
    digest: str
    state: InstanceState
    ready_at: float
    token: int
    tries: int
    decided_at: float | None
    finished_at: float | None
    pixels: str | None
    why_no_prediction: str | None
    top: str | None
    class_name: str | None
    """The column `class`."""
    confidence: float | None
    probabilities: Any
    novelty: float | None
    novel: bool | None
    model: str | None
    facts: Any
    rule: str | None
    reason: str | None
    destinations: Any
    shadow: Any
    study: str | None
    accession: str | None
    """Keyed hashes."""
    view: str | None
    table: str | None
    """The digest of the rules that decided."""
    header: Any
    """What the decision kept of the header (`header_facts`)."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """Something that happened, and when (Unix seconds)."""

    id: int
    at: float
    kind: str
    instance_id: str | None
    destination: str | None
    detail: dict[str, Any]


def values_of(row: DeliveryRow | InstanceRow | EventRow) -> dict[str, Any]:
    """The values of a row by column, as commands print them."""
    return {"class" if one.name == "class_name" else one.name: getattr(row, one.name) for one in fields(row)}


def instance_of(row: Any) -> Instance:
    return Instance(
        id=row.id,
        received_at=row.received_at,
        caller=Caller(row.calling_ae, row.called_ae, row.peer),
        sop_class=row.sop_class,
        sop_instance=row.sop_instance,
        transfer_syntax=row.transfer_syntax,
        offset=row.offset,
        size=row.size,
        digest=row.digest,
    )


def columns_of(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "received_at": instance.received_at,
        "calling_ae": _storable(instance.caller.calling_ae),
        "called_ae": _storable(instance.caller.called_ae),
        "peer": instance.caller.peer,
        "sop_class": instance.sop_class,
        "sop_instance": instance.sop_instance,
        "transfer_syntax": instance.transfer_syntax,
        "offset": instance.offset,
        "size": instance.size,
        "digest": instance.digest,
    }


def _storable(title: str) -> str:
    """A text without NULs. PostgreSQL takes none, but some callers pad their titles with them."""
    return title.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _other_answers(prediction: Prediction | None) -> dict[str, Any]:
    """What some models say beside the class. It is kept among the facts and needs no column."""
    if prediction is None:
        return {}
    view = {"view": prediction.view, "view_confidence": round(prediction.view_confidence, 6)} if prediction.view else {}
    return view | ({"inverted": True} if prediction.inverted else {})


def columns_of_decision(seen: Seen, decision: Decision, key: Key | None, beyond: Asked) -> dict[str, Any]:
    """The columns that a decision fills. Of the header: keyed hashes, and what `decide.header_facts` keeps.

    `beyond`: what the rules ask of a header. A hash that receiving found stays where the decision found none.
    """
    prediction = seen.prediction
    values: dict[str, Any] = {
        "pixels": seen.pixels,
        "why_no_prediction": seen.reason,
        "facts": json.dumps(asdict(seen.facts) | _other_answers(prediction)),
        "rule": decision.rule,
        "reason": decision.reason,
        "destinations": json.dumps(decision.destinations),
        "shadow": json.dumps(decision.shadow),
        "table": decision.table or None,
        "view": (prediction.view or None) if prediction else None,
        "header": header_facts.as_text(facts_of(seen.header, beyond)),
    } | {name: found for name, found in (key.found_by(seen.header) if key else {}).items() if found}
    for name in ("top", "class", "confidence", "probabilities", "novelty", "novel", "model"):
        values[name] = None
    if prediction:
        values |= {
            "top": prediction.top,
            "class": prediction.class_name,
            "confidence": prediction.confidence,
            "probabilities": json.dumps([round(p, 6) for p in prediction.probabilities]),
            "novelty": prediction.novelty,
            "novel": prediction.novel,
            "model": prediction.model,
        }
    return values
