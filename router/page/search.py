"""The search box: the words of `find` in one line, as an address that holds them, and back.

`class:spine to:pacs state:buried since:2h 1.2.840.113` and `--class spine --to pacs` mean the same as the command's.
A number that is looked for, and the cause of a failure, stand in an address sealed (`spool.sealed`): `find`, `cause`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from router.commands.find_words import filter_of, moment
from router.flow import CLASSES, UNCERTAIN
from router.page.forms import SEALED_NAMES, FormError
from router.spool import SpoolError
from router.spool.find import Filter, Result, State
from router.spool.keyed import Key, key_of
from router.spool.sealed import opened, sealed

WORDS = ("since", "until", "class", "rule", "to", "from", "state", "result")
SEALED = dict(zip(SEALED_NAMES, ("text", "cause"), strict=True))
"""The words of an address that are sealed, and what they are when they are opened."""
LINK = "This link is not of this node. Type what you look for into the box."
IN_ADDRESS = "Type it into the box at the top: in an address it would stay in histories and logs."
STATES = tuple(str(state) for state in State)
RESULTS = tuple(str(one) for one in Result)
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


def seal(folder: Path, text: str) -> str:
    """A text as an address may hold it. Raises FormError, SpoolError."""
    return sealed(_key(folder), text)


def sealed_cause(folder: Path, cause: str) -> str:
    """The cause of a failure as an address may hold it; empty without a key: the page must be there all the same."""
    try:
        return seal(folder, cause)
    except (FormError, SpoolError):
        return ""


def unsealed(folder: Path, query: Mapping[str, str]) -> dict[str, str]:
    """The words of an address or a form with what its sealed ones say. Raises FormError, SpoolError."""
    if "text" in query or "q" in query:
        raise FormError(IN_ADDRESS)
    found = {name: value for name, value in query.items() if name not in SEALED}
    for name, meaning in SEALED.items():
        if word := query.get(name):
            text = opened(_key(folder), word)
            if text is None:
                raise FormError(LINK)
            found[meaning] = text
    return found


def _key(folder: Path) -> Key:
    key = key_of(folder)
    if key is None:
        raise FormError("The node has no key to find by: its disk was full when it started.", 503)
    return key


def line_of(query: Mapping[str, str]) -> str:
    """The opened words of an address in one line, as `parse` reads it."""
    values = {name: query.get(name, "") for name in WORDS}
    words = [f'{name}:"{value}"' if " " in value else f"{name}:{value}" for name, value in values.items() if value]
    return " ".join([*words, *([query["text"]] if query.get("text") else [])])


def filter_from(query: Mapping[str, str]) -> Filter:
    """The filter of opened words. Raises FormError with what may be written."""
    values = {name: query.get(name, "") for name in ("text", *WORDS)}
    if values["class"] not in ("", *CLASSES, UNCERTAIN):
        raise FormError(f"class: use one of {', '.join((*CLASSES, UNCERTAIN))}")
    if values["state"] not in ("", *STATES):
        raise FormError(f"state: use one of {', '.join(STATES)}")
    if values["result"] not in ("", *RESULTS):
        raise FormError(f"result: use one of {', '.join(RESULTS)}")
    since, until = (moment_of(name, values[name]) for name in ("since", "until"))
    found = filter_of(
        values["text"], since, until, values["class"], values["rule"], values["to"], values["from"],
        values["state"], values["result"],
    )  # fmt: skip
    return replace(found, cause=query["cause"]) if "cause" in query else found


def moment_of(name: str, value: str) -> float | None:
    """A Unix time; None for an empty value. Raises FormError with what may be written."""
    try:
        return moment(value, time.time())
    except ValueError as error:
        raise FormError(f"{name}: {error}") from None
