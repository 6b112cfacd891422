"""`dicom-router events`: who did what when, from the spool's append-only record."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from router.cli.options import Config, Json, local_time, pages, printable, spool_of

MOST = 10_000
"""Events that are read at once."""


def command(
    config: Config = None,
    last: Annotated[int, typer.Option("--last", min=1, max=MOST, help="How many of the latest to show.")] = 200,
    every: Annotated[bool, typer.Option("--all", help="Show all events, from the first.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new ones.")] = False,
    as_json: Json = False,
) -> None:
    """Show the latest events, the newest at the end."""
    spool, after = spool_of(config), 0
    if not every:
        for row in spool.events(limit=last):
            after = row["id"]
            _show(row, as_json)
    while every or follow:
        for row in pages(spool.events, after):
            after = row["id"]
            _show(row, as_json)
        if not follow:
            return
        time.sleep(1.0)


def _show(row: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(row) if as_json else printable(_line(row)), flush=True)


def _line(row: dict[str, Any]) -> str:
    about = " ".join(filter(None, (row["instance_id"], row["destination"])))
    detail = " ".join(f"{name}={value}" for name, value in row["detail"].items())
    return f"{local_time(row['at'])}  {row['kind']:24s} {about} {detail}".rstrip()
