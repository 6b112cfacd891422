"""The options that say which instances are meant: those of `find`, and of the queue's commands over many at once."""

from __future__ import annotations

import re
import time
from datetime import datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.options import choose, wrong

if TYPE_CHECKING:
    from router.spool.find import Filter

STATES = ("waiting", "done", "buried", "discarded", "skipped")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"([0-9]{1,6})([smhdw])")

Since = Annotated[str, typer.Option(help="Received since then: 2h, 3d, 2026-11-01, 2026-11-01T08:30.")]
Until = Annotated[str, typer.Option(help="Received before then.")]
ClassName = Annotated[str, typer.Option("--class", help="What the pixels show: a class, or uncertain.")]
Rule = Annotated[str, typer.Option(help="The rule that decided.")]
Caller = Annotated[str, typer.Option("--from", help="The caller: AE title or address.")]
StateIs = Annotated[
    str, typer.Option("--state", help="State of a delivery: waiting, done, buried, discarded or skipped.")
]


def filter_of(
    text: str = "", since: str = "", until: str = "", class_name: str = "", rule: str = "", to: str = "",
    caller: str = "", state: str = "",
) -> Filter:  # fmt: skip
    """The filter that the options name. It is wrong use where one of them has no meaning."""
    from router.flow import CLASSES, UNCERTAIN
    from router.spool.find import Filter, State

    if class_name:
        choose("--class", class_name, (*CLASSES, UNCERTAIN))
    if state:
        choose("--state", state, STATES)
    now = time.time()
    begin, end = moment("--since", since, now), moment("--until", until, now)
    if begin is not None and end is not None and begin >= end:
        wrong(f"--since {since} is not before --until {until}")
    is_address = _is_address(caller)
    return Filter(
        text=text, since=begin, until=end, class_name=class_name, rule=rule, to=to,
        calling_ae="" if is_address else caller, peer=caller if is_address else "",
        state=State(state) if state else None,
    )  # fmt: skip


def moment(option: str, text: str, now: float) -> float | None:
    """Unix time of an ISO date or time (this machine's zone where it names none), or of a span before now."""
    if not text:
        return None
    if ago := _AGO.fullmatch(text.strip()):
        return now - int(ago[1]) * UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        wrong(f"{option} {text}: write a span (90s, 30m, 2h, 3d, 1w) or a date (2026-11-01, 2026-11-01T08:30)")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
