"""`dicom-router notify`: what people are told of; a test message; nothing for a while."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Annotated

import typer

from router.cli.control import change
from router.cli.options import Config, Json, choose, fail, local_time, parsed, printable, settings_of, spool_of

app = typer.Typer(no_args_is_help=True, help="Notifications: list, send a test message, be silent for a while.")


@app.command("list")
def list_(config: Config = None, as_json: Json = False) -> None:
    """List what people are, or will be, told of, and what is silent until when."""
    from dataclasses import asdict

    with closing(spool_of(config)) as spool:
        current, silences = spool.notices.current(), spool.notices.silences()
    for one in current:
        told = f"told {local_time(one.told_at)}" if one.told_at else "not told yet"
        line = f"{one.condition:12s} since {local_time(one.began_at)}, {told}: {one.text}"
        print(json.dumps(asdict(one)) if as_json else printable(line))
    for silence in silences:
        line = f"{silence.condition or 'everything'} is silent until {local_time(silence.until)}, by {silence.who}"
        print(json.dumps({"silence": asdict(silence)}) if as_json else printable(line))


@app.command("test")
def try_out(config: Config = None, as_json: Json = False) -> None:
    """Send a test message to each address of notify.to. Exit code 1 if one is not taken."""
    from router.notify import try_addresses

    settings = settings_of(config)
    if not settings.notify.to:
        fail(f"{settings.file}: notify.to names no address", 2)
    failed = 0
    for one in try_addresses(settings):
        failed += bool(one.failure)
        about = {"to": one.address, "sent": not one.failure, "reason": one.failure or None}
        print(json.dumps(about) if as_json else printable(f"{one.address}: {one.failure or 'sent'}"), flush=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def silence(
    span: Annotated[
        str,
        typer.Argument(
            metavar="SPAN",
            help="For how long, such as 2h. `off` ends a silence; without a condition, all.",
        ),
    ],
    condition: Annotated[str, typer.Argument(help="Only this condition.")] = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell people nothing for a while. What still holds afterwards is told then."""
    from router.config.settings import CONDITIONS
    from router.config.values import duration
    from router.node.orders import Silence

    if condition:
        choose("CONDITION", condition, CONDITIONS)
    seconds = 0.0 if span == "off" else parsed(duration, span, "SPAN")
    answer = change(settings_of(config), Silence(seconds, condition))
    until = f"silent until {local_time(time.time() + seconds)}" if seconds else "no longer silent"
    print(json.dumps(answer) if as_json else f"{condition or 'everything'}: {until}")
