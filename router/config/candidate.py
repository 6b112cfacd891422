"""The rules in the text of a routing.yaml that somebody wants to try, checked against a node's destinations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from router.config.document import AS_WRITTEN, Scalar, Table, as_written, parse
from router.config.fields import Context, Skip
from router.config.header_words import HEADER_WORDS, vocabulary
from router.config.problems import Problems
from router.config.rules import otherwise, rules
from router.decide import RuleTable

MOST = 64 * 1024
"""Characters of such a text."""
PARTS = (HEADER_WORDS, "rules", "otherwise")
NAME = "the rules to try"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Rules to try, where they may send, and what is probably not meant."""

    table: RuleTable
    enabled: frozenset[str]
    warnings: tuple[str, ...]


def candidate(text: str, destinations: Mapping[str, bool]) -> Candidate:
    """The rules, `otherwise` and header words of a text; what else is in it does not count.

    `destinations`: those of the node, name to enabled. The text may name more of them. Raises ConfigError.
    """
    problems = Problems(NAME)
    if len(text) > MOST:
        by_file = "try it with 'dicom-router rules replay FILE', and apply it with 'dicom-router reload'"
        problems.add(0, f"more than {MOST} characters", by_file)
        problems.check()
    root = parse(text, AS_WRITTEN, problems)  # a text that comes from elsewhere must not read the environment
    named = root.entries.get("destinations")
    known = dict(destinations) | (dict.fromkeys(named.entries, True) if isinstance(named, Table) else {})
    for name in ("rules", "otherwise"):
        if name not in root.entries:
            problems.add(root.line, f"{name} is missing", "write the rules as routing.yaml has them, with otherwise")
    problems.check()
    context = Context(problems, Path())
    try:
        words = root.entries.get(HEADER_WORDS, Scalar("", root.line, null=True))
        context = replace(context, vocabulary=vocabulary(HEADER_WORDS, words, context))
        found, last = rules(root.entries["rules"], known, context), otherwise(root.entries["otherwise"], known, context)
    except Skip:
        problems.check()
        raise AssertionError("nothing is skipped without a problem") from None
    problems.check()
    said = json.dumps({name: as_written(root.entries[name]) for name in PARTS if name in root.entries})
    return Candidate(
        RuleTable(found, last, xxh3_128_hexdigest(said), said),
        frozenset(name for name, enabled in known.items() if enabled),
        tuple(f"line {line}: {about}" for line, about in problems.warned()),
    )
