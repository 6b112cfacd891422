"""Nodes to values: the keys of a mapping, each with its parser, every mistake put on its own line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from router.config.document import Node, Scalar, Sequence, Table
from router.config.problems import Problems, nearest
from router.config.values import WrongError, text
from router.decide.header_words import Vocabulary

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """What every parser may need: where mistakes go, and the folder that paths are relative to."""

    problems: Problems
    folder: Path
    vocabulary: Vocabulary | None = None
    """The words that headers are read by; known before the rules are parsed."""
    destinations: Collection[str] | None = None
    """The names that a condition may use; None: whatever it names was a destination once."""

    def wrong(self, node: Node, message: str, fix: str = "") -> None:
        """Put a mistake where the node stands: on its line, or at its environment variable."""
        if isinstance(node, Scalar) and node.origin:
            self.problems.add_for(node.origin, message, fix)
        else:
            self.problems.add(node.line, message, fix)


class Skip(Exception):  # noqa: N818 - not an error: its mistake is already written down
    """Raised by a parser after it has reported its mistake."""


Parser = Callable[[str, Node, Context], Any]
"""(where it stands, e.g. `node.port`; the node; the context) to a value."""


def scalar(parse: Callable[[str], Any]) -> Parser:
    """A parser of one text."""

    def parser(where: str, node: Node, context: Context) -> Any:
        if isinstance(node, Scalar) and node.unset:
            raise Skip
        if not isinstance(node, Scalar) or node.null:
            written = "nothing" if isinstance(node, Scalar) else "several values"
            context.wrong(node, f"{where} must have one value, but has {written}", "write one value after the colon")
            raise Skip
        try:
            return parse(node.text)
        except WrongError as error:
            context.wrong(node, f"{where}: {error.message}", error.fix)
            raise Skip from None

    return parser


def several(parse: Callable[[str], Any]) -> Parser:
    """A parser of one text or a list of them; a tuple without repetition."""
    one = scalar(parse)

    def parser(where: str, node: Node, context: Context) -> tuple[Any, ...]:
        items = node.items if isinstance(node, Sequence) else (node,)
        if not items:
            context.wrong(node, f"{where} is an empty list", "write a value, or leave the key out")
            raise Skip
        return tuple(dict.fromkeys(attempt_all(lambda item: one(where, item, context), items)))

    return parser


def attempt_all(parse: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Parse every item, so that all mistakes are reported, then raise Skip if there was one."""
    found, skipped = [], False
    for item in items:
        try:
            found.append(parse(item))
        except Skip:
            skipped = True
    if skipped:
        raise Skip
    return found


def fields(where: str, node: Node, known: Mapping[str, Parser], context: Context) -> dict[str, Any]:
    """The keys of a mapping that could be read; unknown ones and mistakes are reported, absent ones left out."""
    if isinstance(node, Scalar) and node.null:
        return {}
    table = as_table(where, node, context)
    found: dict[str, Any] = {}
    for key, value in table.entries.items():
        parser = known.get(key)
        if parser is None:
            unknown(key, table, f"unknown key '{key}' in {where}", known, context)
            continue
        try:
            found[key] = parser(f"{where}.{key}", value, context)
        except Skip:
            continue
    return found


def as_table(where: str, node: Node, context: Context) -> Table:
    if not isinstance(node, Table):
        context.wrong(node, f"{where} must be a mapping", f"write keys and values, indented below '{where}:'")
        raise Skip
    return node


def unknown(
    key: str, table: Table, message: str, known: Mapping[str, Any], context: Context, fix: str | None = None
) -> None:
    """Report a key at its own line (its value may begin below), with the nearest right spelling unless `fix` says."""
    value = table.entries[key]
    while isinstance(value, Table) and value.line == 0 and value.entries:  # made from the environment
        value = next(iter(value.entries.values()))
    place = value if isinstance(value, Scalar) and value.origin else Scalar("", table.lines[key])
    context.wrong(place, message, nearest(key, known) if fix is None else fix)


def path(where: str, node: Node, context: Context) -> Path:
    """A path, absolute or relative to the file."""
    written: str = scalar(text)(where, node, context)
    return context.folder / written


def existing_file(where: str, node: Node, context: Context) -> Path:
    found = path(where, node, context)
    if not found.is_file():
        context.wrong(node, f"{where}: there is no file {found}", "paths are relative to this file's folder")
        raise Skip
    return found


def existing_folder(where: str, node: Node, context: Context) -> Path:
    found = path(where, node, context)
    if not found.is_dir():
        context.wrong(node, f"{where}: there is no folder {found}", "paths are relative to this file's folder")
        raise Skip
    return found
