"""The words that are looked for in headers: the program's own, and a site's under `header_words`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import yaml

from router.config import values
from router.config.document import Node, Scalar
from router.config.fields import Context, Skip, fields, several
from router.config.values import WrongError
from router.decide.header_words import PARTS, Vocabulary, spaced
from router.flow import VIEWS

HEADER_WORDS = "header_words"
SHIPPED = Path(__file__).with_name("header_words.yaml")
GROUPS = (*PARTS, *VIEWS)
IGNORED = "ignored"
"""The group of the program's words that mean something else at a site."""
MOST_WORDS, LONGEST_WORD = 500, 64


def vocabulary(where: str, node: Node, context: Context) -> Vocabulary:
    """The shipped words and the site's. A word that the site puts into a group is removed from every other."""
    if isinstance(node, Scalar) and node.null:
        return shipped_vocabulary()
    own = fields(where, node, dict.fromkeys((*GROUPS, IGNORED), several(_word)), context)
    placed: dict[str, str] = {}
    for group, entries in own.items():
        if len(entries) > MOST_WORDS:
            context.wrong(node, f"{where}.{group} has more than {MOST_WORDS} words", "a word with * covers many words")
            raise Skip
        for entry in entries:
            kind = PARTS if group in PARTS else VIEWS if group in VIEWS else ()
            other = placed.setdefault(spaced(entry, "*"), group)
            if other != group and (other in kind or IGNORED in (other, group)):
                context.wrong(node, f"{where}: '{entry}' is in both {other} and {group}", "remove it from one of them")
                raise Skip
    groups = {name: [*entries, *own.get(name, ())] for name, entries in _without(own).items()}
    return Vocabulary(groups)


def _without(own: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """The shipped words without those that the site has placed itself."""
    taken: dict[str, set[str]] = {}
    for group, entries in own.items():
        kinds = (PARTS, VIEWS) if group == IGNORED else ((PARTS,) if group in PARTS else (VIEWS,))
        for name in (name for kind in kinds for name in kind):
            taken.setdefault(name, set()).update(spaced(entry, "*") for entry in entries)
    shipped = _shipped_words()
    return {name: [e for e in shipped[name] if spaced(e, "*") not in taken.get(name, ())] for name in GROUPS}


def _word(written: str) -> str:
    word = values.text(written)
    if len(word) > LONGEST_WORD or not any(character.isalpha() for character in word):
        fix = f"write 1 to {LONGEST_WORD} characters, with at least one letter"
        raise WrongError(f"'{word[:LONGEST_WORD]}' is not a word", fix)
    return word


@lru_cache(maxsize=1)
def _shipped_words() -> dict[str, list[str]]:
    found: dict[str, list[str]] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=1)
def shipped_vocabulary() -> Vocabulary:
    return Vocabulary(_shipped_words())
