"""`dicom-router find`: every instance that the node has had, found by what a person knows of it."""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from contextlib import closing
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import Config, Json, choose, fail, local_time, printable, settings_of, wrong

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from router.spool.find import Filter, Found

STATES = ("waiting", "done", "buried", "discarded", "skipped")
MOST = 1_000_000
PAGE = 200
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
COLUMNS = (
    "id", "received_at", "calling_ae", "peer", "sop_class", "top", "class", "confidence", "view", "rule", "table",
    "destinations", "deliveries",
)  # fmt: skip


def command(
    text: Annotated[
        str, typer.Argument(help="The node's id or its beginning, a SOP or Study Instance UID, or an accession number.")
    ] = "",
    since: Annotated[str, typer.Option(help="Received since then: 2h, 3d, 2026-11-01, 2026-11-01T08:30.")] = "",
    until: Annotated[str, typer.Option(help="Received before then.")] = "",
    class_name: Annotated[str, typer.Option("--class", help="What the pixels show: a class, or uncertain.")] = "",
    rule: Annotated[str, typer.Option(help="The rule that decided.")] = "",
    to: Annotated[str, typer.Option(help="A destination of the decision.")] = "",
    caller: Annotated[str, typer.Option("--from", help="The caller: AE title or address.")] = "",
    state: Annotated[str, typer.Option(help="State of a delivery: waiting, done, buried, discarded or skipped.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="Show at most this many.")] = 20,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the instances to this CSV file.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Find instances, also delivered ones. The latest come first.

    Exit code 1 if there is none.
    """
    from router.flow import CLASSES, UNCERTAIN

    if class_name:
        choose("--class", class_name, (*CLASSES, UNCERTAIN))
    if state:
        choose("--state", state, STATES)
    now = time.time()
    begin, end = _moment("--since", since, now), _moment("--until", until, now)
    if begin is not None and end is not None and begin >= end:
        wrong(f"--since {since} is not before --until {until}")
    found = _found(config, _filter(text, begin, end, class_name, rule, to, caller, state), limit)
    if csv_file is not None:
        _write_csv(csv_file, found, as_json=as_json)
        return
    shown = 0
    for one in found:
        shown += 1
        print(json.dumps(_as_json(one)) if as_json else printable(_line(one)), flush=True)
    if shown == limit:
        typer.echo(f"{limit} are shown; there may be more: raise --limit", err=True)
    if not shown:
        fail("no instance matches")


def _filter(
    text: str, since: float | None, until: float | None, class_name: str, rule: str, to: str, caller: str, state: str
) -> Filter:
    from router.spool.find import Filter, State

    is_address = _is_address(caller)
    return Filter(
        text=text, since=since, until=until, class_name=class_name, rule=rule, to=to,
        calling_ae="" if is_address else caller, peer=caller if is_address else "",
        state=State(state) if state else None,
    )  # fmt: skip


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _found(config: Path | None, wanted: Filter, limit: int) -> Iterator[Found]:
    from router.spool import read_spool
    from router.spool.find import FIRST_PAGE

    before = FIRST_PAGE
    with closing(read_spool(settings_of(config).spool)) as spool:
        while limit > 0 and (page := spool.views.find(wanted, before=before, limit=min(limit, PAGE))):
            yield from page
            before, limit = page[-1].id, limit - len(page)


def _moment(option: str, text: str, now: float) -> float | None:
    """Unix time of an ISO date or time (this machine's zone where it names none), or of a span before now."""
    if not text:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        return now - int(ago[1]) * UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        wrong(f"{option} {text}: write a span (90s, 30m, 2h, 3d, 1w) or a date (2026-11-01, 2026-11-01T08:30)")


def _as_json(one: Found) -> dict[str, Any]:
    return {
        "id": one.id, "received_at": one.received_at, "calling_ae": one.calling_ae, "peer": one.peer,
        "sop_class": one.sop_class, "top": one.top, "class": one.class_name, "confidence": one.confidence,
        "view": one.view, "rule": one.rule, "table": one.table, "destinations": list(one.destinations),
        "deliveries": [
            {"id": d.id, "destination": d.destination, "state": d.state, "tries": d.tries, "done_at": d.done_at,
             "reason": d.reason or None}
            for d in one.deliveries
        ],
    }  # fmt: skip


def _line(one: Found) -> str:
    seen = f"{one.class_name} {one.confidence:.2f}" if one.class_name and one.confidence is not None else one.pixels
    went = ", ".join(f"{d.destination} {d.state}" for d in one.deliveries) or ("no delivery" if one.rule else "waits")
    return (
        f"{one.id}  {local_time(one.received_at)}  {one.calling_ae or '-':16s} {seen or 'not looked at yet':22s}  "
        f"{one.rule or '-'}: {went}"
    )


def _write_csv(path: Path, found: Iterable[Found], *, as_json: bool) -> None:
    count = 0
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for one in found:
                count += 1
                row = _as_json(one) | {
                    "received_at": local_time(one.received_at),
                    "destinations": " ".join(one.destinations),
                    "deliveries": " ".join(f"{d.destination}={d.state}" for d in one.deliveries),
                }
                writer.writerow({name: _plain(row[name]) for name in COLUMNS})
    except OSError as error:
        fail(f"--csv {path}: {error.strerror}")
    print(json.dumps({"file": str(path), "rows": count}) if as_json else f"{count} rows in {path}", file=sys.stdout)


def _plain(value: Any) -> Any:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
