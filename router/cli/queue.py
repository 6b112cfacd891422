"""`dicom-router queue`: what is owed to whom, and what a person can do about it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import Config, Json, who

if TYPE_CHECKING:
    from router.config import Settings
    from router.spool import Spool

app = typer.Typer(no_args_is_help=True, help="Deliveries that are owed or buried: list, show, retry, discard.")

To = Annotated[str | None, typer.Option("--to", help="Only this destination.")]
Ids = Annotated[list[int] | None, typer.Argument(help="Deliveries by number, as `queue list` shows them.")]
PAGE = 500


@app.command("list")
def list_(
    config: Config = Path("routing.yaml"),
    to: To = None,
    buried: Annotated[bool, typer.Option("--buried", help="Only what was given up on.")] = False,
    as_json: Json = False,
) -> None:
    """Open and buried deliveries, oldest first."""
    _, spool = _look(config)
    for row in _pages(spool, to, ("buried",) if buried else ("open", "buried")):
        if as_json:
            print(json.dumps(row))
        else:
            held = " (being sent)" if row["token"] else ""
            print(
                f"{row['id']:>8}  {row['state']:7s} {row['destination']:20s} instance {row['instance_id']}  "
                f"since {_time(row['owed_since'])}  tries {row['tries']}  {row['reason'] or ''}{held}"
            )


@app.command()
def show(
    instance: Annotated[str, typer.Argument(help="An instance, by our id.")],
    config: Config = Path("routing.yaml"),
    as_json: Json = False,
) -> None:
    """Everything known of one instance: who sent it, what was seen, which rule fired, where it went."""
    _, spool = _look(config)
    row = spool.instance(instance)
    if row is None:
        typer.echo(f"no instance {instance[:40]!r}", err=True)
        raise typer.Exit(1)
    row["deliveries"] = spool.deliveries(instance_id=instance, limit=PAGE)
    row["events"] = spool.events(instance_id=instance, limit=PAGE)
    if as_json:
        print(json.dumps(row))
        return
    for name, value in row.items():
        if name not in ("deliveries", "events", "token", "ready_at"):
            print(f"{name:18s} {_time(value) if name.endswith('_at') and value else value}")
    for delivery in row["deliveries"]:
        print(f"delivery {delivery['id']:<9} {delivery['destination']}: {delivery['state']} {delivery['reason'] or ''}")
    for event in row["events"]:
        print(f"event {_time(event['at'])}  {event['kind']} {event['destination'] or ''} {event['detail'] or ''}")


@app.command()
def retry(
    ids: Ids = None,
    config: Config = Path("routing.yaml"),
    to: To = None,
    every: Annotated[bool, typer.Option("--all", help="Everything buried.")] = False,
    as_json: Json = False,
) -> None:
    """Owe buried (or waiting) deliveries again, at once."""
    _change(config, "retry", ids, to, every, as_json)


@app.command()
def discard(
    ids: Ids = None,
    config: Config = Path("routing.yaml"),
    to: To = None,
    every: Annotated[bool, typer.Option("--all", help="Everything buried.")] = False,
    as_json: Json = False,
) -> None:
    """Drop deliveries for good. It is recorded who did it."""
    _change(config, "discard", ids, to, every, as_json)


@app.command()
def pause(destination: str, config: Config = Path("routing.yaml")) -> None:
    """Send nothing to a destination until `resume`; deliveries wait."""
    _ask(config, {"do": "pause", "destination": destination})


@app.command()
def resume(destination: str, config: Config = Path("routing.yaml")) -> None:
    """Send to a destination again."""
    _ask(config, {"do": "resume", "destination": destination})


@app.command("decide-again")
def decide_again(instance: str, config: Config = Path("routing.yaml")) -> None:
    """Order a new decision for an instance, by the rules in force now."""
    if not _ask(config, {"do": "decide again", "instance": instance})["changed"]:
        typer.echo("no such instance, or its blob is gone", err=True)
        raise typer.Exit(1)


def _change(config: Path, do: str, ids: list[int] | None, to: str | None, every: bool, as_json: bool) -> None:
    if not ids and not every and to is None:
        raise typer.BadParameter("name deliveries, or --to DESTINATION, or --all")
    _, spool = _look(config)
    # --to takes what is owed and what is buried there; --all only what is buried.
    states = ("buried",) if every and to is None else ("open", "buried")
    chosen = list(ids) if ids else [row["id"] for row in _pages(spool, to, states)]
    changed = 0
    for start in range(0, len(chosen), PAGE):
        changed += int(_ask(config, {"do": do, "deliveries": chosen[start : start + PAGE]})["changed"])
    print(json.dumps({"changed": changed}) if as_json else f"{changed} of {len(chosen)} changed")
    if changed < len(chosen):
        raise typer.Exit(1)


def _pages(spool: Spool, to: str | None, states: tuple[str, ...]) -> Any:
    after = 0
    while rows := spool.deliveries(to=to, states=states, after=after, limit=PAGE):
        yield from rows
        after = rows[-1]["id"]


def _look(config: Path) -> tuple[Settings, Spool]:
    from router.config import load
    from router.spool import read_spool

    settings = load(config)
    return settings, read_spool(settings.spool)


def _ask(config: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Through the running node, which alone writes; without one, directly."""
    from router.cli.control import change

    return change(config, request | {"who": who()})


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
