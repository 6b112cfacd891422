"""`dicom-router rules apply` and `rollback`: other rules in force, written into routing.yaml by the node."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.options import Config, Json, Yes, confirm, fail, must_be_file, printable, settings_of, spool_of, who
from router.cli.rule_tables import SHORT

if TYPE_CHECKING:
    from router.config import Settings
    from router.node.orders import RuleOrder

File = Annotated[Path, typer.Argument(metavar="FILE", help="A routing.yaml with the rules; the rest does not count.")]
Comment = Annotated[str, typer.Option(help="Why; kept with the rules and shown. No patient's data.")]
Digest = Annotated[str, typer.Argument(help="The rules, by their digest or its beginning. Default: those before.")]


def apply(file: File, comment: Comment, config: Config = None, yes: Yes = False, as_json: Json = False) -> None:
    """Put the rules of a file in force. It shows what differs, and asks.

    The node writes them into its routing.yaml and reads it again. If that fails, the earlier file is put back.
    Try them first with 'rules replay'.
    """
    from router.config.candidate import candidate
    from router.config.rule_text import as_yaml
    from router.node import settings_file
    from router.node.orders import ApplyRules

    must_be_file("FILE", file)
    settings = settings_of(config)
    looked_at, text = settings_file.fingerprint(settings.file), settings_file.read(file).decode("utf-8-sig", "replace")
    wanted = candidate(text, {name: to.enabled for name, to in settings.destinations.items()})
    if wanted.table.digest == settings.rules.digest:
        fail(f"these are the rules of {settings.file} already")
    lines = _difference(as_yaml(json.loads(settings.rules.text)), as_yaml(json.loads(wanted.table.text)))
    confirm("put these rules in force", [*wanted.warnings, *lines], yes=yes, as_json=as_json)
    _tell(_given(settings, ApplyRules(text, comment, looked_at)), as_json=as_json)


def roll_back(
    comment: Comment, digest: Digest = "", config: Config = None, yes: Yes = False, as_json: Json = False
) -> None:
    """Put kept rules in force again: those before the ones in force, or others that 'rules list' names.

    It shows what differs, and asks.
    """
    from router.config.rule_text import as_yaml
    from router.node import settings_file
    from router.node.orders import OrderError, RollBackRules
    from router.node.rule_changes import kept_rules

    settings = settings_of(config)
    try:
        with closing(spool_of(config)) as spool:
            kept = kept_rules(spool.rules.tables(), digest.lower(), settings.rules.digest)
    except OrderError as error:
        fail(str(error), error.exit_code)
    if kept.digest == settings.rules.digest:
        fail(f"these are the rules of {settings.file} already")
    looked_at = settings_file.fingerprint(settings.file)
    lines = _difference(as_yaml(json.loads(settings.rules.text)), as_yaml(kept.written))
    confirm(f"put the rules {kept.digest[:SHORT]} in force again", lines, yes=yes, as_json=as_json)
    _tell(_given(settings, RollBackRules(comment, kept.digest, looked_at)), as_json=as_json)


def _difference(old: str, new: str) -> list[str]:
    import difflib

    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), "in force", "new", lineterm="", n=2))


def _given(settings: Settings, order: RuleOrder) -> dict[str, Any]:
    """What the node answers; without a node it is done here, and in force at the next start."""
    from router.node.client import NoNodeError, give
    from router.node.orders import OrderError
    from router.node.rule_changes import without_node
    from router.spool import open_spool

    try:
        try:
            return give(settings.spool.path, order, who())
        except NoNodeError:
            with closing(open_spool(settings.spool)) as spool:
                return without_node(settings, spool).carry_out(order, who())
    except OrderError as error:
        fail(str(error), error.exit_code, **error.details())


def _tell(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer))
    else:
        print(f"in force: {answer['digest'][:SHORT]}, in place of {answer['before'][:SHORT]}")
        print(printable(f"the earlier file: {answer['kept']}"))
