"""`DICOM_ROUTER__NODE__PORT=…` in place of a key of the file, for containers."""

from __future__ import annotations

from collections.abc import Mapping

from router.config.document import Node, Scalar, Sequence, Table
from router.config.problems import Problems

PREFIX = "DICOM_ROUTER__"
_DEEPEST = 20
"""Levels of nesting."""


def overridden(root: Table, environ: Mapping[str, str], problems: Problems) -> Table:
    """The file's tables with the environment's values put in; `_` also stands for the `-` of a destination's name."""
    for name in sorted(environ):
        if name.startswith(PREFIX):
            steps = [step.lower() for step in name[len(PREFIX) :].split("__")]
            if len(steps) > _DEEPEST:
                problems.add_for(name, "is nested too deeply", f"at most {_DEEPEST} levels")
            elif all(steps):
                root = _put(root, steps, Scalar(environ[name], 0, origin=name), problems)
            else:
                problems.add_for(name, "has an empty part", f"write for instance {PREFIX}NODE__PORT")
    return root


def _put(table: Table, steps: list[str], value: Scalar, problems: Problems) -> Table:
    key = next((key for key in table.entries if key.lower().replace("-", "_") == steps[0]), steps[0])
    below: Node = table.entries.get(key, Scalar("", table.line, null=True))
    if len(steps) == 1:
        new: Node = value
    elif isinstance(below, Sequence) or (isinstance(below, Scalar) and not below.null):
        problems.add_for(value.origin, f"'{key}' has no keys to override", "override the whole key")
        return table
    else:
        inner = below if isinstance(below, Table) else Table({}, {}, 0)
        new = _put(inner, steps[1:], value, problems)
    return Table({**table.entries, key: new}, {key: 0, **table.lines}, table.line)
