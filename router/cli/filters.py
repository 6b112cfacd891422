"""The options that say which instances are meant: those of `find`, and of the queue's commands over many at once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import choose, wrong

if TYPE_CHECKING:
    from router.spool.find import Filter

STATES = ("waiting", "done", "buried", "discarded", "skipped")

Since = Annotated[str, typer.Option(help="Received since then: 2h, 3d, 2026-11-01, 2026-11-01T08:30.")]
Until = Annotated[str, typer.Option(help="Received before then.")]
ClassName = Annotated[str, typer.Option("--class", help="What the pixels show: a class, or uncertain.")]
Rule = Annotated[str, typer.Option(help="The rule that decided.")]
Caller = Annotated[str, typer.Option("--from", help="The caller: AE title or address.")]
Cause = Annotated[str, typer.Option(help="Only what was buried for this reason, word for word: see queue causes.")]
StateIs = Annotated[
    str, typer.Option("--state", help="State of a delivery: waiting, done, buried, discarded or skipped.")
]


def filter_of(
    text: str = "", since: str = "", until: str = "", class_name: str = "", rule: str = "", to: str = "",
    caller: str = "", state: str = "", cause: str = "",
) -> Filter:  # fmt: skip
    """The filter that the options name. It is wrong use where one of them has no meaning."""
    from router.commands import find_words
    from router.flow import CLASSES, UNCERTAIN

    if class_name:
        choose("--class", class_name, (*CLASSES, UNCERTAIN))
    if state:
        choose("--state", state, STATES)
    now = time.time()
    begin, end = moment("--since", since, now), moment("--until", until, now)
    if begin is not None and end is not None and begin >= end:
        wrong(f"--since {since} is not before --until {until}")
    found = find_words.filter_of(text, begin, end, class_name, rule, to, caller, state)
    return replace(found, cause=cause) if cause else found


def moment(option: str, text: str, now: float) -> float | None:
    """Unix time of what an option says; None for an empty text."""
    from router.commands import find_words

    try:
        return find_words.moment(text, now)
    except ValueError as error:
        wrong(f"{option} {text}: {error}")
