"""`dicom-router find`: every instance that the node has had, found by what a person knows of it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.csv_out import write_csv
from router.cli.filters import FindFilters, filter_of
from router.cli.options import Config, Json, fail, flat, local_time, printable, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from router.spool.find import Filter, Found, FoundDelivery

MOST = 1_000_000
PAGE = 200
COLUMNS = (
    "id", "received_at", "calling_ae", "peer", "sop_class", "top", "class", "confidence", "view", "rule", "table",
    "destinations", "deliveries",
)  # fmt: skip


@flat
def command(
    text: Annotated[
        str, typer.Argument(help="The node's id or its beginning, a SOP or Study Instance UID, or an accession number.")
    ] = "",
    filters: FindFilters = FindFilters(),
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="Show at most this many.")] = 20,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the instances to this CSV file.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Find instances, also delivered ones. The latest come first.

    Exit code 1 if there is none.
    """
    wanted = filter_of(filters, text, filters.to, filters.state, filters.cause, filters.result)
    found = _found(config, wanted, limit)
    if csv_file is not None:
        write_csv(csv_file, COLUMNS, map(_flat, found), as_json=as_json)
        return
    shown = 0
    quota = (lambda _: "") if as_json else _quotas(config)
    for one in found:
        shown += 1
        print(json.dumps(_as_json(one)) if as_json else printable(_line(one, quota)), flush=True)
    if shown == limit:
        typer.echo(f"{limit} are shown; there may be more: raise --limit", err=True)
    if not shown:
        hint = "; type a number in full, and see 'It never came' in docs/operations.md" if text else ""
        hint += _unknown(filters.to, config) if filters.to else ""
        fail(f"no instance matches{hint}")


def _unknown(to: str, config: Path | None) -> str:
    """What to say of a destination that is not in the settings: mistyped, or removed since."""
    from router.config.problems import nearest

    known = settings_of(config).destinations
    if to in known:
        return ""
    fix = nearest(to, known)
    return f"; there is no destination '{to}' now{f' ({fix})' if fix else ''}"


def _found(config: Path | None, wanted: Filter, limit: int) -> Iterator[Found]:
    from router.spool import read_spool
    from router.spool.find import FIRST_PAGE

    go_on: str | None = FIRST_PAGE
    with closing(read_spool(settings_of(config).spool)) as spool:
        while limit > 0 and go_on is not None:
            page = spool.views.find_page(wanted, before=go_on, limit=min(limit, PAGE))
            yield from page.found
            go_on, limit = page.go_on, limit - len(page.found)


def _as_json(one: Found) -> dict[str, Any]:
    return {
        "id": one.id, "received_at": one.received_at, "calling_ae": one.calling_ae, "peer": one.peer,
        "sop_class": one.sop_class, "top": one.top, "class": one.class_name, "confidence": one.confidence,
        "view": one.view, "rule": one.rule, "table": one.table, "destinations": list(one.destinations),
        "deliveries": [
            {"id": d.id, "destination": d.destination, "state": d.state, "tries": d.tries, "done_at": d.done_at,
             "reason": d.reason or None, "follows": d.follows}
            for d in one.deliveries
        ],
    }  # fmt: skip


def _quotas(config: Path | None) -> Callable[[FoundDelivery], str]:
    """Says of a delivery whether it waits for a quota."""
    from router.commands.quota_words import waits_for_quota
    from router.spool import read_spool

    settings = settings_of(config)
    with closing(read_spool(settings.spool)) as spool:
        states = spool.destinations.states()

    def words(one: FoundDelivery) -> str:
        if one.state != "open":
            return ""
        where, state = settings.destinations.get(one.destination), states.get(one.destination)
        quota = waits_for_quota(where, state, tries=one.tries, reason=one.reason)
        return f" ({quota})" if quota else ""

    return words


def _line(one: Found, quota: Callable[[FoundDelivery], str]) -> str:
    seen = f"{one.class_name} {one.confidence:.2f}" if one.class_name and one.confidence is not None else one.pixels
    from router.spool.states import in_words

    went = ", ".join(f"{d.destination} {in_words(d.state, d.reason)}{quota(d)}" for d in one.deliveries) or (
        "no delivery" if one.rule else "waits"
    )
    return (
        f"{one.id}  {local_time(one.received_at)}  {one.calling_ae or '-':16s} {seen or 'not looked at yet':22s}  "
        f"{one.rule or '-'}: {went}"
    )


def _flat(one: Found) -> dict[str, Any]:
    return _as_json(one) | {
        "received_at": local_time(one.received_at),
        "destinations": " ".join(one.destinations),
        "deliveries": " ".join(f"{d.destination}={d.state}" for d in one.deliveries),
    }
