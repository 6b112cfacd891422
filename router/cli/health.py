"""`dicom-router health`: whether the node on this spool works, for containers, watchdogs and people."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from router.cli.options import Config, Json


def command(config: Config = Path("routing.yaml"), as_json: Json = False) -> None:
    """Say whether the running node works: exit code 0, or 1 and what does not work."""
    from router.config import load
    from router.control import ask

    parts = ask(load(config).spool.path, {"do": "health"})
    if "error" in parts:
        typer.echo(parts["error"], err=True)
        raise typer.Exit(1)
    failed = sorted(name for name, works in parts.items() if not works)
    if as_json:
        print(json.dumps(parts))
    else:
        print(f"does not work: {', '.join(failed)}" if failed else "works")
    if failed:
        raise typer.Exit(1)
