"""SOP classes and transfer syntaxes as routing.yaml has them: by UID, or by the keyword that PS3.6 gives them."""

from __future__ import annotations

from router.config.problems import nearest
from router.config.values import WrongError
from router.dicom.uids import by_keyword, is_strict_uid

SOP_CLASS, TRANSFER_SYNTAX = "SOP Class", "Transfer Syntax"


def sop_class(value: str) -> str:
    """The UID of a SOP class; private UIDs are taken as they are."""
    return _uid(value, SOP_CLASS)


def transfer_syntax(value: str) -> str:
    """The UID of a transfer syntax that PS3.6 knows."""
    uid = _uid(value, TRANSFER_SYNTAX)
    if uid not in by_keyword(TRANSFER_SYNTAX).values():
        raise WrongError(f"'{value}' is not a known transfer syntax", "write for instance ExplicitVRLittleEndian")
    return uid


def _uid(value: str, kind: str) -> str:
    word = value.strip()
    if is_strict_uid(word):
        return word
    known = by_keyword(kind)
    if word not in known:
        raise WrongError(f"'{value}' is not a {kind} keyword or UID", nearest(word, known))
    return known[word]
