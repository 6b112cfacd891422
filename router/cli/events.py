"""`dicom-router events`: who did what when, from the spool's append-only record."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import Config, Json

PAGE = 500


def command(
    config: Config = Path("routing.yaml"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing new ones.")] = False,
    as_json: Json = False,
) -> None:
    """Show the record of events, oldest first."""
    from router.config import load
    from router.spool import read_spool

    spool = read_spool(load(config).spool)
    after = 0
    while True:
        rows = spool.events(after=after, limit=PAGE)
        for row in rows:
            after = row["id"]
            if as_json:
                print(json.dumps(row), flush=True)
            else:
                at = datetime.fromtimestamp(row["at"]).astimezone().isoformat(timespec="seconds")
                about = " ".join(filter(None, (row["instance_id"], row["destination"])))
                detail = " ".join(f"{name}={value}" for name, value in row["detail"].items())
                print(f"{at}  {row['kind']:24s} {about} {detail}".rstrip(), flush=True)
        if not rows:
            if not follow:
                return
            time.sleep(1.0)
