"""`dicom-router spool`: what only a person may do to the spool itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from router.cli import orphans
from router.cli.options import Config, Json, parsed, settings_of, wrong

app = typer.Typer(no_args_is_help=True, help="The spool itself: another database, images without a record.")
app.command("orphans")(orphans.command)


@app.command()
def copy(
    to: Annotated[str, typer.Option(help="A PostgreSQL URL; or `sqlite`, or the spool's folder: a file there.")],
    undo: Annotated[
        bool, typer.Option("--undo", help="Go back to the old database, which spool.database names.")
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="With --undo: also if the new one is lost, or has been worked on.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Copy the spool's database to another one. The nodes are stopped. It goes on where it was if it was killed.

    The blobs stay where they are. The old database keeps its rows, and no node starts on it any more.
    """
    from router.commands.copy_spool import SQLITE, copy_spool, undo_copy
    from router.config.values import database

    spool = settings_of(config).spool
    if to != SQLITE and "://" not in to:
        if Path(to).resolve() != spool.path.resolve():
            wrong(f"--to {to}: the blobs stay in {spool.path}, and so must a database in a file: --to sqlite")
        to = SQLITE
    to = parsed(database, to, "--to")
    if undo:
        undo_copy(spool, to, abandon=abandon)
        print(json.dumps({"undone": True}) if as_json else "nodes may start on spool.database again")
        return
    if abandon:
        wrong("--abandon goes with --undo")
    with _progress() as tell:
        done = copy_spool(spool, to, tell)
    if as_json:
        sums = {name: {"rows": rows, "digest": digest} for name, (rows, digest) in done.tables.items()}
        print(json.dumps(asdict(done) | {"tables": sums}))
        return
    print(f"{done.target}: {done.rows} rows in {len(done.tables)} tables, compared with {done.source}")
    print(f"now set in routing.yaml  spool.database: {to if to == SQLITE else done.target}")
    print(f"left behind: {done.source} ({done.left_bytes / 1e6:.1f} MB); no node starts on it, and --undo goes back to "
          "it. Remove it when the new one has been backed up")  # fmt: skip


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("copying", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)
