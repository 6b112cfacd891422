"""Fills the templates of pages, statements and cards: files named `….j2`, beside the code that fills them.

What a template of HTML is given is escaped: a text of a received set may be hostile. Markdown is written as it is.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from textwrap import wrap
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

WIDTH = 120
"""Characters in a line of a paragraph."""


def fill(template: Path, **values: Any) -> str:
    """The text of a template with these values. An unknown name in it is an error (jinja2.UndefinedError)."""
    return _environment(template.parent).get_template(template.name).render(**values)


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined,
        autoescape=lambda name: name is not None and name.endswith((".html.j2", ".svg.j2")),  # noqa: S701 - Markdown must stay as it is
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["paragraph"] = _paragraph
    return environment


def _paragraph(text: str) -> str:
    """Words in lines of at most WIDTH, as one paragraph of Markdown."""
    return "\n".join(wrap(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)) + "\n"
