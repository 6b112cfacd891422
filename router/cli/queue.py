"""`dicom-router queue`: what is owed to whom, and what a person can do about it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli import bulk
from router.cli.bulk import DryRun, NoWait, Reason, do_many, summary
from router.cli.control import change
from router.cli.filters import Caller, ClassName, Rule, Since, StateIs, Until, filter_of
from router.cli.options import (
    PAGE,
    Config,
    Json,
    Yes,
    choose,
    confirm,
    fail,
    local_time,
    pages,
    printable,
    settings_of,
    spool_of,
    wrong,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from router.config import Settings
    from router.node.orders import Discard, QueueOrder, Retry
    from router.spool import DestinationState, Spool

app = typer.Typer(no_args_is_help=True, help="Deliveries: list, show, retry, discard, move, send again, pause.")
app.command()(bulk.move)
app.command()(bulk.resend)
app.add_typer(bulk.jobs, name="jobs")

STATES = ("open", "buried", "done", "skipped", "discarded")
ID_DIGITS = 19
"""A number this long is not a delivery's: it is an instance's id without a letter in it."""

To = Annotated[str | None, typer.Option("--to", help="Only this destination.")]
IdsOrText = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NUMBER...|TEXT]", help="Deliveries by number, as `queue list` shows them; or a text as find takes it."
    ),
]
Owed = Annotated[str, typer.Option("--state", help="Only what is waiting, or only what is buried.")]
DROPS = "drop for good"
Which = Annotated[str, typer.Argument(metavar="INSTANCE", help="The id of an instance, or the number of a delivery.")]


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
    _, spool = _open(config, to)
    states = spool.destinations.states()
    if not as_json:
        for line in _held(spool, states, to):
            typer.echo(printable(line), err=True)
    for row in _deliveries(spool, to, ("buried",) if buried else ("open", "buried")):
        state = states.get(row["destination"])
        if as_json:
            print(json.dumps(row | {
                "paused": bool(state and state.paused), "circuit_open": bool(state and state.circuit_until),
                "next_try_at": state and (state.circuit_until or None),
                "circuit_reason": state and (state.circuit_reason or None),
            }))  # fmt: skip
            continue
        word = "waiting" if row["state"] == "open" else row["state"]
        print(printable(
            f"{row['id']:>8}  {word:7s} {row['destination']:20s} instance {row['instance_id']}  "
            f"since {local_time(row['owed_since'])}  tries {row['tries']}  {row['reason'] or ''}{_hold(row, state)}"
        ))  # fmt: skip


def _hold(row: dict[str, Any], state: DestinationState | None) -> str:
    """Why a delivery is not tried now, or that it is being sent."""
    if row["token"]:
        return " (being sent)"
    if row["state"] != "open" or state is None:
        return ""
    return " (paused)" if state.paused else " (circuit open)" if state.circuit_until else ""


def _open(config: Path | None, to: str | None) -> tuple[Settings, Spool]:
    """Settings and spool. An unknown `to` is wrong use."""
    from router.node.orders import known
    from router.spool import read_spool

    settings = settings_of(config)
    spool = read_spool(settings.spool)
    if to is not None:
        choose("--to", to, known(spool, settings.destinations))
    return settings, spool


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
        elif state.circuit_until and name in waiting:
            left = state.circuit_left or 0.0
            again = "now" if left <= 0 else local_time(time.time() + left)
            yield f"{name} does not take anything, {waiting[name]} wait, next try {again}: {state.circuit_reason}"
    if not waiting:
        yield "nothing waits to be sent"


@app.command()
def show(
    instance: Which,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show everything known of one instance: who sent it, what was seen, which rule fired, where it went."""
    from router.spool import values_of

    settings, spool = _open(config, None)
    found = spool.views.instance(_instance(spool, instance))
    if found is None:
        fail(f"no instance or delivery {printable(instance)!r}; queue list shows them")
    row = values_of(found)
    row["deliveries"] = [values_of(one) for one in spool.views.deliveries(instance_id=found.id, limit=PAGE)]
    row["events"] = [values_of(one) for one in spool.views.events(instance_id=found.id, limit=PAGE)]
    if as_json:
        print(json.dumps(row))
        return
    if row["class"] == "uncertain" and (why := _why_uncertain(settings, row)):
        row["class"] = f"uncertain ({why})"
    for line in _lines(row):
        print(printable(line))


def _why_uncertain(settings: Settings, row: dict[str, Any]) -> str:
    """Why, by the card of the model that answered; empty if that model is gone."""
    from router.commands.limits import limits_for

    limits = limits_for(settings, row["model"])
    return limits.why(row["top"], row["confidence"], novel=bool(row["novel"])) if limits else ""


def _instance(spool: Spool, which: str) -> str:
    """The id of an instance, from that id or from the number of one of its deliveries."""
    delivery = _delivery(spool, int(which)) if which.isdecimal() and len(which) < ID_DIGITS else None
    return which if delivery is None else str(delivery["instance_id"])


def _delivery(spool: Spool, number: int) -> dict[str, Any] | None:
    """A delivery by its number, in any state."""
    from router.spool import values_of

    rows = spool.views.deliveries(states=STATES, after=number - 1, limit=1)
    return values_of(rows[0]) if rows and rows[0].id == number else None


def _lines(row: dict[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        if name not in ("deliveries", "events", "token", "ready_at"):
            yield f"{name:18s} {local_time(value) if name.endswith('_at') and value else _words(name, value)}"
    for delivery in row["deliveries"]:
        word = "waiting" if delivery["state"] == "open" else delivery["state"]
        ended = f" {local_time(delivery['closed_at'])}" if delivery["closed_at"] else ""
        ended += f" (follows instance {delivery['follows']})" if delivery["follows"] else ""
        yield f"delivery {delivery['id']:<9} {delivery['destination']}: {word}{ended} {delivery['reason'] or ''}"
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
    ids: IdsOrText = None,
    to: To = None,
    every: Annotated[bool, typer.Option("--all", help="All buried deliveries.")] = False,
    since: Since = "",
    until: Until = "",
    class_name: ClassName = "",
    rule: Rule = "",
    caller: Caller = "",
    state: Owed = "",
    reason: Reason = "",
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Try buried deliveries again at once; with --to, also waiting ones. Their `give_up_after` begins again.

    Name them by number, or by the filters of `find`.
    """
    from router.node.orders import Retry

    numbers, text = _numbers_or_text(ids)
    filters = (text, since, until, class_name, rule, caller, state)
    if state:
        choose("--state", state, ("waiting", "buried"))
    _must_choose(numbers, to, *filters, every=every)
    settings, spool = _open(config, to)
    if numbers:
        _change(settings, Retry, {number: _delivery(spool, number) for number in numbers}, as_json, dry_run=dry_run)
        return
    # --to takes what waits and what is buried there; without it, only what is buried.
    wanted = filter_of(text, since, until, class_name, rule, to or "", caller, state or ("" if to else "buried"))
    do_many(settings, "retry", wanted, reason=reason, dry_run=dry_run, wait=not no_wait, as_json=as_json)
    if to is not None and spool.destinations.state(to).paused:
        typer.echo(f"{to} is paused, and nothing is sent to it: dicom-router queue resume {to}", err=True)
    if to is None and not any(filters):
        _tell_waiting(spool, "use --to DESTINATION to retry these too")


@app.command()
def discard(
    ids: IdsOrText = None,
    to: To = None,
    every: Annotated[bool, typer.Option("--all", help="All buried deliveries; with --to, also waiting ones.")] = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="With --to: only waiting deliveries.")] = False,
    since: Since = "",
    until: Until = "",
    class_name: ClassName = "",
    rule: Rule = "",
    caller: Caller = "",
    state: Owed = "",
    reason: Reason = "",
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    yes: Yes = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Drop buried deliveries for good. With --to: --waiting drops waiting ones instead, --all drops both.

    Name them by number, or by the filters of `find`. It asks first, and records who did it.
    """
    from router.node.orders import Discard

    if waiting and (to is None or every):
        wrong("--waiting needs --to DESTINATION, and excludes --all")
    if state and (waiting or (every and to)):
        wrong("--state excludes --waiting and --all")
    numbers, text = _numbers_or_text(ids)
    filters = (text, since, until, class_name, rule, caller, state)
    if state:
        choose("--state", state, ("waiting", "buried"))
    _must_choose(numbers, to, *filters, every=every)
    settings, spool = _open(config, to)
    if numbers:
        chosen = {number: _delivery(spool, number) for number in numbers}
        if not dry_run and any(row is not None for row in chosen.values()):
            confirm(DROPS, list(_summary(chosen.values())), yes=yes, as_json=as_json)
        _change(settings, Discard, chosen, as_json, dry_run=dry_run)
        return
    both = every and to is not None
    which = state or ("waiting" if waiting else "" if both else "buried")
    wanted = filter_of(text, since, until, class_name, rule, to or "", caller, which)
    do_many(
        settings, "discard", wanted, reason=reason, dry_run=dry_run, wait=not no_wait, as_json=as_json, destroys=DROPS,
        yes=yes,
    )  # fmt: skip
    if which == "buried" and not any(filters):
        _tell_waiting(
            spool, "use --waiting or --all to drop these" if to else "use --to DESTINATION --all to drop these too", to
        )


def _numbers_or_text(words: list[str] | None) -> tuple[list[int], str]:
    """Numbers of deliveries, or else one text to look for."""
    words = words or []
    if all(word.isdecimal() and len(word) < ID_DIGITS for word in words):
        return [int(word) for word in words], ""
    if len(words) > 1:
        wrong("name deliveries by their numbers, or give one text to look for")
    return [], words[0]


def _summary(rows: Iterable[dict[str, Any] | None]) -> Iterator[str]:
    """For each destination the number of deliveries, and since when the oldest is owed."""
    from router.spool.bulk import Planned

    return summary(Planned(row["destination"], row["state"], 1, 0, row["owed_since"]) for row in rows if row)


def _tell_waiting(spool: Spool, hint: str, to: str | None = None) -> None:
    counts = spool.views.counts().open
    waiting = sum(counts.values()) if to is None else counts.get(to, 0)
    if waiting:
        typer.echo(f"{waiting} wait and are not buried; {hint}", err=True)


@app.command()
def pause(
    destination: str,
    until: Annotated[
        str, typer.Option(help="When it ends by itself: a span (2h), a time of day (07:00), or a date and time.")
    ] = "",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Send nothing to a destination until `resume`, or until a time. Its deliveries wait."""
    from router.commands.pause_words import in_words, pause_end
    from router.node.orders import Pause

    try:
        end = pause_end(until, time.time())
    except ValueError as error:
        wrong(f"--until: {error}")
    _order(config, f"{destination} is paused{in_words(end)}", as_json, Pause(destination, end))


@app.command()
def resume(destination: str, config: Config = None, as_json: Json = False) -> None:
    """Send to a destination again, at once."""
    from router.node.orders import Resume

    _order(config, f"{destination} is sent to again", as_json, Resume(destination))


@app.command("decide-again")
def decide_again(
    instance: Annotated[
        str, typer.Argument(metavar="[INSTANCE|TEXT]", help="An instance, or a text as find takes it.")
    ] = "",
    since: Since = "",
    until: Until = "",
    class_name: ClassName = "",
    rule: Rule = "",
    to: Annotated[str, typer.Option(help="A destination of the decision.")] = "",
    caller: Caller = "",
    state: StateIs = "",
    reason: Reason = "",
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Order a new decision for an instance, or for all that the filters of `find` match, by the rules in force now.

    What arrives goes before many of them.
    """
    from router.node.orders import DecideAgain

    filters = (since, until, class_name, rule, to, caller, state)
    if not instance and not any(filters):
        wrong("name an instance, or use a filter of find, for example --since 2h")
    settings = settings_of(config)
    if instance and not any(filters) and not dry_run:
        spool = spool_of(config)
        which = _instance(spool, instance)
        if spool.views.instance(which) is not None or not _is_found(spool, instance):
            _order(config, "a new decision is ordered", as_json, DecideAgain(which))
            return
    wanted = filter_of(instance, since, until, class_name, rule, to, caller, state)
    do_many(settings, "decide-again", wanted, reason=reason, dry_run=dry_run, wait=not no_wait, as_json=as_json)


def _is_found(spool: Spool, text: str) -> bool:
    from router.spool.find import Filter

    return bool(spool.views.find(Filter(text=text), limit=1))


@app.command()
def send(
    instance: Which,
    to: Annotated[str, typer.Option("--to", help="The destination, by its name in routing.yaml.")],
    study: Annotated[
        bool, typer.Option("--study", help="All instances of its study, also those that are still to come.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Send an instance, or its whole study, to one more destination. Decisions stay as they are."""
    from router.node.orders import SendAlso

    which = _instance(spool_of(config), instance)
    told = f"the study goes to {to} too" if study else f"it is owed to {to} too"
    _order(config, told, as_json, SendAlso(which, to, study))


def _order(config: Path | None, told: str, as_json: bool, order: QueueOrder) -> None:
    answer = change(settings_of(config), order)
    print(json.dumps(answer) if as_json else told)


def _must_choose(ids: list[int], to: str | None, *filters: str, every: bool) -> None:
    if ids and (to is not None or every or any(filters)):
        wrong("name deliveries either by number, or by --to, --all and the filters of find")
    if not ids and not every and to is None and not any(filters):
        wrong("name deliveries by number, or use --to DESTINATION, --all or a filter of find")


def _change(
    settings: Settings, order: type[Retry | Discard], chosen: Mapping[int, dict[str, Any] | None], as_json: bool,
    *, dry_run: bool,
) -> None:  # fmt: skip
    """Make the change. Exit code 1, with the reasons, if not all could be changed."""
    numbers, changed = list(chosen), 0
    if dry_run:
        n = len(numbers) - len(list(_hindered(chosen)))
        print(json.dumps({"dry_run": True, "total": n}) if as_json else f"{n} would be changed")
        return
    hindered = list(_hindered(chosen))
    for start in range(0, len(numbers), PAGE):
        changed += int(change(settings, order(tuple(numbers[start : start + PAGE])))["changed"])
    if changed < len(numbers):
        reasons = "\n".join(hindered) or "some of them have ended, or are being sent now"
        if not as_json:
            print(f"{changed} of {len(numbers)} changed")
        fail(reasons, changed=changed, chosen=len(numbers))
    print(json.dumps({"changed": changed}) if as_json else f"{changed} of {len(numbers)} changed")


def _hindered(chosen: Mapping[int, dict[str, Any] | None]) -> Iterator[str]:
    """Why deliveries cannot be changed, a line for each."""
    for number, row in chosen.items():
        if row is None:
            yield f"{number}: no such delivery"
        elif row["state"] not in ("open", "buried"):
            yield f"{number}: {row['state']} already"
        elif row["token"]:
            yield f"{number}: is being sent now"


def _deliveries(spool: Spool, to: str | None, states: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    from router.spool import values_of

    return map(values_of, pages(spool.views.deliveries, to=to, states=states))
