"""`dicom-router events`: who did what when, from the spool's append-only record."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from router.cli.options import Config, Json, local_time, pages, printable, spool_of


def command(
    config: Config = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing new ones.")] = False,
    as_json: Json = False,
) -> None:
    """Show the record of events, oldest first."""
    spool, after = spool_of(config), 0
    while True:
        for row in pages(spool.events, after):
            after = row["id"]
            print(json.dumps(row) if as_json else printable(_line(row)), flush=True)
        if not follow:
            return
        time.sleep(1.0)


def _line(row: dict[str, Any]) -> str:
    about = " ".join(filter(None, (row["instance_id"], row["destination"])))
    detail = " ".join(f"{name}={value}" for name, value in row["detail"].items())
    return f"{local_time(row['at'])}  {row['kind']:24s} {about} {detail}".rstrip()
