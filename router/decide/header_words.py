"""The body part and the view that the header names, in the words of vendors and languages.

The work is limited: a few values of a few elements, each cut at a fixed length, matched in linear time. No value of the
header leaves this module. The answer is one of a few fixed words.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

import re2

from router.flow import VIEWS, Header

CHEST = "chest"
PARTS = ("abdominal", CHEST, "spine", "others")
"""The body parts that a header can name. A child's chest and an adult's have one name; the age tells them apart."""
UNKNOWN, CONTRADICTORY = "unknown", "contradictory"

VIEW_POSITION = 0x00185101
OF_THE_IMAGE = (0x00180015, 0x0008103E, 0x00181030, 0x00181400)
"""BodyPartExamined, SeriesDescription, ProtocolName, AcquisitionDeviceProcessingDescription."""
OF_THE_STUDY = (0x00081030, 0x00321060, 0x00400254)
"""StudyDescription, RequestedProcedureDescription, PerformedProcedureStepDescription."""
PART_TAGS = frozenset({*OF_THE_IMAGE, *OF_THE_STUDY})
VIEW_TAGS = frozenset({VIEW_POSITION, *OF_THE_IMAGE})

MOST_VALUES, MOST_CHARACTERS = 4, 128
_REMEMBERED = 4096
"""The most texts whose meaning is cached. A hospital uses a few hundred."""
_UNDECOMPOSED = str.maketrans({"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ı": "i", "æ": "ae"})


class Words:
    """The entries of some groups (`spine`, `chest`, …), to be found in received text."""

    def __init__(self, groups: Mapping[str, Iterable[str]]) -> None:
        """Raises ValueError for an entry without a letter."""
        self._names = tuple(groups)
        parts = ("(" + "|".join(map(_pattern, entries)) + ")" for entries in groups.values())
        options = re2.Options()
        options.longest_match = True
        options.log_errors = False
        options.max_mem = 64 << 20
        self._pattern = re2.compile("|".join(parts), options)
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._find)

    def __repr__(self) -> str:
        return f"Words({self._names}, {self._pattern.pattern!r})"

    def named(self, values: tuple[str, ...] | None) -> frozenset[str]:
        """The groups that have an entry in the values of an element."""
        found: frozenset[str] = frozenset()
        for value in (values or ())[:MOST_VALUES]:
            found |= self._remembered(value[:MOST_CHARACTERS])
        return found

    def _find(self, text: str) -> frozenset[str]:
        return frozenset(self._names[match.lastindex - 1] for match in self._pattern.finditer(spaced(text)))


class Vocabulary:
    """The words for body parts and those for views."""

    def __init__(self, groups: Mapping[str, Iterable[str]]) -> None:
        self.parts = Words({name: groups[name] for name in PARTS})
        self.views = Words({name: groups[name] for name in VIEWS})
        self._said = repr((self.parts, self.views))

    def __repr__(self) -> str:
        return self._said

    def __eq__(self, other: object) -> bool:
        """Two with the same words are equal. So a reload sees whether anything has changed."""
        return isinstance(other, Vocabulary) and other._said == self._said

    def __hash__(self) -> int:
        return hash(self._said)

    def part(self, header: Header) -> str:
        """One of PARTS. `unknown`: no part is named, or several. `contradictory`: elements exclude each other."""
        of_image = _common(self.parts.named(header.get(tag)) for tag in OF_THE_IMAGE)
        of_study = _common(self.parts.named(header.get(tag)) for tag in OF_THE_STUDY)
        if frozenset() in (of_image, of_study):
            return CONTRADICTORY
        both = _common(found for found in (of_image, of_study) if found is not None)
        return _one(both)

    def view(self, header: Header) -> str:
        """One of VIEWS, `unknown` or `contradictory`. ViewPosition counts first, then the image's descriptions."""
        stated = self.views.named(header.get(VIEW_POSITION))
        if stated:
            return next(iter(stated)) if len(stated) == 1 else CONTRADICTORY
        return _one(_common(self.views.named(header.get(tag)) for tag in OF_THE_IMAGE))


def _common(named: Iterable[frozenset[str]]) -> frozenset[str] | None:
    """The names that all elements have in common; None if no element names anything."""
    found: frozenset[str] | None = None
    for names in named:
        if names:
            found = names if found is None else found & names
    return found


def _one(found: frozenset[str] | None) -> str:
    if found is None or len(found) > 1:
        return UNKNOWN
    return next(iter(found), CONTRADICTORY)


def spaced(text: str, kept: str = "") -> str:
    """Text as plain lower-case words, each with a space on either side. Of other signs only `kept` stays."""
    words: list[str] = []
    before = ""
    decomposed = unicodedata.normalize("NFKD", text.translate(_UNDECOMPOSED))
    for character in decomposed:
        if unicodedata.combining(character):
            continue
        kind = "*" if character == kept else _kind(character)
        if kind == "":
            before = ""
            continue
        begins = kind != before and not (before == "upper" and kind == "lower") and "*" not in (kind, before)
        if not words or before == "" or begins or kind == "ideogram":
            words.append("")
        words[-1] += character.casefold()
        before = kind
    return "".join(f" {word} " for word in words)


def _kind(character: str) -> str:
    if character.isdigit():
        return "digit"
    if not character.isalpha():
        return ""
    if "\u1100" <= character <= "\u11ff" or "\u2e80" <= character <= "\u9fff" or "\uac00" <= character <= "\ufaff":
        return "ideogram"
    return "upper" if character.isupper() else "lower"


def _pattern(entry: str) -> str:
    """An entry as a regular expression over `spaced` text."""
    plain = spaced(entry, kept="*")
    if not any(character.isalnum() for character in plain):
        raise ValueError(entry)
    return "".join("[^ ]*" if character == "*" else re2.escape(character) for character in plain)
