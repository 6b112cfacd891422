"""The rules in the text of a routing.yaml: taken out, put in place of others, and written anew.

Only whole lines are changed, so that comments and the order of everything else stay as a person wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from router.config.candidate import PARTS
from router.config.document import LOADER
from router.config.problems import Problems

BLOCK_STYLE = "begin each of header_words, rules and otherwise on a line of its own, at its very beginning"

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def as_yaml(written: Mapping[str, Any]) -> str:
    """Rules as a decision kept them, as a person would write them."""
    said = yaml.dump(dict(written), Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=110) if written else ""
    return str(said)


def rules_in(text: str, name: str) -> str:
    """The lines of a text that say the rules; `name` names the text in a ConfigError, which this raises."""
    lines = text.splitlines(keepends=True)
    return "".join(_ended(line) for begin, end in _places(text, name).values() for line in lines[begin:end])


def with_rules(text: str, rules: str, name: str) -> str:
    """A text with the rules of another, and all else as it is. Raises ConfigError, which names the text `name`."""
    newline = "\r\n" if "\r\n" in text else "\n"
    lines, others = text.splitlines(keepends=True), rules.splitlines()
    old, new = _places(text, name), _places(rules, "the new rules")
    sections = {part: [line + newline for line in others[begin:end]] for part, (begin, end) in new.items()}
    if lines:
        lines[-1] = _ended(lines[-1], newline)
    for part, (begin, end) in reversed(old.items()):
        lines[begin:end] = sections.get(part, [])
    return "".join([*lines, *(line for part, section in sections.items() if part not in old for line in section)])


def _ended(line: str, newline: str = "\n") -> str:
    return line if line.endswith(("\n", "\r")) else line + newline


def _places(text: str, name: str) -> dict[str, tuple[int, int]]:
    """Each part's lines: from that of its key up to the last that says something of it, without what follows."""
    root = yaml.compose(text, Loader=LOADER)
    if not isinstance(root, yaml.MappingNode):
        return {}
    lines = text.splitlines()
    begins = [key.start_mark.line for key, _ in root.value]
    found: dict[str, tuple[int, int]] = {}
    for (key, _), begin, end in zip(root.value, begins, [*begins[1:], len(lines)], strict=True):
        if key.value in PARTS:
            if root.flow_style or key.start_mark.column or begin == end:
                problems = Problems(name)
                problems.add(begin + 1, "the rules cannot be replaced where they are written so", BLOCK_STYLE)
                problems.check()
            found[key.value] = (begin, _last(lines, begin, end))
    return dict(sorted(found.items(), key=lambda one: one[1]))


def _last(lines: list[str], begin: int, end: int) -> int:
    """Empty lines and comments that stand before the next key belong to it."""
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith(("#", "---", "..."))):
        end -= 1
    return end
