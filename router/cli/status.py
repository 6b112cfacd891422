"""`dicom-router status`: one screen that says whether the node is well, or what needs a person."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import typer

from router.cli.options import Config, Json, local_time, printable, settings_of

if TYPE_CHECKING:
    from router.commands.status import Destination, Status

SOON_FULL = 7 * 24.0
"""Hours. When the spool will be full is said if it is sooner."""


def command(config: Config = None, as_json: Json = False) -> None:
    """Say whether all is well, or what needs you and what to do. Exit code 1 if something needs you."""
    from router.commands.status import status

    found = status(settings_of(config))
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        for line in _screen(found):
            print(printable(line))
    if not found.well:
        raise typer.Exit(1)


def _screen(found: Status) -> Iterator[str]:
    from router.commands.status import span

    yield from _verdict(found)
    lately = found.lately
    yield ""
    rate = f"{lately.received} in the last hour ({lately.received / 60:.1f}/min)"
    yield f"received    {rate}, delivered {sum(lately.delivered.values())}, undecided {found.undecided}"
    yield f"classes     {_counted(lately.classes)}"
    yield f"rules       {_counted(lately.rules)}"
    yield ""
    yield _row("destination", "state", "owed", "buried", "oldest", "last hour", "drains in")
    yield from map(_destination, found.destinations)
    yield ""
    yield f"{'sender':24s} {'last hour':>10s} {'last seen':>12s}"
    for sender in lately.senders:
        ago = max(0.0, lately.now - sender.last_at)
        silent = "  silent" if sender.calling_ae in found.silent else ""
        yield f"{sender.calling_ae:24s} {sender.received:10d} {span(ago) + ' ago':>12s}{silent}"
    yield ""
    yield _spool(found)
    for model in found.models:
        if model.model:
            yield f"model       {model.model[:12]} on {model.engine}{f' of {model.node}' if model.node else ''}"
    if found.nodes:
        yield f"nodes       {found.running} of {len(found.nodes)} run (dicom-router nodes)"
    for job in found.jobs:
        of = "" if job.total is None else f" of {job.total}"
        where = " to ".join(name for name in (job.filter.to, job.destination) if name)
        yield f"job         {job.id}: {job.act} {where}, {job.chosen}{of}, by {job.who}: dicom-router queue jobs"
    for one in found.silences:
        yield f"silent      {one.condition or 'everything'} until {local_time(one.until)}, by {one.who}"
    for row in found.failures:
        ago_words = f"{span(max(0.0, lately.now - row.at))} ago"
        yield " ".join(
            (row.kind, ago_words, row.destination or "", row.instance_id or "", row.detail.get("reason", ""))
        )


def _verdict(found: Status) -> Iterator[str]:
    if found.well:
        yield "Well. Nothing needs you."
        return
    yield f"Needs you: {len(found.problems)}"
    for problem in found.problems:
        yield f"  ! {problem.what}"
        yield f"      {problem.do}"


def _destination(one: Destination) -> str:
    from router.commands.status import span

    oldest, drains = ("-" if seconds is None else span(seconds) for seconds in (one.oldest_s, one.drains_in_s))
    return _row(
        one.name, "on" if one.state == "open" else one.state, one.owed, one.buried, oldest, one.delivered, drains
    )


def _row(name: str, state: str, *columns: object) -> str:
    return f"{name:24s} {state:13s}" + "".join(f" {column!s:>10s}" for column in columns)


def _spool(found: Status) -> str:
    from router.config.settings import GB

    room = found.spool
    soon = room.full_in_h is not None and room.full_in_h < SOON_FULL
    full = f", full in {room.full_in_h:.0f} h if nothing is delivered" if soon else ""
    return f"spool       {room.used / GB:.1f} of {room.limit / GB:.0f} GB, {room.free / GB:.1f} GB free{full}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "-"
