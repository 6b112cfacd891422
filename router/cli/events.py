"""`dicom-router events`: who did what when, from the spool's append-only record."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import Config, Json, local_time, pages, printable, spool_of

if TYPE_CHECKING:
    from router.spool import EventRow

MOST = 10_000
"""Events that are read at once."""


def command(
    config: Config = None,
    last: Annotated[int, typer.Option("--last", min=1, max=MOST, help="Show this many of the latest events.")] = 200,
    every: Annotated[bool, typer.Option("--all", help="Show all events, from the first.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new events and show them.")] = False,
    as_json: Json = False,
) -> None:
    """Show the latest events, the newest at the end."""
    spool, after = spool_of(config), 0
    if not every:
        for row in spool.views.events(limit=last):
            after = row.id
            _show(row, as_json)
    while every or follow:
        for row in pages(spool.views.events, after):
            after = row.id
            _show(row, as_json)
        if not follow:
            return
        time.sleep(1.0)


def _show(row: EventRow, as_json: bool) -> None:
    about = " ".join(filter(None, (row.instance_id, row.destination)))
    detail = " ".join(f"{name}={value}" for name, value in row.detail.items())
    line = f"{local_time(row.at)}  {row.kind:24s} {about} {detail}".rstrip()
    print(json.dumps(asdict(row)) if as_json else printable(line), flush=True)
