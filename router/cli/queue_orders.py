"""`dicom-router queue pause`, `resume`, `decide-again`, `send` and `end-study`."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.bulk import How, do_many
from router.cli.control import change
from router.cli.filters import FindFilters, filter_of
from router.cli.options import Config, Json, flat, settings_of, spool_of, wrong
from router.cli.queue_show import Which, instance_of

if TYPE_CHECKING:
    from pathlib import Path

    from router.node.orders import QueueOrder
    from router.spool import Spool


def pause(
    destination: str,
    until: Annotated[
        str, typer.Option(help="When the pause ends by itself: a span (2h), a time of day (07:00), or a date and time.")
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


def resume(destination: str, config: Config = None, as_json: Json = False) -> None:
    """Send to a destination again, at once."""
    from router.node.orders import Resume

    _order(config, f"{destination} is sent to again", as_json, Resume(destination))


@flat
def decide_again(
    instance: Annotated[
        str, typer.Argument(metavar="[INSTANCE|TEXT]", help="An instance, or a text as find takes it.")
    ] = "",
    filters: FindFilters = FindFilters(),
    how: How = How(),
) -> None:
    """Order a new decision for an instance, or for all that the filters of `find` match, by the rules in force now.

    What arrives goes before many of them.
    """
    from router.node.orders import DecideAgain

    if not instance and not filters:
        wrong("name an instance, or use a filter of find, for example --since 2h")
    settings = settings_of(how.config)
    if instance and not filters and not how.dry_run:
        with closing(spool_of(how.config)) as spool:
            which = instance_of(spool, instance)
            is_one = spool.views.instance(which) is not None or not _is_found(spool, instance)
        if is_one:
            _order(how.config, "a new decision is ordered", how.as_json, DecideAgain(which))
            return
    do_many(settings, "decide-again", filter_of(filters, instance, filters.to, filters.state, filters.cause), how)


def _is_found(spool: Spool, text: str) -> bool:
    from router.spool.find import Filter

    return bool(spool.views.find(Filter(text=text), limit=1))


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

    with closing(spool_of(config)) as spool:
        which = instance_of(spool, instance)
    told = f"the study goes to {to} too" if study else f"it is owed to {to} too"
    _order(config, told, as_json, SendAlso(which, to, study))


def end_study(
    instance: Which,
    to: Annotated[str, typer.Option("--to", help="The destination that its study follows to.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Let nothing more of an instance's study follow to a destination. What waits for it already is still sent.

    A rule that fires for an instance sends that instance all the same. `send --study` begins it again.
    """
    from router.node.orders import EndStudy

    which = instance_of(spool_of(config), instance)
    _order(config, f"nothing more of the study follows to {to}", as_json, EndStudy(which, to))


def _order(config: Path | None, told: str, as_json: bool, order: QueueOrder) -> None:
    answer = change(settings_of(config), order)
    print(json.dumps(answer) if as_json else told)
