"""What came and was decided, read back from its rows, so that other rules can be asked about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from router.decide.header_facts import NOTHING_ASKED, Asked
from router.decide.replay import Came
from router.flow import Caller, Decision, Instance, PictureFacts, Prediction, Seen
from router.spool.find import id_at
from router.spool.header_facts import from_text
from router.spool.rule_tables import asks_of
from router.spool.schema import delivery, instance, result, study_destination

PAGE_OF_CAME = 500
"""Rows that are read at once."""

KnownAsks = dict[str, Asked]
"""What tables ask of a header, by their digest, as far as it was read."""

_COLUMNS = [
    instance.c[name] for name in (
        "id", "received_at", "calling_ae", "called_ae", "peer", "sop_class", "sop_instance", "transfer_syntax", "size",
        "pixels", "why_no_prediction", "top", "class", "confidence", "probabilities", "novelty", "novel", "model",
        "facts", "rule", "reason", "destinations", "shadow", "view", "table", "header", "study",
    )
]  # fmt: skip


def came_page(
    connection: sa.Connection, *, known: KnownAsks, before: str, since: float | None, limit: int
) -> list[Came]:
    """Some of what was decided, the latest first: those whose id is less than `before`. Fills `known`."""
    query = sa.select(*_COLUMNS).where(instance.c.id < before, instance.c.decided_at.is_not(None))
    if since is not None:
        query = query.where(instance.c.id >= id_at(since))
    rows = connection.execute(query.order_by(instance.c.id.desc()).limit(limit)).all()
    new = {row._mapping["table"] for row in rows} - known.keys() - {None}
    known |= dict.fromkeys(new, NOTHING_ASKED) | asks_of(connection, sorted(new))
    ids = [row.id for row in rows]
    follows, results = _follows(connection, ids), _results(connection, ids)
    return [_came(dict(row._mapping), known, follows, results) for row in rows]


def came_one(connection: sa.Connection, instance_id: str) -> Came | None:
    """One instance; None if there is none, or no decision yet."""
    query = sa.select(*_COLUMNS).where(instance.c.id == instance_id, instance.c.decided_at.is_not(None))
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    table = row._mapping["table"]
    asks = asks_of(connection, [table]) if table else {}
    return _came(dict(row._mapping), asks, _follows(connection, [instance_id]), _results(connection, [instance_id]))


def _follows(connection: sa.Connection, ids: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """By instance, where it followed its study by a rule; what a person ordered is left out."""
    query = (
        sa.select(delivery.c.instance_id, delivery.c.destination)
        .join(instance, instance.c.id == delivery.c.instance_id)
        .join(
            study_destination,
            (study_destination.c.study == instance.c.study)
            & (study_destination.c.destination == delivery.c.destination),
        )
        .where(delivery.c.instance_id.in_(ids), delivery.c.follows.is_not(None), study_destination.c.rule != "")
        .distinct()
        .order_by(delivery.c.instance_id, delivery.c.destination)
    )
    found: dict[str, tuple[str, ...]] = {}
    for row in connection.execute(query):
        found[row.instance_id] = (*found.get(row.instance_id, ()), row.destination)
    return found


def _results(connection: sa.Connection, ids: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """By instance, the destinations whose result it is."""
    query = sa.select(result.c.result_id, result.c.destination).where(result.c.result_id.in_(ids)).distinct()
    found: dict[str, tuple[str, ...]] = {}
    for row in connection.execute(query.order_by(result.c.result_id, result.c.destination)):
        found[row.result_id] = (*found.get(row.result_id, ()), row.destination)
    return found


def _came(
    row: Mapping[str, Any], asks: Mapping[str, Asked], follows: Mapping[str, tuple[str, ...]],
    results: Mapping[str, tuple[str, ...]],
) -> Came:  # fmt: skip
    facts = _table(row["facts"])
    kept = from_text(row["header"])
    seen = Seen(
        row["pixels"], kept.values if kept else {}, _prediction(row, facts),
        PictureFacts(photometric=str(facts.get("photometric", "")), frames=_integer(facts.get("frames"))),
        row["why_no_prediction"] or "", result_of=results.get(row["id"], ()),
    )  # fmt: skip
    came = Instance(
        row["id"], row["received_at"], Caller(row["calling_ae"], row["called_ae"], row["peer"]), row["sop_class"],
        row["sop_instance"], row["transfer_syntax"], 0, row["size"], "",
    )  # fmt: skip
    shadow = tuple(
        (str(one[0]), tuple(map(str, one[1]))) for one in _list(row["shadow"]) if isinstance(one, list) and len(one) > 1
    )
    destinations = tuple(map(str, _list(row["destinations"])))
    discard = not destinations
    decided = Decision(row["rule"], destinations, row["reason"] or "", discard, shadow, row["table"] or "")
    return Came(came, seen, decided, kept, asks.get(row["table"], NOTHING_ASKED), row["study"] or "",
                follows.get(row["id"], ()))  # fmt: skip


def _prediction(row: Mapping[str, Any], facts: Mapping[str, Any]) -> Prediction | None:
    """As it was, but for the probabilities, which are kept to six digits."""
    if row["top"] is None:
        return None
    confidence = facts.get("view_confidence")
    return Prediction(
        tuple(float(p) for p in _list(row["probabilities"])), row["top"], row["confidence"], row["novelty"],
        bool(row["novel"]), row["class"], row["model"] or "", row["view"] or str(facts.get("view", "")),
        float(confidence) if isinstance(confidence, float) else 0.0, facts.get("inverted") is True,
    )  # fmt: skip


def _integer(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _table(text: str | None) -> Mapping[str, Any]:
    """One damaged value must not hide the other rows."""
    found = _decoded(text)
    return found if isinstance(found, dict) else {}


def _list(text: str | None) -> list[Any]:
    found = _decoded(text)
    return found if isinstance(found, list) else []


def _decoded(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
