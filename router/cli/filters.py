"""The options that say which instances are meant: those of `find`, and of the queue's commands over many at once.

A command takes them as one parameter, whose fields become its options (`options.flat`).
"""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import choose, wrong

if TYPE_CHECKING:
    from router.spool.find import Filter

STATES = ("waiting", "done", "buried", "discarded", "skipped")

OWED = ("waiting", "buried")
"""Those of them in which a destination is still owed the instance."""

Cause = Annotated[str, typer.Option(help="Only what was buried for this reason, word for word: see queue causes.")]

RESULTS = ("missing", "awaited", "came")
ResultIs = Annotated[str, typer.Option("--result", help="The result of an AI: missing, awaited or came.")]


@dataclass(frozen=True)
class Filters:
    """What all of these commands can ask for."""

    since: Annotated[str, typer.Option(help="Received since then: 2h, 3d, 2026-11-01, 2026-11-01T08:30.")] = ""
    until: Annotated[str, typer.Option(help="Received before then.")] = ""
    class_name: Annotated[str, typer.Option("--class", help="What the pixels show: a class, or uncertain.")] = ""
    rule: Annotated[str, typer.Option(help="The rule that decided.")] = ""
    caller: Annotated[str, typer.Option("--from", help="The caller: AE title or address.")] = ""

    def __bool__(self) -> bool:
        """Whether any of them is given."""
        return any(astuple(self))


@dataclass(frozen=True)
class FindFilters(Filters):
    to: Annotated[str, typer.Option(help="A destination of the decision.")] = ""
    state: Annotated[str, typer.Option(help="State of a delivery: waiting, done, buried, discarded or skipped.")] = ""
    cause: Cause = ""
    result: ResultIs = ""


@dataclass(frozen=True)
class OwedFilters(Filters):
    """For commands on deliveries that have not ended."""

    state: Annotated[str, typer.Option(help="Only what is waiting, or only what is buried.")] = ""
    cause: Cause = ""


@dataclass(frozen=True)
class MoveFilters(OwedFilters):
    """The `--from` of a move is a destination."""

    caller: Annotated[str, typer.Option(help="The caller: AE title or address.")] = ""


def filter_of(
    filters: Filters, text: str = "", to: str = "", state: str = "", cause: str = "", result: str = ""
) -> Filter:
    """The filter that the options name. It is wrong use where one of them has no meaning."""
    from router.commands import find_words
    from router.flow import CLASSES, UNCERTAIN

    if filters.class_name:
        choose("--class", filters.class_name, (*CLASSES, UNCERTAIN))
    if state:
        choose("--state", state, OWED if isinstance(filters, OwedFilters) else STATES)
    if result:
        choose("--result", result, RESULTS)
    now = time.time()
    begin, end = moment("--since", filters.since, now), moment("--until", filters.until, now)
    if begin is not None and end is not None and begin >= end:
        wrong(f"--since {filters.since} is not before --until {filters.until}")
    found = find_words.filter_of(text, begin, end, filters.class_name, filters.rule, to, filters.caller, state, result)
    return replace(found, cause=cause) if cause else found


def moment(option: str, text: str, now: float) -> float | None:
    """Unix time of what an option says; None for an empty text."""
    from router.commands import find_words

    try:
        return find_words.moment(text, now)
    except ValueError as error:
        wrong(f"{option} {text}: {error}")
