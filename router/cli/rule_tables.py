"""`dicom-router rules list` and `show`: the rules that have decided, and who put them in force."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import Config, Json, fail, local_time, printable, settings_of, spool_of, wrong

if TYPE_CHECKING:
    from router.spool.rule_tables import KeptTable

BY_HAND = "in the file, by hand"
"""In place of a comment, where a person has changed the file and reloaded it."""
SHORT = 12
"""Digits of a digest that tell one table from another in the output for people."""


def list_tables(config: Config = None, as_json: Json = False) -> None:
    """List the rules that have decided, those that decided last first.

    The last time is noted once an hour. `dicom-router events` has each reload to the second.
    """
    settings = settings_of(config)
    with closing(spool_of(config)) as spool:
        tables = spool.rules.tables()
    for one in tables:
        now = one.digest == settings.rules.digest
        if as_json:
            print(json.dumps(_about(one) | {"rules": len(_rules(one)), "in_force": now}))
            continue
        used = f"first {local_time(one.first_used)}, last noted {local_time(one.last_used)}"
        print(f"{one.digest[:SHORT]}  {used}  {len(_rules(one))} rules{'  in force' if now else ''}")
        if one.applied_at:
            print(printable(f"    {_applied(one)}"))
    if not tables:
        fail("no rules have decided yet")


def show(
    digest: Annotated[str, typer.Argument(help="The digest of the rules, or its beginning.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show rules that have decided, as they were written."""
    from router.config.rule_text import as_yaml

    with closing(spool_of(config)) as spool:
        found = spool.rules.tables(digest.lower())
    if not digest or set(digest.lower()) - set("0123456789abcdef") or not found:
        fail(f"no kept rules have the digest {printable(digest)!r}; 'dicom-router rules list' shows them")
    if len(found) > 1:
        wrong(f"{digest} is the beginning of {len(found)} digests; write more of it")
    (one,) = found
    if as_json:
        print(json.dumps(_about(one) | {"written": one.written}))
        return
    print(f"# {one.digest}: decided first {local_time(one.first_used)}, last noted {local_time(one.last_used)}")
    if one.applied_at:
        print(printable(f"# {_applied(one)}"))
    for line in as_yaml(one.written).splitlines():
        print(printable(line))


def hits(config: Config = None, as_json: Json = False) -> None:
    """Show how often each rule in force decided, and when it last did. A rule that never did is named so."""
    from router.decide.decision import OTHERWISE

    names = [*(rule.name for rule in settings_of(config).rules.rules), OTHERWISE]
    with closing(spool_of(config)) as spool:
        found = spool.overview.hits(names)
    if not as_json:
        print(f"{'24 h':>8s} {'7 days':>8s}  rule")
    for name in names:
        one = found[name]
        last = f"last {local_time(one.last_at)}" if one.last_at else "never, in the records that are kept"
        about = {"rule": name, "day": one.day, "week": one.week, "last_at": one.last_at}
        print(json.dumps(about) if as_json else printable(f"{one.day:8d} {one.week:8d}  {name}  ({last})"))


def _about(one: KeptTable) -> dict[str, Any]:
    return {"digest": one.digest, "first_used": one.first_used, "last_used": one.last_used,
            "applied_at": one.applied_at or None, "author": one.author, "comment": one.comment}  # fmt: skip


def _applied(one: KeptTable) -> str:
    return f"applied {local_time(one.applied_at)} by {one.author}: {one.comment or BY_HAND}" if one.applied_at else ""


def _rules(one: KeptTable) -> list[Any]:
    return list(one.written.get("rules") or ())
