"""`dicom-router backup` and `restore`: copy a spool, even of a running node; make a spool from such a copy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import Config, Json, must_be_folder, settings_of

SHOWN = 10
"""The most missing or damaged instances that are named."""


def backup(
    target: Annotated[Path, typer.Argument(help="A new or empty folder, preferably on another disk.")],
    config: Config = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the blobs even on the spool's own disk, instead of hard links.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy a node's spool, also while the node runs. Exit code 1 if a blob that is still needed is missing."""
    from router.commands.backup import POSTGRESQL, back_up

    settings = settings_of(config)
    with _progress("backing up") as tell:
        result = back_up(settings, target, tell, always_copy=copy)
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        linked = result.blobs - result.copied
        print(f"{result.target}: {result.blobs} blobs ({result.copied} copied, {linked} linked), {_work(result)}")
        if linked:
            print("linked blobs are on the spool's disk only: copy the folder to another machine, or use --copy")
        if result.database == POSTGRESQL:
            print("this backup does not contain the database: run pg_dump before each backup")
        if result.store:
            print(f"this backup does not contain the images in {result.store}: let the object store keep versions")
    _tell("missing", result.missing)


def restore(
    backup: Annotated[Path, typer.Argument(help="The folder that `backup` made.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a spool from a backup, and check it. spool.path must be new or empty.

    Exit code 1 if a blob that is still needed is missing or damaged.
    """
    from router.commands.backup import restore as bring_back

    must_be_folder("BACKUP", backup)
    settings = settings_of(config)
    with _progress("restoring") as tell:
        result = bring_back(backup, settings.spool, tell)
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        print(f"{result.spool}: {result.blobs} blobs, {_work(result)}")
        if result.store:
            print(f"the images in {result.store} were not looked at: dicom-router spool orphans compares them")
        if result.without_row:
            print(f"{result.without_row} blobs are newer than the database; the node takes them in when it starts")
    _tell("missing", result.missing)
    _tell("damaged", result.damaged)


def _work(result: object) -> str:
    counted = {name: getattr(result, name) for name in ("undecided", "owed", "buried")}
    return "{undecided} instances without a decision, {owed} deliveries owed, {buried} buried".format(**counted)


def _tell(what: str, instances: tuple[str, ...]) -> None:
    """Name the missing or damaged instances, if any, and end with code 1."""
    if instances:
        names = ", ".join(instances[:SHOWN]) + (" …" if len(instances) > SHOWN else "")
        typer.echo(f"{len(instances)} blobs that are still needed are {what}: {names}", err=True)
        raise typer.Exit(1)


@contextmanager
def _progress(words: str) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(words, total=None)

        def tell(step: str) -> None:
            progress.update(task, description=f"{words}: {'database' if step == 'database' else 'blobs'}")
            progress.advance(task)

        yield tell
