"""What several commands share: options, finding the configuration, how failures are told, and reading a spool."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from router.config import Settings
    from router.spool import DeliveryRow, EventRow, Spool

T = TypeVar("T")
Row = TypeVar("Row", "DeliveryRow", "EventRow")
PAGE = 500
VARIABLE = "DICOM_ROUTER_CONFIG"
PLACES = (Path("routing.yaml"), Path("/etc/dicom-router/routing.yaml"))
"""Where a configuration is looked for when neither an option nor the variable names one."""


class _Output:
    """Whether the command that runs was asked for JSON."""

    as_json = False


def asked_for_json(value: bool) -> bool:
    """The callback of `--json`: any failure of the command is then JSON too."""
    _Output.as_json = value
    return value


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help=f"The routing.yaml. Default: ${VARIABLE}, ./routing.yaml or {PLACES[1]}.",
        show_default=False,
    ),
]  # fmt: skip
ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG]", help="The routing.yaml; the same as --config.", show_default=False)
]
Json = Annotated[
    bool, typer.Option("--json", callback=asked_for_json, help="Print one JSON object a line, also for errors.")
]
ROLES = "DICOM_ROUTER__NODE__ROLES"
"""The variable that overrides node.roles."""
Role = Annotated[
    str | None,
    typer.Option(
        help="What this node does: receive, classify, forward or web; several with commas. Default: everything. "
        "Needs PostgreSQL.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """A command for Typer. Each parameter that is a dataclass stands for its fields: they become options."""
    taken: list[Parameter] = []
    groups: dict[str, type] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, one in signature(command).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and is_dataclass(kind):
            groups[name] = kind
            of = get_type_hints(kind, include_extras=True)
            taken += (_keyword(field.name, of[field.name], field.default) for field in fields(kind))
        else:
            taken.append(_keyword(name, kind, one.default))

    @wraps(command)
    def run(**given: Any) -> None:
        made = {name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
                for name, kind in groups.items()}  # fmt: skip
        command(**given, **made)

    run.__annotations__ = {one.name: one.annotation for one in taken}
    run.__signature__ = Signature(taken)  # type: ignore[attr-defined]
    return run


def _keyword(name: str, hint: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=hint, default=default)


# -- the configuration -------------------------------------------------------------------------------------------------


def config_file(*named: Path | None) -> Path:
    """The configuration that was named, or that of the environment, or the first of `PLACES` that exists."""
    given = list(dict.fromkeys(path for path in named if path is not None))
    if len(given) > 1:
        wrong(f"two configurations are named: {given[0]} and {given[1]}; name one")
    if given:
        return given[0]
    if variable := os.environ.get(VARIABLE):
        return Path(variable)
    place = next((place for place in PLACES if os.path.lexists(place)), None)
    if place is None:
        wrong(
            f"no configuration: there is no {PLACES[0]} in this folder and no {PLACES[1]} "
            f"(name one with --config or {VARIABLE}, or make one with 'dicom-router init')"
        )
    return place


def settings_of(config: Path | None) -> Settings:
    """The settings of the configuration that `config_file` finds. Raises ConfigError."""
    from router.config import load

    return load(config_file(config))


def who() -> str:
    """Who does it, for the record of events."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


# -- failures ----------------------------------------------------------------------------------------------------------


def wrong(line: str) -> NoReturn:
    """End the command with one line and code 2."""
    fail(line, 2)


def fail(line: str, code: int = 1, **more: Any) -> NoReturn:
    """End the command: with a line on standard error, or with one JSON object on standard output under `--json`."""
    tell_failure(line, code, as_json=_Output.as_json, **more)
    raise typer.Exit(code)


def tell_failure(line: str, code: int, *, as_json: bool, **more: Any) -> None:
    """`more` is what a program may want to know beside the line."""
    if as_json:
        print(json.dumps({"error": line, "exit_code": code} | more), flush=True)
    else:
        print(line, file=sys.stderr)


def must_be_folder(what: str, path: Path) -> None:
    """A missing folder is wrong use. `what`: the option, or the argument's name."""
    if not path.is_dir():
        wrong(f"{what} {path}: no such folder")


def must_be_file(what: str, path: Path) -> None:
    if not path.is_file():
        wrong(f"{what} {path}: no such file")


def take_roles(written: str | None) -> None:
    """`--role`, as the variable that overrides `node.roles`, so that a reload keeps it too."""
    if written is not None:
        from router.config.values import roles

        os.environ[ROLES] = ",".join(parsed(roles, written, "--role"))


def choose(option: str, value: str, allowed: Collection[str]) -> None:
    """It is wrong use where the value is none of those allowed."""
    if value not in allowed:
        wrong(f"{option} {value}: use one of {', '.join(allowed)}")


def parsed(parse: Callable[[str], T], text: str, option: str) -> T:
    """The value of an option, by the same parsers as the keys of routing.yaml."""
    from router.config.values import WrongError

    try:
        return parse(text)
    except WrongError as error:
        wrong(f"{option}: {error.message} ({error.fix})")


def on_terminal() -> bool:
    return sys.stdin.isatty()


def confirm(what: str, lines: list[str], *, yes: bool, as_json: bool) -> None:
    """Say what will be taken, and ask. Without a terminal, and under `--json`, only `--yes` lets the command go on."""
    if not as_json:
        for line in lines:
            typer.echo(printable(line), err=True)
    if yes:
        return
    if as_json or not on_terminal():
        taken = "; ".join(lines)
        wrong(f"nothing has changed: --yes is needed to {what}" + (f": {taken}" if as_json else ""))
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        fail("nothing has changed")


# -- a spool to look at ------------------------------------------------------------------------------------------------


def spool_of(config: Path | None) -> Spool:
    """The spool of a configuration, for reading."""
    from router.spool import read_spool

    return read_spool(settings_of(config).spool)


@contextmanager
def open_spool_of(config: Path | None, to: str | None) -> Iterator[tuple[Settings, Spool]]:
    """Settings and spool, until the block ends. An unknown `to` is wrong use."""
    from router.node.carrying_out import known
    from router.spool import read_spool

    settings = settings_of(config)
    with closing(read_spool(settings.spool)) as spool:
        if to is not None:
            choose("--to", to, known(spool, settings.destinations))
        yield settings, spool


def pages(ask: Callable[..., list[Row]], after: int = 0, **choice: Any) -> Iterator[Row]:
    """The rows of a question to the spool, however many there are, from the one after `after` on."""
    while rows := ask(after=after, limit=PAGE, **choice):
        yield from rows
        after = rows[-1].id


def printable(text: object) -> str:
    """For a terminal, which may obey control characters in received text."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def local_time(seconds: float) -> str:
    """Unix time as ISO 8601, in this machine's time zone."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
