"""`dicom-router health`: whether the node on this spool works, for containers, watchdogs and people."""

from __future__ import annotations

import json

import typer

from router.cli.options import Config, Json, fail, settings_of


def command(config: Config = None, as_json: Json = False) -> None:
    """Say whether the running node works. Exit code 0 if it works; else 1, and the parts that do not work."""
    from router.node.client import health_here
    from router.node.orders import OrderError

    try:
        parts = health_here(settings_of(config).spool.path)
    except OrderError as error:
        fail(str(error))
    failed = sorted(name for name, works in parts.items() if not works)
    if as_json:
        print(json.dumps(parts))
    else:
        print(f"does not work: {', '.join(failed)}" if failed else "works")
    if failed:
        raise typer.Exit(1)
