"""`dicom-router init`: a commented routing.yaml for this site, from the AIs that it has."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from router.cli.options import wrong

if TYPE_CHECKING:
    from router.commands.new_config import Endpoint

T = TypeVar("T")


def command(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("routing.yaml"),
    ai: Annotated[
        list[str] | None,
        typer.Option("--ai", metavar="CLASS=AE@HOST:PORT", help="A class and the address of its AI. Can be repeated."),
    ] = None,
    catch_all: Annotated[
        str | None,
        typer.Option("--catch-all", metavar="AE@HOST:PORT", help="The node where people look at everything else."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented routing.yaml. Without options it asks questions; without a terminal it writes the example."""
    from router.config import shipped

    if path.exists() and not force:
        wrong(f"{path} exists; --force overwrites it")
    example = shipped().read_text(encoding="utf-8")
    if ai or catch_all:
        text = _from_options(example, ai or [], catch_all)
    elif _on_terminal():
        text = _from_answers(example)
    else:
        text = example
    _write(path, text)
    typer.echo(f"{path} is written. Check it with: dicom-router check {path}")


def _on_terminal() -> bool:
    return sys.stdin.isatty()


def _from_options(example: str, ais: list[str], catch_all: str | None) -> str:
    from router.commands.new_config import ai, endpoint, generated

    mistakes: list[str] = []
    named = [_tried(ai, text, "--ai", mistakes) for text in ais]
    chosen = dict(one for one in named if one is not None)
    if not mistakes and len(chosen) != len(named):
        mistakes.append("--ai names a class twice; docs/routing.md shows how to send to several")
    rest = None
    if catch_all is None:
        mistakes.append("--catch-all AE@HOST:PORT is missing: images without an AI must go to people")
    else:
        rest = _tried(endpoint, catch_all, "--catch-all", mistakes)
    if rest is None or mistakes:
        wrong("\n".join(mistakes))
    return generated(example, chosen, rest)


def _tried(parse: Callable[[str], T], text: str, option: str, mistakes: list[str]) -> T | None:
    """The value of an option; or None, and one mistake more, so that a person sees all of them at once."""
    from router.config.values import WrongError

    try:
        return parse(text)
    except WrongError as error:
        mistakes.append(f"{option}: {error.message} ({error.fix})")
        return None


def _from_answers(example: str) -> str:
    from router.commands.new_config import AI_CLASSES, generated

    typer.echo("For each class, write the address of its AI as AE@HOST:PORT, for instance CHEST_AI@10.1.0.21:104.")
    typer.echo("Press return if the class has no AI.")
    answers = {name: _asked(f"AI for {name.replace('_', ' ')}", optional=True) for name in AI_CLASSES}
    rest = _asked("Catch-all, where people look at everything else", optional=False)
    if rest is None:
        raise typer.Abort
    return generated(example, {name: to for name, to in answers.items() if to is not None}, rest)


def _asked(question: str, *, optional: bool) -> Endpoint | None:
    """Ask until the answer is right; an empty one means none where that is allowed."""
    from router.commands.new_config import endpoint
    from router.config.values import WrongError

    while True:
        answer = typer.prompt(question, default="", show_default=False).strip()
        if not answer and optional:
            return None
        try:
            return endpoint(answer)
        except WrongError as error:
            typer.echo(f"{error.message} ({error.fix})", err=True)


def _write(path: Path, text: str) -> None:
    """Check the text as it will stand, then put it in place whole; nothing broken is ever left at `path`."""
    from router.config import ConfigError, load

    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    except FileNotFoundError:
        wrong(f"{path} cannot be written: make its folder first: mkdir -p {shlex.quote(str(path.parent))}")
    except OSError as error:
        wrong(f"{path} cannot be written: {os.strerror(error.errno or 0)}")
    draft = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        load(draft, {})
        draft.chmod(0o644)
        draft.replace(path)
    except ConfigError as error:
        wrong("; ".join(f"{problem.message} ({problem.fix})" for problem in error.problems))
    except OSError as error:
        wrong(f"{path} cannot be written: {os.strerror(error.errno or 0)}")
    finally:
        draft.unlink(missing_ok=True)
