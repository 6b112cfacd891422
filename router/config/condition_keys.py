"""`when` of a rule: words and keywords to conditions, every impossible one refused.

Any DICOM keyword is a condition already. One with a meaning of its own: a class in `decide.conditions`, a builder in
`CONDITIONS` here, `keywords._INSTEAD` if it takes the place of a DICOM keyword, `docs/routing.md`, and `decide.world`
where it can make a rule unreachable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import re2

from router.config import values
from router.config.document import Node, Sequence, Table
from router.config.fields import Context, Skip, as_table, attempt_all, scalar, several, unknown
from router.config.hours import hours
from router.config.keywords import element, has_one_value, is_text, nearest_name, private
from router.config.problems import nearest
from router.config.uids import sop_class
from router.config.values import WrongError
from router.decide import conditions as c
from router.decide.age import OLDEST, PER_YEAR
from router.decide.header_words import CONTRADICTORY, PARTS, UNKNOWN, Vocabulary
from router.flow import CLASSES, UNCERTAIN, VIEWS

_COMPARISON = re.compile(r"(<=|>=|==|!=|<|>)? *([0-9]{1,9}(?:\.[0-9]{1,9})?)")
_AGE = re.compile(r"(<=|>=|==|!=|<|>) *([0-9]{1,5}) *([A-Za-z]*)")
_LONGEST_PATTERN = 1000
"""Characters of a pattern."""
_STATES = ("decoded", "none", "undecodable", "unparseable", "failed")

Build = Callable[[str, Node, Context], c.Condition]


def all_of(where: str, node: Node, context: Context) -> c.Condition:
    """A mapping of conditions that must all hold."""
    table = as_table(where, node, context)
    if not table.entries:
        context.wrong(node, f"{where} is empty", "write a condition; for all remaining instances use otherwise")
        raise Skip
    parts = attempt_all(lambda key: _condition(key, table, context), tuple(table.entries))
    return parts[0] if len(parts) == 1 else c.AllOf(tuple(parts))


def _condition(key: str, table: Table, context: Context) -> c.Condition:
    node = table.entries[key]
    if key in CONDITIONS:
        return CONDITIONS[key](key, node, context)
    if key.startswith("probability"):
        return _probability(key, table, context)
    try:
        place = private(key)
        if place is not None:
            return _private(place, node, context)
        tag, keyword = element(key)
    except WrongError as error:
        unknown(key, table, error.message, {}, context, error.fix or nearest_name(key, frozenset(CONDITIONS)))
        raise Skip from None
    return _element(tag, keyword, node, context)


def _element(tag: int, keyword: str, node: Node, context: Context) -> c.Condition:
    if isinstance(node, Table) and set(node.entries) == {"exists"}:
        return c.Exists(tag, keyword, _exists(keyword, node, context))
    if not is_text(tag):
        context.wrong(node, f"{keyword} holds no text to compare", f"write {keyword}: {{exists: true}}")
        raise Skip
    return c.Text(tag, keyword, _matcher(keyword, node, context, values.text), has_one_value(tag))


def _private(place: c.Private, node: Node, context: Context) -> c.Condition:
    if isinstance(node, Table) and set(node.entries) == {"exists"}:
        return c.PrivateExists(place, _exists(place.keyword, node, context))
    return c.PrivateText(place, _matcher(place.keyword, node, context, values.text))


def _exists(keyword: str, node: Table, context: Context) -> bool:
    found: bool = scalar(values.boolean)(f"{keyword}.exists", node.entries["exists"], context)
    return found


def _matcher(where: str, node: Node, context: Context, parse: Callable[[str], str]) -> c.Matcher:
    """Text, a list of texts, or one of `{glob: …}` and `{regex: …}`."""
    if not isinstance(node, Table):
        words = several(partial(_word, parse))(where, node, context)
        return c.Equal.to(words)
    if len(node.entries) != 1:
        context.wrong(
            node, f"{where} must have exactly one of glob, regex and exists", "to combine several conditions, use any"
        )
        raise Skip
    kind = next(iter(node.entries))
    if kind not in ("glob", "regex"):
        unknown(kind, node, f"unknown key '{kind}' in {where}", dict.fromkeys(("glob", "regex", "exists")), context)
        raise Skip
    make: Callable[[str], Any] = _glob if kind == "glob" else _regex
    found: c.Matcher = scalar(make)(f"{where}.{kind}", node.entries[kind], context)
    return found


def _word(parse: Callable[[str], str], written: str) -> str:
    if re.match(r"(<=|>=|==|!=|<|>) *[0-9]", written):
        raise WrongError("is a text element and cannot be compared with a number", "list the values, or use {regex: …}")
    if "*" in written and "\\" not in written:
        raise WrongError(
            f"'{written}' contains a wildcard, but is compared literally", f"write {{glob: '{written}'}} for a pattern"
        )
    return parse(written)


def _glob(written: str) -> c.Regex:
    return c.glob(_pattern(written))


def _regex(written: str) -> c.Regex:
    try:
        return c.Regex(_pattern(written))
    except re2.error as error:
        said = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise WrongError(
            f"is not a google-re2 expression: {said}", "re2 has no back-references or look-around"
        ) from None


def _pattern(written: str) -> str:
    if not written or len(written) > _LONGEST_PATTERN:
        raise WrongError(f"a pattern must have 1 to {_LONGEST_PATTERN} characters", "write a shorter pattern")
    return written


def _names(condition: type[c.ClassIs] | type[c.TopIs] | type[c.ViewIs], allowed: tuple[str, ...]) -> Build:
    def build(where: str, node: Node, context: Context) -> c.Condition:
        return condition(frozenset(several(values.one_of(*allowed))(where, node, context)))

    return build


def _states(where: str, node: Node, context: Context) -> c.Condition:
    return c.PixelsAre(frozenset(several(values.one_of(*_STATES))(where, node, context)))


def _header(condition: type[c.HeaderPart] | type[c.HeaderView], names: tuple[str, ...]) -> Build:
    def build(where: str, node: Node, context: Context) -> c.Condition:
        found = several(values.one_of(*names, CONTRADICTORY, UNKNOWN))(where, node, context)
        return condition(frozenset(found), _vocabulary(context))

    return build


def _header_agrees(where: str, node: Node, context: Context) -> c.Condition:
    return c.HeaderAgrees(scalar(values.boolean)(where, node, context), _vocabulary(context))


def _vocabulary(context: Context) -> Vocabulary:
    if context.vocabulary is None:  # its own mistake is already written down
        raise Skip
    return context.vocabulary


def _inverted(where: str, node: Node, context: Context) -> c.Condition:
    return c.Inverted(scalar(values.boolean)(where, node, context))


def _novel(where: str, node: Node, context: Context) -> c.Condition:
    return c.Novel(scalar(values.boolean)(where, node, context))


def _compared(make: Callable[[str], c.Condition]) -> Build:
    """One comparison, or two joined by `and`."""

    def both(written: str) -> c.Condition:
        parts = tuple(make(part.strip()) for part in re.split(r"\band\b", written))
        return parts[0] if len(parts) == 1 else c.AllOf(parts)

    return scalar(both)


def probability(written: str) -> c.Comparison:
    """A comparison with a number from 0 to 1 that can come out either way."""
    match = _COMPARISON.fullmatch(written)
    if match is None:
        raise WrongError(f"'{written}' is not a comparison with a number", "write for instance '>= 0.90'")
    sign, limit = match[1], float(match[2])
    if limit > 1:
        meant = f"'{sign or '>='} {limit / 100:g}'" if limit <= 100 else "'>= 0.90'"
        raise WrongError(f"'{written}' is impossible: a probability is at most 1", f"write for instance {meant}")
    if sign not in ("<", "<=", ">", ">="):
        raise WrongError(
            f"'{written}' tests for one exact probability, which never occurs",
            f"write '>= {match[2]}' or '< {match[2]}'",
        )
    if (sign, limit) in ((">", 1), ("<", 0), ("<=", 1), (">=", 0)):
        raise WrongError(
            f"'{written}' is always true or always false for a probability", "write a limit between 0 and 1"
        )
    return c.Comparison(sign, limit)


def _frames(written: str) -> c.Condition:
    match = _COMPARISON.fullmatch(written)
    if match is None or "." in match[2]:
        raise WrongError(f"'{written}' is not a comparison with a number of frames", "write for instance '> 1'")
    sign, limit = match[1] or "==", int(match[2])
    if (sign, limit) in (("<", 1), (">=", 1)) or (limit == 0 and sign != "<"):
        raise WrongError(
            f"'{written}' is always true or always false: an image has at least one frame", "write for instance '> 1'"
        )
    return c.Frames(c.Comparison(sign, limit))


def _age(written: str) -> c.Condition:
    match = _AGE.fullmatch(written)
    if match is None:
        raise WrongError(f"'{written}' is not a comparison with an age", "write for instance '< 16y'")
    sign, limit, unit = match[1], int(match[2]), match[3].upper()
    if not unit:
        raise WrongError(f"the age '{written}' has no unit", f"write '{sign} {limit}y' for years; or d, w, m")
    if unit not in PER_YEAR:
        raise WrongError(f"'{match[3]}' is not a unit of age", f"write '{sign} {limit}y' for years; or d, w, m")
    if (limit == 0 and sign in ("<", ">=")) or limit > OLDEST * PER_YEAR[unit]:
        raise WrongError(f"the age '{written}' is impossible", "write an age from 0 to 120 years")
    return c.AgeIs(sign, limit, unit)


def _probability(key: str, table: Table, context: Context) -> c.Condition:
    groups = {f"probability.{name}": frozenset({name}) for name in CLASSES}
    groups["probability.chest"] = frozenset({"adult_chest", "pediatric_chest"})
    if key not in groups:
        unknown(key, table, f"'{key}' is not the probability of a class", groups, context)
        raise Skip
    build = _compared(lambda written: c.Probability(groups[key], probability(written)))
    return build(key, table.entries[key], context)


def _peer(where: str, node: Node, context: Context) -> c.Condition:
    return c.PeerIn(several(values.network)(where, node, context))


def _time(where: str, node: Node, context: Context) -> c.Condition:
    return c.ReceivedAt(several(hours)(where, node, context))


def _calling(where: str, node: Node, context: Context) -> c.Condition:
    return c.FromAe("calling_ae", _matcher(where, node, context, values.ae_title))


def _called(where: str, node: Node, context: Context) -> c.Condition:
    return c.FromAe("called_ae", _matcher(where, node, context, values.ae_title))


def _sop_class(where: str, node: Node, context: Context) -> c.Condition:
    return c.SopClass(_matcher(where, node, context, sop_class))


def _not(where: str, node: Node, context: Context) -> c.Condition:
    return c.Not(all_of(where, node, context))


def _any(where: str, node: Node, context: Context) -> c.Condition:
    if not isinstance(node, Sequence) or not node.items:
        context.wrong(node, "any must be a list of conditions", "write - Modality: CR, one below the other")
        raise Skip
    return c.AnyOf(tuple(attempt_all(lambda item: all_of(where, item, context), node.items)))


def _result_of(where: str, node: Node, context: Context) -> c.Condition:
    def known(written: str) -> str:
        if context.destinations is not None and written not in (c.ANY, *context.destinations):
            raise WrongError(f"unknown destination '{written}'", nearest(written, (*context.destinations, c.ANY)))
        return written

    return c.ResultOf(frozenset(several(known)(where, node, context)))


CONDITIONS: dict[str, Build] = {
    "class": _names(c.ClassIs, (*CLASSES, UNCERTAIN)),
    "top": _names(c.TopIs, CLASSES),
    "confidence": _compared(lambda written: c.Confidence(probability(written))),
    "view": _names(c.ViewIs, (*VIEWS, UNCERTAIN)),
    "inverted": _inverted,
    "part_confidence": _compared(lambda written: c.PartConfidence(probability(written))),
    "header_part": _header(c.HeaderPart, PARTS),
    "header_view": _header(c.HeaderView, VIEWS),
    "header_agrees": _header_agrees,
    "novel": _novel,
    "pixels": _states,
    "frames": _compared(_frames),
    "age": _compared(_age),
    "calling_ae": _calling,
    "called_ae": _called,
    "peer": _peer,
    "time": _time,
    "sop_class": _sop_class,
    "result_of": _result_of,
    "not": _not,
    "any": _any,
}
