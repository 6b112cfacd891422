"""The command line: it parses, calls, prints; no logic of its own.

A module holds one command, its function `command`. `queue`, `rules`, `model`, `notify`, `user` and `spool` hold a group
of commands, their `app`. `backup` and `control` hold two each: `backup`, `restore`; `reload`, `wipe`. `bulk` holds
commands of `queue`. `options`, `filters`, `archive`, `progress` and `runs` hold none.

Exit codes: 0 fine, 1 failed, 2 wrong use or configuration. Heavy things are imported inside the commands.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer

from router.cli import (
    adapt,
    backup,
    benchmark,
    check,
    classify,
    conformance,
    control,
    demo,
    devices,
    evaluate,
    events,
    find,
    health,
    init,
    model,
    nodes,
    notify,
    queue,
    rules,
    send,
    serve,
    spool,
    status,
    test,
    train,
    user,
)
from router.cli.options import asked_for_json, tell_failure

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A DICOM node that classifies the pixels of each X-ray and forwards it to the AI node for its body part.",
)
for name, module in (
    ("init", init), ("check", check), ("serve", serve), ("demo", demo), ("classify", classify), ("send", send),
    ("test", test), ("status", status), ("nodes", nodes), ("find", find), ("devices", devices), ("events", events),
    ("health", health), ("conformance", conformance), ("benchmark", benchmark), ("train", train),
    ("evaluate", evaluate), ("adapt", adapt),
):  # fmt: skip
    app.command(name)(module.command)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("reload")(control.reload)
app.command("wipe")(control.wipe)
app.add_typer(queue.app, name="queue")
app.add_typer(rules.app, name="rules")
app.add_typer(model.app, name="model")
app.add_typer(notify.app, name="notify")
app.add_typer(spool.app, name="spool")
app.add_typer(user.app, name="user")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("dicom-router"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    asked_for_json(False)


def main() -> NoReturn:
    """The console script. A known failure becomes one line on standard error, or one JSON object under `--json`."""
    as_json = "--json" in sys.argv[1:]  # a wrong command line is not parsed, so look here
    try:
        code = app(standalone_mode=not as_json)
    except Exception as error:
        from router.errors import explain

        number, text, details = _wrong_words(error) or explain(error)
        tell_failure(text, number, as_json=as_json, **details)
        sys.exit(number)
    sys.exit(code if isinstance(code, int) else 0)


def _wrong_words(error: Exception) -> tuple[int, str, dict[str, Any]] | None:
    """The parser's own error, which it does not print under `--json`."""
    if isinstance(error, typer.Abort):
        return 1, "ended by the user", {}
    words = getattr(error, "format_message", None)
    return (int(getattr(error, "exit_code", 2)), str(words()), {}) if callable(words) else None
