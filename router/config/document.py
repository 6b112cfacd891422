"""A YAML file as plain nodes that keep their text and their line.

PyYAML's own constructors would turn `NO` into false, `01` into 1 and `12:30` into 750; here every scalar stays
the text that was written. Anchors, aliases and tags are refused: a configuration needs none, and aliases are how
a small file becomes a huge one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from router.config.problems import ConfigError, Problems

LARGEST_FILE = 1024 * 1024
"""Bytes of a configuration file."""
_DEEPEST = 20
"""Levels of nesting."""
_TOO_DEEP = ("nested too deeply", f"at most {_DEEPEST} levels")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where the installed PyYAML has it: ten times as fast."""
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
    node = _compose(text, environ, problems)
    if node is None:
        problems.check()
        return Table({}, {}, 1)
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


def _compose(text: str, environ: Mapping[str, str], problems: Problems) -> Node | None:
    """The nodes of a text, from one pass over it. None if there are none, or if something is wrong."""
    try:
        return _Composer(text, environ, problems).root()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        if "nesting depth" in (error.problem or ""):  # the parser reads ahead, and has a limit of its own
            problems.add(line, *_TOO_DEEP)
        else:
            fix = _rewrite(text, line, mark.column if mark else 0)
            problems.add(line, f"not YAML: {error.problem or error.context}", fix)
    except (yaml.YAMLError, UnicodeEncodeError):
        problems.add(0, "not YAML: a character that YAML does not allow", "save the file as plain UTF-8 text")
    except _TooDeepError:
        pass
    return None


class _TooDeepError(Exception):
    """Nested beyond the limit. That is already written down."""


class _Composer:
    """YAML events to nodes. What YAML allows and a configuration never needs is refused on the way."""

    def __init__(self, text: str, environ: Mapping[str, str], problems: Problems) -> None:
        self._text, self._environ, self._problems = text, environ, problems
        self._events = yaml.parse(text, Loader=LOADER)
        self._depth = 0

    def root(self) -> Node | None:
        found: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent) and found:
                said = "not YAML: a second document begins here"
                self._problems.add(_line(event), said, "remove the line '---', or write two files")
                return None
            if isinstance(event, yaml.NodeEvent):
                found.append(self._node(event))
        return found[0] if found else None

    def _node(self, event: yaml.NodeEvent) -> Node:
        line = _line(event)
        self._refuse(event, line)
        if isinstance(event, yaml.ScalarEvent):
            before = len(self._problems.found)
            text = _substituted(event.value, line, self._environ, self._problems)
            null = not event.style and text in ("", "~", "null")
            return Scalar(text, line, null=null, unset=len(self._problems.found) > before)
        if not isinstance(event, yaml.CollectionStartEvent):
            return Scalar("", line, unset=True)  # an alias, which is already refused
        if self._depth == _DEEPEST:
            self._problems.add(line, *_TOO_DEEP)
            raise _TooDeepError
        self._depth += 1
        table = isinstance(event, yaml.MappingStartEvent)
        found = self._table(line) if table else Sequence(tuple(map(self._node, self._inside())), line)
        self._depth -= 1
        return found

    def _inside(self) -> Iterator[yaml.NodeEvent]:
        """The events that begin the nodes of a collection."""
        for event in self._events:
            if isinstance(event, yaml.CollectionEndEvent):
                return
            assert isinstance(event, yaml.NodeEvent)
            yield event

    def _table(self, line: int) -> Table:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        inside = self._inside()
        for key in inside:
            at, name = _line(key), key.value if isinstance(key, yaml.ScalarEvent) else None
            if name is None:
                self._problems.add(at, "a key must be text", "write a value that begins with { or [ in quotes")
            elif name in entries:
                said = f"it is already on line {lines[name]}; remove one"
                self._problems.add(at, f"key '{name}' appears twice", said)
            if name is None:
                self._node(key)
            else:
                self._refuse(key, at)
            below = self._node(next(inside))
            if name is None or name in entries:
                continue
            # What a mapping lacks is best looked for at its name, not at its first key.
            entries[name] = replace(below, line=at) if isinstance(below, Table) else below
            lines[name] = at
        return Table(entries, lines, line)

    def _refuse(self, event: yaml.NodeEvent, line: int) -> None:
        sign, what = "", ""
        if isinstance(event, yaml.AliasEvent):
            sign, what = "*", "an alias in YAML, and aliases are"
        elif event.anchor is not None:
            sign, what = "&", "an anchor in YAML, and anchors are"
        elif getattr(event, "tag", None) is not None:
            sign, what = "!", "a tag in YAML, and tags are"
        if what:
            fix = _rewrite(self._text, line, event.start_mark.column if event.start_mark else 0)
            self._problems.add(line, f"a value that begins with {sign} is {what} not used here", fix)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


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


def _substituted(text: str, line: int, environ: Mapping[str, str], problems: Problems) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not _NAME.fullmatch(name):
            problems.add(line, "'${' must be followed by the name of an environment variable and '}'")
        elif name not in environ:
            problems.add(line, f"the environment variable {name} is not set", f"set {name}, or write the value here")
        return environ.get(name, "")

    return _VARIABLE.sub(value, text)
