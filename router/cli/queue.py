"""`dicom-router queue`: what is owed to whom, and what a person can do about it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.control import change
from router.cli.options import PAGE, Config, Json, choose, local_time, pages, printable, spool_of, wrong

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from router.spool import Spool

app = typer.Typer(no_args_is_help=True, help="Deliveries that are owed or buried: list, show, retry, discard.")

STATES = ("open", "buried", "done", "skipped", "discarded")
ID_DIGITS = 19
"""What has so many digits is no delivery's number; an instance's id may have no letter in it."""

To = Annotated[str | None, typer.Option("--to", help="Only this destination.")]
Ids = Annotated[list[int] | None, typer.Argument(help="Deliveries by number, as `queue list` shows them.")]
Which = Annotated[str, typer.Argument(metavar="INSTANCE", help="An instance by our id, or the number of a delivery.")]


@app.command("list")
def list_(
    config: Config = Path("routing.yaml"),
    to: To = None,
    buried: Annotated[bool, typer.Option("--buried", help="Only what was given up on.")] = False,
    as_json: Json = False,
) -> None:
    """Open and buried deliveries, oldest first. Which destination is not sent to now goes to standard error."""
    from router.config import load
    from router.spool import read_spool

    settings = load(config)
    spool = read_spool(settings.spool)
    _check(spool, to, settings.destinations)
    if not as_json:
        for line in _held(spool, to):
            typer.echo(printable(line), err=True)
    for row in _deliveries(spool, to, ("buried",) if buried else ("open", "buried")):
        if as_json:
            print(json.dumps(row))
        else:
            held = " (being sent)" if row["token"] else ""
            print(printable(
                f"{row['id']:>8}  {row['state']:7s} {row['destination']:20s} instance {row['instance_id']}  "
                f"since {local_time(row['owed_since'])}  tries {row['tries']}  {row['reason'] or ''}{held}"
            ))  # fmt: skip


def _check(spool: Spool, to: str | None, destinations: Iterable[str]) -> None:
    """A destination that nobody knows is wrong use, not one to which nothing is owed."""
    from router.control import known

    if to is not None:
        choose("--to", to, known(spool, destinations))


def _held(spool: Spool, to: str | None) -> Iterator[str]:
    """A line for each destination for which something waits and to which nothing is sent now."""
    waiting = spool.counts().open
    for name in sorted(waiting if to is None else {to} & set(waiting)):
        state = spool.destination_state(name)
        if state.paused:
            yield f"{name} is paused, {waiting[name]} wait: dicom-router queue resume {name}"
        elif state.circuit_until:
            left = state.circuit_left or 0.0
            again = "now" if left <= 0 else local_time(time.time() + left)
            yield f"{name} does not take anything, {waiting[name]} wait, next try {again}: {state.circuit_reason}"
    if not waiting:
        yield "nothing is owed"


@app.command()
def show(
    instance: Which,
    config: Config = Path("routing.yaml"),
    as_json: Json = False,
) -> None:
    """Everything known of one instance: who sent it, what was seen, which rule fired, where it went."""
    spool = spool_of(config)
    row = spool.instance(_instance(spool, instance))
    if row is None:
        typer.echo(f"no instance or delivery {instance[:40]!r}; queue list shows them", err=True)
        raise typer.Exit(1)
    row["deliveries"] = spool.deliveries(instance_id=row["id"], limit=PAGE)
    row["events"] = spool.events(instance_id=row["id"], limit=PAGE)
    if as_json:
        print(json.dumps(row))
        return
    for line in _lines(row):
        print(printable(line))


def _instance(spool: Spool, which: str) -> str:
    """The id of an instance that was given by its id or by the number of one of its deliveries."""
    delivery = _delivery(spool, int(which)) if which.isdecimal() and len(which) < ID_DIGITS else None
    return which if delivery is None else str(delivery["instance_id"])


def _delivery(spool: Spool, number: int) -> dict[str, Any] | None:
    """A delivery by its number, whatever has become of it."""
    rows = spool.deliveries(states=STATES, after=number - 1, limit=1)
    return rows[0] if rows and rows[0]["id"] == number else None


def _lines(row: dict[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        if name not in ("deliveries", "events", "token", "ready_at"):
            yield f"{name:18s} {local_time(value) if name.endswith('_at') and value else _words(name, value)}"
    for delivery in row["deliveries"]:
        yield f"delivery {delivery['id']:<9} {delivery['destination']}: {delivery['state']} {delivery['reason'] or ''}"
    for event in row["events"]:
        yield f"event {local_time(event['at'])}  {event['kind']} {event['destination'] or ''} {event['detail'] or ''}"


def _words(name: str, value: Any) -> str:
    """A value for people; nothing where there is none."""
    from router.flow import CLASSES

    if name == "probabilities" and isinstance(value, list):
        value = dict(zip(CLASSES, value, strict=False))
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items() if one is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


@app.command()
def retry(
    ids: Ids = None,
    config: Config = Path("routing.yaml"),
    to: To = None,
    every: Annotated[bool, typer.Option("--all", help="Everything buried.")] = False,
    as_json: Json = False,
) -> None:
    """Owe buried (or waiting) deliveries again, and try their destinations at once. The time to give up begins anew."""
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
def pause(destination: str, config: Config = Path("routing.yaml"), as_json: Json = False) -> None:
    """Send nothing to a destination until `resume`; deliveries wait."""
    _order(config, f"{destination} is paused", as_json, "pause", destination=destination)


@app.command()
def resume(destination: str, config: Config = Path("routing.yaml"), as_json: Json = False) -> None:
    """Send to a destination again, at once."""
    _order(config, f"{destination} is sent to again", as_json, "resume", destination=destination)


@app.command("decide-again")
def decide_again(instance: Which, config: Config = Path("routing.yaml"), as_json: Json = False) -> None:
    """Order a new decision for an instance, by the rules in force now."""
    which = _instance(spool_of(config), instance)
    _order(config, "a new decision is ordered", as_json, "decide again", instance=which)


def _order(config: Path, told: str, as_json: bool, do: str, **about: str) -> None:
    from router.config import load

    answer = change(load(config), do, **about)
    print(json.dumps(answer) if as_json else told)


def _change(config: Path, do: str, ids: list[int] | None, to: str | None, every: bool, as_json: bool) -> None:
    from router.config import load
    from router.spool import read_spool

    if not ids and not every and to is None:
        wrong("name deliveries, or --to DESTINATION, or --all")
    settings = load(config)
    spool = read_spool(settings.spool)
    _check(spool, to, settings.destinations)
    # --to takes what is owed and what is buried there; --all only what is buried.
    states = ("buried",) if every and to is None else ("open", "buried")
    chosen = list(ids) if ids else [row["id"] for row in _deliveries(spool, to, states)]
    hindered = list(_hindered(spool, chosen)) if ids else []
    waiting = sum(spool.counts().open.values()) if states == ("buried",) and not ids else 0
    changed = 0
    for start in range(0, len(chosen), PAGE):
        changed += int(change(settings, do, deliveries=chosen[start : start + PAGE])["changed"])
    print(json.dumps({"changed": changed}) if as_json else f"{changed} of {len(chosen)} changed")
    if waiting:
        typer.echo(f"{waiting} wait and are not buried; --to DESTINATION takes these, too", err=True)
    if changed < len(chosen):
        for line in hindered:
            typer.echo(line, err=True)
        raise typer.Exit(1)


def _hindered(spool: Spool, numbers: list[int]) -> Iterator[str]:
    """Why deliveries cannot be changed, a line for each."""
    for number in numbers:
        row = _delivery(spool, number)
        if row is None:
            yield f"{number}: no such delivery"
        elif row["state"] not in ("open", "buried"):
            yield f"{number}: {row['state']} already"
        elif row["token"]:
            yield f"{number}: is being sent now"


def _deliveries(spool: Spool, to: str | None, states: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    return pages(spool.deliveries, to=to, states=states)
