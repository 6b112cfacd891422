"""The command line: one module a command, each with a function `command`. Parses, calls, prints; no logic of its own.

Exit codes: 0 fine, 1 failed, 2 wrong use or configuration. Heavy things are imported inside the commands.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from router.cli import (
    backup,
    benchmark,
    check,
    classify,
    conformance,
    control,
    demo,
    evaluate,
    events,
    init,
    model,
    queue,
    send,
    serve,
    train,
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A DICOM node that looks at the pixels of an X-ray and forwards it to the AI node that knows its body part.",
)
for name, module in (
    ("init", init), ("check", check), ("serve", serve), ("demo", demo), ("classify", classify), ("send", send),
    ("events", events), ("conformance", conformance), ("benchmark", benchmark), ("train", train),
    ("evaluate", evaluate),
):  # fmt: skip
    app.command(name)(module.command)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("reload")(control.reload)
app.command("wipe")(control.wipe)
app.add_typer(queue.app, name="queue")
app.add_typer(model.app, name="model")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("dicom-router"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def main() -> NoReturn:
    """The console script. Known failures become one line on standard error; nothing is shown as a traceback twice."""
    try:
        app()
    except Exception as error:
        from router.cli.failures import explain

        code, text = explain(error)
        print(text, file=sys.stderr)
        sys.exit(code)
    sys.exit(0)
