"""`dicom-router test`: one synthetic X-ray to a destination; the page's test, in a shell."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.control import change
from router.cli.options import Config, Json, Yes, choose, confirm, printable, settings_of

if TYPE_CHECKING:
    from router.config import Settings


def command(
    destination: Annotated[str, typer.Argument(help="A destination of routing.yaml.")],
    config: Config = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Send a synthetic X-ray to a destination: does it take images? Exit code 1: it did not arrive.

    An AI can answer a C-ECHO and refuse images. The record keeps who sent it and how it ended.
    """
    from router.commands.test_image import ARRIVES_AS, PATIENCE, send_test

    settings = settings_of(config)
    choose("DESTINATION", destination, settings.destinations)
    confirm(f"send a synthetic X-ray to {destination}", [ARRIVES_AS], yes=yes, as_json=as_json)
    to = replace(settings.destinations[destination], connect_timeout=PATIENCE, response_timeout=PATIENCE)
    began = time.perf_counter()
    error = send_test(settings, to)
    took = round(1000 * (time.perf_counter() - began), 1)
    if as_json:
        print(json.dumps({"destination": destination, "arrived": not error, "error": error or None, "ms": took}))
    else:
        print(printable(f"it did not arrive: {error}" if error else f"it arrived, in {took:g} ms"))
    _note(settings, destination, error)
    if error:
        raise typer.Exit(1)


def _note(settings: Settings, destination: str, error: str) -> None:
    """Keep it in the record, if there is a spool."""
    from router.node.orders import NoteTest
    from router.spool import SpoolError, read_spool

    try:
        read_spool(settings.spool).close()
    except SpoolError as missing:
        typer.echo(printable(f"this is not in the record: {missing}"), err=True)
        return
    change(settings, NoteTest(destination, error))
