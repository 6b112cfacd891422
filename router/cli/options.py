"""What several commands share: options, how wrong use is told, and reading a spool."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from router.spool import Spool

T = TypeVar("T")
Config = Annotated[Path, typer.Option("--config", "-c", help="The routing.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="For programs: one JSON object a line.")]
PAGE = 500


def who() -> str:
    """Who does it, for the record of events."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


# -- wrong use ---------------------------------------------------------------------------------------------------------


def wrong(line: str) -> NoReturn:
    """End the command with one line and code 2."""
    typer.echo(line, err=True)
    raise typer.Exit(2)


def must_be_folder(what: str, path: Path) -> None:
    """It is wrong use where a person named a folder that is not there. `what`: the option, or the argument's name."""
    if not path.is_dir():
        wrong(f"{what} {path}: no such folder")


def must_be_file(what: str, path: Path) -> None:
    if not path.is_file():
        wrong(f"{what} {path}: no such file")


def choose(option: str, value: str, allowed: Collection[str]) -> None:
    """It is wrong use where the value is none of those allowed."""
    if value not in allowed:
        wrong(f"{option} {value}: one of {', '.join(allowed)}")


def parsed(parse: Callable[[str], T], text: str, option: str) -> T:
    """The value of an option, by the same parsers as the keys of routing.yaml."""
    from router.config.values import WrongError

    try:
        return parse(text)
    except WrongError as error:
        wrong(f"{option}: {error.message} ({error.fix})")


# -- a spool to look at ------------------------------------------------------------------------------------------------


def spool_of(config: Path) -> Spool:
    """The spool of a configuration, for reading."""
    from router.config import load
    from router.spool import read_spool

    return read_spool(load(config).spool)


def pages(ask: Callable[..., list[dict[str, Any]]], after: int = 0, **choice: Any) -> Iterator[dict[str, Any]]:
    """The rows of a question to the spool, however many there are, from the one after `after` on."""
    while rows := ask(after=after, limit=PAGE, **choice):
        yield from rows
        after = rows[-1]["id"]


def printable(text: object) -> str:
    """For a terminal, to which received characters may be orders."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def local_time(seconds: float) -> str:
    """Unix time as ISO 8601, in this machine's time zone."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
