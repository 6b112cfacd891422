"""`dicom-router queue move`, `resend` and `jobs`; and how a command does something with many at once.

The order is a job. The running node works it off, and the command shows how far it is; where no node runs, the command
works it off itself. What is cut short goes on with the next node.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.control import change
from router.cli.filters import Filters, MoveFilters, filter_of
from router.cli.options import (
    Config,
    Json,
    choose,
    confirm,
    fail,
    flat,
    local_time,
    printable,
    settings_of,
    spool_of,
    who,
    wrong,
)

if TYPE_CHECKING:
    from router.config import Settings
    from router.node.orders import QueueOrder
    from router.spool import Job, Spool
    from router.spool.bulk import Planned
    from router.spool.find import Filter

LOOK_EVERY = 0.2
"""Seconds between two looks at a job that the node works off."""
PASSED = "were passed over: they are being sent now, have ended, are owed already, or their blob was removed"


@dataclass(frozen=True)
class How:
    """The options of every command over many at once, beside its filters."""

    reason: Annotated[str, typer.Option(help="Why; kept in the record.")] = ""
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say how many would be.")] = False
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the end: see queue jobs.")] = False
    config: Config = None
    as_json: Json = False


Text = Annotated[str, typer.Argument(help="An id or its beginning, a SOP or Study Instance UID, an accession number.")]
Number = Annotated[int, typer.Argument(metavar="JOB", help="The number of the job.")]

jobs = typer.Typer(invoke_without_command=True, help="What was ordered for many at once: list, follow, cancel.")


@flat
def move(
    from_: Annotated[str, typer.Option("--from", help="The destination that they are owed to.")],
    to: Annotated[str, typer.Option("--to", help="The destination that gets them instead.")],
    text: Text = "",
    filters: MoveFilters = MoveFilters(),
    how: How = How(),
) -> None:
    """Send to another destination what waits or is buried for this one.

    What the other one has or is owed already is not sent twice. `queue jobs cancel` takes back what was not tried yet.
    """
    wanted = filter_of(filters, text, from_, filters.state, filters.cause)
    settings = settings_of(how.config)
    choose("--to", to, sorted(settings.destinations))
    do_many(settings, "move", wanted, how, to)


@flat
def resend(
    to: Annotated[str, typer.Option("--to", help="The destination that has had them.")],
    text: Text = "",
    filters: Filters = Filters(),
    how: How = How(),
) -> None:
    """Send again what was delivered to a destination, as new deliveries. It needs a filter beside --to.

    `queue jobs cancel` takes back what was not tried yet.
    """
    wanted = filter_of(filters, text, to)
    if not text and not filters:
        wrong("resend needs a filter beside --to, for example --since 2h")
    settings = settings_of(how.config)
    choose("--to", to, sorted(settings.destinations))
    do_many(settings, "resend", wanted, how)


@jobs.callback()
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show at most this many.")] = 20,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List what was ordered for many at once, the latest first."""
    if context.invoked_subcommand is not None:
        return
    with closing(spool_of(config)) as spool:
        for job in spool.bulk.jobs(limit=limit):
            print(json.dumps(job.as_json()) if as_json else printable(_line(job)))


@jobs.command()
def follow(job: Number, config: Config = None, as_json: Json = False) -> None:
    """Show how far a job is until it ends. Without a running node, work it off."""
    settings = settings_of(config)
    ended = _until_it_ends(settings, lambda _: job)
    print(json.dumps(ended.as_json()) if as_json else printable(_line(ended)))


@jobs.command()
def cancel(job: Number, config: Config = None, as_json: Json = False) -> None:
    """End a job. What a move or a resend did and was not tried yet is taken back, also after the job has ended."""
    from router.node.orders import CancelJob

    settings = settings_of(config)
    change(settings, CancelJob(job))
    ended = _until_it_ends(settings, lambda _: job)
    print(json.dumps(ended.as_json()) if as_json else printable(_line(ended)))


def _line(job: Job) -> str:
    of = f" of {job.total}" if job.total is not None else ""
    way = f"{job.filter.to or 'all'} to {job.destination}" if job.destination else job.filter.to
    passed = f", {job.chosen - job.changed} passed over" if job.chosen > job.changed else ""
    undone = f", {job.undone} taken back" if job.undone else ""
    why = f"  ({job.reason})" if job.reason else ""
    return (
        f"{job.id:>6}  {job.state:9s} {job.act:12s} {way:24s} {job.changed}{of} changed{passed}{undone}  "
        f"{local_time(job.ordered_at)} by {job.who}{why}"
    )


# -- one order over many -----------------------------------------------------------------------------------------------


def do_many(
    settings: Settings, act: str, wanted: Filter, how: How, destination: str = "", *, destroys: str = "",
    yes: bool = False,
) -> None:  # fmt: skip
    """Order it, and show how it goes. `destroys` says what is asked before. Exit code 1 if some were passed over."""
    from router.node.carrying_out import known
    from router.node.orders import Many
    from router.spool import Act, read_spool

    with closing(read_spool(settings.spool)) as spool:
        if wanted.to:
            choose("--from" if act == "move" else "--to", wanted.to, known(spool, settings.destinations))
        plan = spool.bulk.plan(Act(act), wanted)
    total = sum(one.n for one in plan)
    if how.dry_run:
        _tell_plan(plan, total, as_json=how.as_json)
        return
    if destroys and total:
        confirm(destroys, list(summary(plan)), yes=yes, as_json=how.as_json)
    if not total:
        print(json.dumps({"changed": 0, "chosen": 0}) if how.as_json else "0 of 0 changed")
        return
    order = Many(
        act, destination, how.reason, wanted.text, wanted.since, wanted.until, wanted.class_name, wanted.rule,
        wanted.to, wanted.calling_ae, wanted.peer, str(wanted.state or ""), wanted.cause,
    )  # fmt: skip
    if how.no_wait:
        number = change(settings, order)["job"]
        print(json.dumps({"job": number}) if how.as_json else f"job {number}; see dicom-router queue jobs")
        return
    _tell_end(_until_it_ends(settings, lambda give: int(give(order)["job"])), as_json=how.as_json)


def summary(plan: Iterable[Planned]) -> Iterator[str]:
    """For each destination the number of deliveries, and since when the oldest is owed."""
    found: dict[str, list[Planned]] = {}
    for one in plan:
        found.setdefault(one.destination, []).append(one)
    words = {"open": "waiting", "done": "delivered"}
    for name, parts in sorted(found.items()):
        n, oldest = sum(one.n for one in parts), local_time(min(one.oldest for one in parts))
        gone = sum(one.gone for one in parts)
        states = ", ".join(f"{one.n} {words.get(one.state, one.state)}" for one in parts)
        if {one.state for one in parts} <= {"open", "buried"}:
            numbers = {one.state: one.n for one in parts}
            states = f"{numbers.get('buried', 0)} buried, {numbers.get('open', 0)} waiting"
        without = f"; {gone} without their blob stay as they are" if gone else ""
        what = f"{name}: {n} deliveries" if name else f"{n} instances"
        yield f"{what} ({states}), oldest since {oldest}{without}"


def _tell_plan(plan: list[Planned], total: int, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        print(json.dumps({"dry_run": True, "total": total, "counts": [asdict(one) for one in plan]}))
        return
    for line in summary(plan):
        print(printable(line))
    print(f"{total} would be changed")


def _tell_end(job: Job, *, as_json: bool) -> None:
    from router.spool import JobState

    passed = job.chosen - job.changed
    said = f"{job.changed} of {job.chosen} changed"
    if job.state is JobState.RUNNING:  # new decisions go on as fast as the node decides
        said = f"{job.changed} of {job.total} changed; the node goes on with job {job.id} when it runs"
    elif job.state is not JobState.DONE:
        fail(f"job {job.id} was cancelled", **job.as_json())
    if not passed:
        print(json.dumps(job.as_json()) if as_json else said)
        return
    if not as_json:
        print(said)
    fail(f"{passed} {PASSED}", **job.as_json())


def _until_it_ends(settings: Settings, begin: Callable[[Callable[[QueueOrder], dict[str, Any]]], int]) -> Job:
    """Follow a job until it ends, in the node or here. `begin` gets how to give an order, and returns the job."""
    from router.node.carrying_out import carry_out
    from router.node.client import NoNodeError, give, state
    from router.node.orders import OrderError
    from router.spool import open_spool, read_spool

    folder = settings.spool.path
    try:
        try:
            state(folder, "health")
        except NoNodeError:
            with closing(open_spool(settings.spool)) as spool:
                number = begin(lambda order: carry_out(order, who(), spool, settings.destinations))
                return _follow(spool, number, spool.bulk.step)
        number = begin(lambda order: give(folder, order, who()))
    except OrderError as error:
        fail(str(error), error.exit_code, **error.details())
    with closing(read_spool(settings.spool)) as spool:
        return _follow(spool, number, lambda: LOOK_EVERY)


def _follow(spool: Spool, number: int, step: Callable[[], float | None]) -> Job:
    """Look at a job until it ends; between two looks, `step`, and as many seconds as it says."""
    from router.spool.bulk import LOOK_AGAIN
    from router.spool.bulk_rows import WORKING

    with _progress() as show:
        try:
            while True:
                job = spool.bulk.job(number)
                if job is None:
                    fail(f"no job {number}: see dicom-router queue jobs")
                show(job)
                if job.state not in WORKING:
                    return job
                wait = step()
                if wait is None:
                    return spool.bulk.job(number) or job
                if step == spool.bulk.step and wait >= LOOK_AGAIN and spool.bulk.job(number) == job:
                    return job  # it waits for decisions, which only a node makes; a step that was slow has moved it
                time.sleep(wait)
        except KeyboardInterrupt:
            typer.echo(f"\njob {number} goes on in the background: dicom-router queue jobs", err=True)
            raise typer.Exit(0) from None


@contextmanager
def _progress() -> Iterator[Callable[[Job], None]]:
    """A bar on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None)

        def show(job: Job) -> None:
            undoing = job.state == "undoing"
            total, completed = (job.changed, job.undone) if undoing else (job.total, job.chosen)
            what = f"job {job.id} {'taking back' if undoing else job.act}"
            bar.update(task, description=what, total=total, completed=completed)

        yield show
