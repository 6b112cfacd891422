"""`dicom-router queue retry` and `discard`: of deliveries by number, or of all that a filter finds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.bulk import How, do_many, summary
from router.cli.control import change
from router.cli.filters import OwedFilters, filter_of
from router.cli.options import PAGE, Yes, confirm, fail, flat, open_spool_of, wrong
from router.cli.queue_show import ID_DIGITS, delivery_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from router.config import Settings
    from router.node.orders import Discard, Retry
    from router.spool import Spool

To = Annotated[str | None, typer.Option("--to", help="Only this destination.")]
IdsOrText = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NUMBER...|TEXT]", help="Deliveries by number, as `queue list` shows them; or a text as find takes it."
    ),
]
DROPS = "discard for good"


@flat
def retry(
    ids: IdsOrText = None,
    to: To = None,
    every: Annotated[bool, typer.Option("--all", help="All buried deliveries.")] = False,
    filters: OwedFilters = OwedFilters(),
    how: How = How(),
) -> None:
    """Try buried deliveries again at once; with --to, also waiting ones. Their `give_up_after` begins again.

    Name them by number, or by the filters of `find`.
    """
    from router.node.orders import Retry

    numbers, text = _numbers_or_text(ids)
    filtered = bool(text or filters)
    _must_choose(numbers, to, filtered=filtered, every=every)
    with open_spool_of(how.config, to) as (settings, spool):
        if numbers:
            _change(settings, Retry, {number: delivery_of(spool, number) for number in numbers}, how)
            return
        # --to takes what waits and what is buried there; without it, only what is buried.
        which = filters.state or ("" if to else "buried")
        do_many(settings, "retry", filter_of(filters, text, to or "", which, filters.cause), how)
        if to is not None and spool.destinations.state(to).paused:
            typer.echo(f"{to} is paused, and nothing is sent to it: dicom-router queue resume {to}", err=True)
        if to is None and not filtered:
            _tell_waiting(spool, "use --to DESTINATION to retry these too")


@flat
def discard(
    ids: IdsOrText = None,
    to: To = None,
    every: Annotated[bool, typer.Option("--all", help="All buried deliveries; with --to, also waiting ones.")] = False,
    waiting: Annotated[bool, typer.Option("--waiting", help="With --to: only waiting deliveries.")] = False,
    filters: OwedFilters = OwedFilters(),
    yes: Yes = False,
    how: How = How(),
) -> None:
    """Discard buried deliveries for good. With --to: --waiting takes waiting ones instead, --all both.

    Name them by number, or by the filters of `find`. It asks first, and records who did it.
    """
    from router.node.orders import Discard

    if waiting and (to is None or every):
        wrong("--waiting needs --to DESTINATION, and excludes --all")
    if filters.state and (waiting or (every and to)):
        wrong("--state excludes --waiting and --all")
    numbers, text = _numbers_or_text(ids)
    filtered = bool(text or filters)
    _must_choose(numbers, to, filtered=filtered, every=every)
    with open_spool_of(how.config, to) as (settings, spool):
        if numbers:
            chosen = {number: delivery_of(spool, number) for number in numbers}
            if not how.dry_run and any(row is not None for row in chosen.values()):
                confirm(DROPS, list(_summary(chosen.values())), yes=yes, as_json=how.as_json)
            _change(settings, Discard, chosen, how)
            return
        both = every and to is not None
        which = filters.state or ("waiting" if waiting else "" if both else "buried")
        wanted = filter_of(filters, text, to or "", which, filters.cause)
        do_many(settings, "discard", wanted, how, destroys=DROPS, yes=yes)
        if which == "buried" and not filtered:
            _tell_waiting(
                spool,
                "use --waiting or --all to discard these" if to else "use --to DESTINATION --all to discard these too",
                to,
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


def _must_choose(ids: list[int], to: str | None, *, filtered: bool, every: bool) -> None:
    if ids and (to is not None or every or filtered):
        wrong("name deliveries either by number, or by --to, --all and the filters of find")
    if not ids and not every and to is None and not filtered:
        wrong("name deliveries by number, or use --to DESTINATION, --all or a filter of find")


def _change(
    settings: Settings, order: type[Retry | Discard], chosen: Mapping[int, dict[str, Any] | None], how: How
) -> None:
    """Make the change. Exit code 1, with the reasons, if not all could be changed."""
    numbers, changed = list(chosen), 0
    if how.dry_run:
        n = len(numbers) - len(list(_hindered(chosen)))
        print(json.dumps({"dry_run": True, "total": n}) if how.as_json else f"{n} would be changed")
        return
    hindered = list(_hindered(chosen))
    for start in range(0, len(numbers), PAGE):
        changed += int(change(settings, order(tuple(numbers[start : start + PAGE])))["changed"])
    if changed < len(numbers):
        reasons = "\n".join(hindered) or "some of them have ended, or are being sent now"
        if not how.as_json:
            print(f"{changed} of {len(numbers)} changed")
        fail(reasons, changed=changed, chosen=len(numbers))
    print(json.dumps({"changed": changed}) if how.as_json else f"{changed} of {len(numbers)} changed")


def _hindered(chosen: Mapping[int, dict[str, Any] | None]) -> Iterator[str]:
    """Why deliveries cannot be changed, a line for each."""
    for number, row in chosen.items():
        if row is None:
            yield f"{number}: no such delivery"
        elif row["state"] not in ("open", "buried"):
            yield f"{number}: {row['state']} already"
        elif row["token"]:
            yield f"{number}: is being sent now"
