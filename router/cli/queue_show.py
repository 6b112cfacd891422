"""`dicom-router queue show`: everything known of one instance; and how a person names an instance or a delivery."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import PAGE, Config, Json, fail, local_time, open_spool_of, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.config import Settings
    from router.spool import Spool

STATES = ("open", "buried", "done", "skipped", "discarded")
ID_DIGITS = 19
"""A number this long is not a delivery's: it is an instance's id without a letter in it."""
Which = Annotated[str, typer.Argument(metavar="INSTANCE", help="The id of an instance, or the number of a delivery.")]


def show(
    instance: Which,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show everything known of one instance: who sent it, what was seen, which rule fired, where it went."""
    from router.spool import values_of

    with open_spool_of(config, None) as (settings, spool):
        found = spool.views.instance(instance_of(spool, instance))
        if found is None:
            fail(f"no instance or delivery {printable(instance)!r}; queue list shows them")
        row = values_of(found)
        row["deliveries"] = [values_of(one) for one in spool.views.deliveries(instance_id=found.id, limit=PAGE)]
        row["results"] = [asdict(one) for one in spool.results.answering(found.id)]
        row["result_of"] = [asdict(one) for one in spool.results.answered_by(found.id)]
        row["events"] = [values_of(one) for one in spool.views.events(instance_id=found.id, limit=PAGE)]
    if as_json:
        print(json.dumps(row))
        return
    if row["class"] == "uncertain" and (why := _why_uncertain(settings, row)):
        row["class"] = f"uncertain ({why})"
    for line in _lines(row):
        print(printable(line))


def _why_uncertain(settings: Settings, row: dict[str, Any]) -> str:
    """Why, by the card of the model that answered; empty if that model is gone."""
    from router.commands.limits import limits_for

    limits = limits_for(settings, row["model"])
    return limits.why(row["top"], row["confidence"], novel=bool(row["novel"])) if limits else ""


def instance_of(spool: Spool, which: str) -> str:
    """The id of an instance, from that id or from the number of one of its deliveries."""
    delivery = delivery_of(spool, int(which)) if which.isdecimal() and len(which) < ID_DIGITS else None
    return which if delivery is None else str(delivery["instance_id"])


def delivery_of(spool: Spool, number: int) -> dict[str, Any] | None:
    """A delivery by its number, in any state."""
    from router.spool import values_of

    rows = spool.views.deliveries(states=STATES, after=number - 1, limit=1)
    return values_of(rows[0]) if rows and rows[0].id == number else None


def _lines(row: dict[str, Any]) -> Iterator[str]:
    from router.spool.states import in_words

    for name, value in row.items():
        if name not in ("deliveries", "results", "result_of", "events", "token", "ready_at"):
            yield f"{name:18s} {local_time(value) if name.endswith('_at') and value else _words(name, value)}"
    for delivery in row["deliveries"]:
        word = in_words(delivery["state"], delivery["reason"])
        ended = f" {local_time(delivery['closed_at'])}" if delivery["closed_at"] else ""
        ended += f" (follows instance {delivery['follows']})" if delivery["follows"] else ""
        yield f"delivery {delivery['id']:<9} {delivery['destination']}: {word}{ended} {delivery['reason'] or ''}"
    for one in row["results"]:
        yield f"result   {local_time(one['at'])}  {one['result_id']} from {one['destination']}"
    for one in row["result_of"]:
        yield f"result of instance {one['instance_id']}, which went to {one['destination']}"
    for event in row["events"]:
        yield f"event {local_time(event['at'])}  {event['kind']} {event['destination'] or ''} {event['detail'] or ''}"


def _words(name: str, value: Any) -> str:
    """A value for people; nothing where there is none."""
    from router.flow import CLASSES

    if name == "probabilities" and isinstance(value, list):
        value = dict(zip(CLASSES, value, strict=False))
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items() if one is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
