"""`dicom-router queue`: what is owed to whom, and what a person can do about it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli import bulk, queue_causes, queue_close, queue_orders, queue_show
from router.cli.options import Config, Json, local_time, open_spool_of, pages, printable
from router.cli.queue_close import To

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from router.spool import DestinationState, Spool

app = typer.Typer(no_args_is_help=True, help="Deliveries: list, show, retry, discard, move, send again, pause.")


@app.command("list")
def list_(
    config: Config = None,
    to: To = None,
    buried: Annotated[bool, typer.Option("--buried", help="Only buried deliveries.")] = False,
    as_json: Json = False,
) -> None:
    """List open and buried deliveries, the oldest first. Say whether a destination is paused or its circuit is open.

    Advice on such a destination goes to standard error.
    """
    from router.commands.quota_words import waits_for_quota

    with open_spool_of(config, to) as (settings, spool):
        states = spool.destinations.states()
        if not as_json:
            for line in _held(spool, states, to):
                typer.echo(printable(line), err=True)
        for row in _deliveries(spool, to, ("buried",) if buried else ("open", "buried")):
            state = states.get(row["destination"])
            is_free = row["state"] == "open" and not row["token"]
            where = settings.destinations.get(row["destination"])
            quota = waits_for_quota(where, state, tries=row["tries"], reason=row["reason"]) if is_free else ""
            if as_json:
                print(json.dumps(row | {
                    "paused": bool(state and state.paused), "circuit_open": bool(state and state.circuit_until),
                    "next_try_at": state and (state.circuit_until or None),
                    "circuit_reason": state and (state.circuit_reason or None), "quota": quota or None,
                }))  # fmt: skip
                continue
            hold = f" ({quota})" if quota else _hold(row, state)
            word = "waiting" if row["state"] == "open" else row["state"]
            print(printable(
                f"{row['id']:>8}  {word:7s} {row['destination']:20s} instance {row['instance_id']}  "
                f"since {local_time(row['owed_since'])}  tries {row['tries']}  {row['reason'] or ''}{hold}"
            ))  # fmt: skip


def _hold(row: dict[str, Any], state: DestinationState | None) -> str:
    """Why a delivery is not tried now, or that it is being sent."""
    if row["token"]:
        return " (being sent)"
    if row["state"] != "open" or state is None:
        return ""
    if state.paused:
        return " (paused)"
    return " (outside of its hours)" if state.closed_until else " (circuit open)" if state.circuit_until else ""


def _held(spool: Spool, states: Mapping[str, DestinationState], to: str | None) -> Iterator[str]:
    """A line for each paused destination, and for each with an open circuit and something that waits."""
    from router.commands.pause_words import in_words

    counts = spool.views.counts()
    waiting = counts.open
    if counts.set_aside and to is None:
        yield f"{counts.set_aside} blobs are set aside: see 'Blobs set aside' in docs/operations.md"
    for name, state in sorted(states.items()):
        if to not in (None, name):
            continue
        if state.paused:
            until, n = in_words(state.pause_until), waiting.get(name, 0)
            yield f"{name} is paused{until}, {n} wait: dicom-router queue resume {name}"
        elif state.closed_until and name in waiting:
            yield f"{name} is outside of its hours{in_words(state.closed_until)}, {waiting[name]} wait"
        elif state.circuit_until and name in waiting:
            left = state.circuit_left or 0.0
            again = "now" if left <= 0 else local_time(time.time() + left)
            yield f"{name} does not take anything, {waiting[name]} wait, next try {again}: {state.circuit_reason}"
    if not waiting:
        yield "nothing waits to be sent"


def _deliveries(spool: Spool, to: str | None, states: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    from router.spool import values_of

    return map(values_of, pages(spool.views.deliveries, to=to, states=states))


app.command()(queue_show.show)
app.command()(queue_causes.causes)
app.command()(queue_causes.label)
app.command()(queue_close.retry)
app.command()(queue_close.discard)
app.command()(bulk.move)
app.command()(bulk.resend)
app.command()(queue_orders.pause)
app.command()(queue_orders.resume)
app.command("decide-again")(queue_orders.decide_again)
app.command()(queue_orders.send)
app.command("end-study")(queue_orders.end_study)
app.add_typer(bulk.jobs, name="jobs")
