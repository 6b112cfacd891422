"""A YAML file as plain nodes that keep their text and their line.

PyYAML's own constructors would turn `NO` into false, `01` into 1 and `12:30` into 750; here every scalar stays
the text that was written. Anchors, aliases and tags are refused: a configuration needs none, and aliases are how
a small file becomes a huge one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from router.config.problems import ConfigError, Problems

LARGEST_FILE = 1024 * 1024
"""Bytes of a configuration file."""
_DEEPEST = 20
"""Levels of nesting."""
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text as written; `null` where nothing (or `~`, `null`) was written without quotes."""

    text: str
    line: int
    null: bool = False
    origin: str = ""
    """The environment variable that the text came from, if the file does not hold it."""
    unset: bool = False
    """A variable in it was not set; that is already reported, and the text means nothing."""


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """A YAML mapping: key to node, and the line of each key."""

    entries: dict[str, Node]
    lines: dict[str, int]
    line: int


Node = Scalar | Sequence | Table


def as_written(node: Node) -> Any:
    """The node as plain lists, mappings and texts."""
    match node:
        case Table():
            return {key: as_written(below) for key, below in node.entries.items()}
        case Sequence():
            return [as_written(below) for below in node.items]
        case Scalar():
            return None if node.null else node.text


class _AsWritten(dict[str, str]):
    def __contains__(self, name: object) -> bool:
        return True

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        return f"${{{name}}}"


AS_WRITTEN: Mapping[str, str] = _AsWritten()
"""In place of the environment: no variable is replaced."""


def read(path: Path, problems: Problems) -> str:
    """The file's text. Raises ConfigError."""
    text = _text(path, problems)
    problems.check()
    return text


def parse(text: str, environ: Mapping[str, str], problems: Problems) -> Table:
    """The top-level mapping of a file's text, `${NAME}` replaced. Raises ConfigError where nothing can be read at
    all."""
    root = _compose(text, problems)
    problems.check()
    if root is None:
        return Table({}, {}, 1)
    node = _plain(root, environ, problems)
    if not isinstance(node, Table):
        problems.add(node.line, "the file must be a mapping", "begin with 'destinations:'")
        raise ConfigError(problems.found)
    return node


def _text(path: Path, problems: Problems) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        fix = "create one with 'dicom-router init'" if isinstance(error, FileNotFoundError) else ""
        problems.add(0, f"cannot be read: {os.strerror(error.errno or 0)}", fix)
        return ""
    if len(data) > LARGEST_FILE:
        problems.add(0, "is larger than 1 MiB", "a usual routing.yaml has a few hundred lines")
        return ""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.add(data.count(b"\n", 0, error.start) + 1, "is not UTF-8", "save the file as UTF-8")
        return ""


def _compose(text: str, problems: Problems) -> yaml.Node | None:
    try:
        _refuse(text, problems)
        return None if problems.found else yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        fix = _rewrite(text, line, mark.column if mark else 0)
        problems.add(line, f"not YAML: {error.problem or error.context}", fix)
    except yaml.YAMLError:
        problems.add(0, "not YAML: a character that YAML does not allow", "save the file as plain UTF-8 text")
    return None


def _refuse(text: str, problems: Problems) -> None:
    """What YAML allows and a configuration never needs, found before anything recursive sees it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column) if mark else (1, 0)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            problems.add(line, "nested too deeply", f"at most {_DEEPEST} levels")
            return
        if isinstance(event, yaml.AliasEvent):
            fix = _rewrite(text, line, column)
            problems.add(line, "a value that begins with * is an alias in YAML, and aliases are not used here", fix)
        elif isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            fix = _rewrite(text, line, column)
            problems.add(line, "a value that begins with & is an anchor in YAML, and anchors are not used here", fix)
        elif getattr(event, "tag", None) is not None:
            fix = _rewrite(text, line, column)
            problems.add(line, "a value that begins with ! is a tag in YAML, and tags are not used here", fix)


_SPECIAL = re.compile(r"""([\w.()-]+|"[^"]*")\s*:\s*([>*&!|%@`][^,}\]#]*)""")
_WITH_COLON = re.compile(r"""\s*(?:- )?([\w.-]+)\s*:\s+([^'"#\s{\[].*: .*)""")


def _rewrite(text: str, line: int, column: int) -> str:
    """The line to write instead, for the mistakes that YAML makes easy: a value that must stand in quotes."""
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())] or written[column : column + 1] == "\t":
        return f"indent with spaces, not tabs: '  {written.strip()}'"
    around = [m for m in _SPECIAL.finditer(written) if m.start(2) <= column <= m.end(2)]
    match = around[0] if around else _WITH_COLON.match(written)
    if match is None:
        return ""
    value = match[2].strip().replace("\\", "\\\\").replace('"', '\\"')
    return f'write {match[1]}: "{value}"'


def _plain(node: yaml.Node, environ: Mapping[str, str], problems: Problems) -> Node:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return _table(node, environ, problems)
    if isinstance(node, yaml.SequenceNode):
        return Sequence(tuple(_plain(item, environ, problems) for item in node.value), line)
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    before = len(problems.found)
    text = _substituted(str(node.value), line, environ, problems)
    return Scalar(text, line, null=plain and text in ("", "~", "null"), unset=len(problems.found) > before)


def _table(node: yaml.MappingNode, environ: Mapping[str, str], problems: Problems) -> Table:
    entries: dict[str, Node] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            problems.add(line, "a key must be text", "write a value that begins with { or [ in quotes")
            continue
        name = str(key.value)
        if name in entries:
            problems.add(line, f"key '{name}' appears twice", f"it is already on line {lines[name]}; remove one")
            continue
        below = _plain(value, environ, problems)
        # What a mapping lacks is best looked for at its name, not at its first key.
        entries[name] = replace(below, line=line) if isinstance(below, Table) else below
        lines[name] = line
    return Table(entries, lines, node.start_mark.line + 1)


def _substituted(text: str, line: int, environ: Mapping[str, str], problems: Problems) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not _NAME.fullmatch(name):
            problems.add(line, "'${' must be followed by the name of an environment variable and '}'")
        elif name not in environ:
            problems.add(line, f"the environment variable {name} is not set", f"set {name}, or write the value here")
        return environ.get(name, "")

    return _VARIABLE.sub(value, text)
