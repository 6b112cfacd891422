"""The search box: the words of `find` in one line, as an address that holds them, and back.

`class:spine to:pacs state:buried since:2h 1.2.840.113` and `--class spine --to pacs` mean the same as the command's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from router.commands.find_words import filter_of, moment
from router.flow import CLASSES, UNCERTAIN
from router.page.forms import FormError
from router.spool.find import Filter, State

WORDS = ("since", "until", "class", "rule", "to", "from", "state")
STATES = tuple(str(state) for state in State)
_WORD = re.compile(r'(?:(?:--)?(\w+)[:=]|--(\w+)\s+)?("[^"]*"|\S+)')


def parse(line: str) -> dict[str, str]:
    """The words in a line; what is no word is the text. Raises FormError."""
    found: dict[str, str] = {}
    texts: list[str] = []
    for name, option, quoted in _WORD.findall(line):
        word, value = name or option, quoted.strip('"')
        if not word:
            texts.append(value)
        elif word in WORDS:
            found[word] = value
        else:
            raise FormError(f"There is no word {word}. Use {', '.join(WORDS)}, or a UID, accession number or id.")
    if len(texts) > 1:
        raise FormError('Name one UID, accession number or id at a time, and write a value with a space as rule:"a b".')
    return ({"text": texts[0]} if texts else {}) | found


def line_of(query: Mapping[str, str]) -> str:
    """The words of an address in one line, as `parse` reads it."""
    values = {name: query.get(name, "") for name in WORDS}
    words = [f'{name}:"{value}"' if " " in value else f"{name}:{value}" for name, value in values.items() if value]
    return " ".join([*words, *([query["text"]] if query.get("text") else [])])


def filter_from(query: Mapping[str, str]) -> Filter:
    """Raises FormError with what may be written."""
    values = {name: query.get(name, "") for name in ("text", *WORDS)}
    if values["class"] not in ("", *CLASSES, UNCERTAIN):
        raise FormError(f"class: use one of {', '.join((*CLASSES, UNCERTAIN))}")
    if values["state"] not in ("", *STATES):
        raise FormError(f"state: use one of {', '.join(STATES)}")
    since, until = (moment_of(name, values[name]) for name in ("since", "until"))
    return filter_of(
        values["text"], since, until, values["class"], values["rule"], values["to"], values["from"],
        values["state"],
    )  # fmt: skip


def moment_of(name: str, value: str) -> float | None:
    """A Unix time; None for an empty value. Raises FormError with what may be written."""
    try:
        return moment(value, time.time())
    except ValueError as error:
        raise FormError(f"{name}: {error}") from None
