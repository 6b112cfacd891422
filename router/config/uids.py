"""SOP classes and transfer syntaxes by UID or by the keyword that PS3.6 gives them."""

from __future__ import annotations

import re
from functools import cache

from pydicom._uid_dict import UID_dictionary

from router.config.problems import nearest
from router.config.values import WrongError

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")


@cache
def _keywords(kind: str) -> dict[str, str]:
    return {entry[4]: uid for uid, entry in UID_dictionary.items() if entry[1] == kind and entry[4]}


def sop_class(value: str) -> str:
    """The UID of a SOP class; private UIDs are taken as they are."""
    return _uid(value, "SOP Class")


def transfer_syntax(value: str) -> str:
    """The UID of a transfer syntax that PS3.6 knows."""
    uid = _uid(value, "Transfer Syntax")
    if uid not in _keywords("Transfer Syntax").values():
        raise WrongError(f"'{value}' is not a known transfer syntax", "write for instance ExplicitVRLittleEndian")
    return uid


def _uid(value: str, kind: str) -> str:
    word = value.strip()
    if len(word) <= 64 and _UID.fullmatch(word):
        return word
    known = _keywords(kind)
    if word not in known:
        raise WrongError(f"'{value}' is not a {kind} keyword or UID", nearest(word, known))
    return known[word]
