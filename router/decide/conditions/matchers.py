"""Tests of one text value: equal, a pattern with `*`, a regular expression."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import re2


class Matcher(Protocol):
    """A test of one text value."""

    def matches(self, value: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Equal:
    """The value is one of these after trimming; case does not count (`words` are casefolded)."""

    words: frozenset[str]

    @classmethod
    def to(cls, words: Iterable[str]) -> Equal:
        return cls(frozenset(word.strip().casefold() for word in words))

    def matches(self, value: str) -> bool:
        return value.strip().casefold() in self.words


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole value matches a google-re2 expression (linear time); case does not count. `re2.error` if it is none."""

    pattern: str

    def __post_init__(self) -> None:
        _compiled(self.pattern)

    def matches(self, value: str) -> bool:
        # A lone surrogate cannot be encoded, and received text may hold one.
        clean = value.strip().encode("utf-8", "replace").decode("utf-8")
        return _compiled(self.pattern).fullmatch(clean) is not None


def glob(text: str) -> Regex:
    """A pattern with `*` (any characters) and `?` (one) as a regular expression."""
    return Regex("".join({"*": "(?s:.*)", "?": "(?s:.)"}.get(c) or re2.escape(c) for c in text))


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re2._Regexp[str]:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return re2.compile(pattern, options)
