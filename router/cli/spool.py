"""`dicom-router spool`: what only a person may do to the spool itself."""

from __future__ import annotations

import typer

from router.cli import orphans

app = typer.Typer(no_args_is_help=True, help="The spool itself: images without a record.")
app.command("orphans")(orphans.command)


@app.callback()
def _group() -> None:
    """Keeps `orphans` a command of the group, though it is the only one."""
