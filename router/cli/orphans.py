"""`dicom-router spool orphans`: objects in the object store without a row, and rows without an object."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import Config, Json, Yes, confirm, local_time, settings_of

if TYPE_CHECKING:
    from router.spool.object_orphans import Looked, TakenIn

SHOWN = 20
"""The most objects that are shown one by one."""


def command(
    config: Config = None,
    take_in: Annotated[
        bool, typer.Option("--take-in", help="Give them rows, by the notes in their headers. Each is decided anew.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Compare an object store with the database. Removes only what a row says is gone.

    Exit code 1: the blob of open work is missing, or an object could not be taken in.
    """
    from router.commands.orphans import look, take_in_orphans

    settings = settings_of(config).spool
    if settings.blobs is None:
        text = "the blobs lie in spool.path: each start takes in those that have no row"
        print(json.dumps({"orphans": 0, "text": text}) if as_json else text)
        return
    looked = look(settings)
    if not as_json:
        _show(looked)
    done = None
    if take_in and looked.orphans:
        lines = [f"{len(looked.orphans)} objects get rows; what was delivered before is delivered again"]
        confirm("take in", lines, yes=yes, as_json=as_json)
        done = take_in_orphans(settings, looked)
        if not as_json:
            _show_taken(done)
    if as_json:
        named = {"orphans": looked.count, "named": [asdict(one) for one in looked.orphans]}
        counts = {"objects": looked.objects, "foreign": looked.foreign, "removed_late": looked.leftovers}
        print(json.dumps(named | counts | {"missing": looked.missing} | (asdict(done) if done else {})))
    if looked.missing or (done and done.refused):
        raise typer.Exit(1)


def _show(looked: Looked) -> None:
    print(f"{looked.objects} objects, {looked.count} of them without a row")
    for one in looked.orphans[:SHOWN]:
        print(f"{one.instance_id}  {one.size} bytes, stored {local_time(one.at)}")
    if looked.count > SHOWN:
        print("… (all with --json)")
    if looked.leftovers:
        print(f"{looked.leftovers} had expired and are removed now")
    if looked.foreign:
        print(f"{looked.foreign} have names that the spool does not give; they stay")
    for which in looked.missing[:SHOWN]:
        typer.echo(f"{which}: its blob is needed, and is not in the object store", err=True)


def _show_taken(done: TakenIn) -> None:
    print(f"{len(done.taken_in)} taken in")
    for which, reason in done.refused.items():
        typer.echo(f"{which}: {reason}; it stays in the object store", err=True)
