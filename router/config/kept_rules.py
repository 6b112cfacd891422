"""Rules as a decision kept them, back to a table that can be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_hexdigest

from router.config.document import Node, Scalar, Sequence, Table
from router.config.fields import Context, Skip
from router.config.header_words import HEADER_WORDS, vocabulary
from router.config.problems import Problems
from router.config.rules import otherwise, rules
from router.decide import RuleTable


def table_of(written: Mapping[str, Any]) -> RuleTable:
    """The table of rules that were written so, with whatever destinations they name.

    Raises ConfigError where this version of the program does not understand them.
    """
    problems = Problems("the rules that decided")
    destinations = dict.fromkeys(_sent_to(written), True)
    context = Context(problems, Path())
    try:
        context = replace(context, vocabulary=vocabulary(HEADER_WORDS, _node(written.get(HEADER_WORDS)), context))
        found = rules(_node(written.get("rules")), destinations, context, check_reach=False)
        last = otherwise(_node(written.get("otherwise")), destinations, context)
    except Skip:
        problems.check()
        raise AssertionError("nothing is skipped without a problem") from None
    problems.check()
    text = json.dumps(written)
    return RuleTable(found, last, xxh3_128_hexdigest(text), text)


def _sent_to(written: Mapping[str, Any]) -> set[str]:
    """The destinations that rules name."""
    tables = [written.get("otherwise"), *(written.get("rules") or ())]
    sent = [one.get("send") for one in tables if isinstance(one, dict)]
    sent = [one.get("one_of") if isinstance(one, dict) else one for one in sent]
    return {str(name) for names in sent for name in (names if isinstance(names, list) else [names]) if name is not None}


def _node(value: Any) -> Node:
    """The inverse of `document.as_written`; it has no lines."""
    if isinstance(value, dict):
        entries = {str(key): _node(below) for key, below in value.items()}
        return Table(entries, dict.fromkeys(entries, 0), 0)
    if isinstance(value, list):
        return Sequence(tuple(map(_node, value)), 0)
    return Scalar("" if value is None else str(value), 0, null=value is None)
