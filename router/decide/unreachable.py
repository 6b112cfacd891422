"""Which rules can never fire: those that contradict themselves, and those whose instances earlier rules take first.

A named rule can certainly never fire. A rule that cannot be settled within the limits counts as one that may. An
instance reaches a rule if each earlier rule is false *or unknown* for it. So this module takes each way in which a rule
can be true, as a `World` of what is then possible. In that world it denies each earlier rule.

`implies` compares only two conditions, and is quick. A rule below one with the weaker condition is a plain mistake.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import product

from router.decide.conditions import (
    ANY,
    AgeIs,
    AllOf,
    AnyOf,
    ClassIs,
    Comparison,
    Condition,
    Confidence,
    Equal,
    Exists,
    Frames,
    HeaderPart,
    HeaderView,
    Not,
    PartConfidence,
    PixelsAre,
    PrivateExists,
    Probability,
    ResultOf,
    Text,
    TopIs,
    ViewIs,
)
from router.decide.table import Rule
from router.decide.world import PER_QUESTION, Budget, Impossible, Key, Spent, World, key_of, listed, words_asked

MOST_CASES = 128
"""The most ways of being true that are followed for one rule. Further alternatives count as true."""
MOST_STEPS = 100_000
"""The most questions that are asked, of all rules together: about a second. It is enough for 300 rules that each ask
about the same number, and for thousands that each name another machine."""
PASSES = 3
"""How often all earlier rules are tried: what one excludes can decide another."""

Case = list[tuple[Condition, bool]]


def never_fire(rules: Sequence[Rule], hides: Sequence[bool]) -> dict[int, tuple[int, ...]]:
    """The places of the rules that can never fire, each with the places of the earlier rules that are the reason.

    Without earlier rules, the rule contradicts itself. `hides` says which rules end the search when they are true; a
    shadow rule or a skipped rule does not. The search stops after MOST_STEPS.
    """
    budget, earlier = Budget(MOST_STEPS), _Earlier(rules)
    found: dict[int, tuple[int, ...]] = {}
    with suppress(Spent):
        for place, rule in enumerate(rules):
            reasons: set[int] = set()
            for case in _cases(rule.when, True):
                shut = _shut_out(case, earlier, budget)
                if shut is None:
                    break
                reasons |= shut
            else:
                found[place] = tuple(sorted(reasons))
            if hides[place]:
                earlier.add(place)
    return found


class _Earlier:
    """The earlier rules. `of` gives the few that a world can decide, even in a long table."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        words: dict[Key, set[str]] = defaultdict(set)
        for rule in rules:
            for key, asked in _words(rule.when):
                words[key] |= asked
        self._telling = Counter({key: len(asked) for key, asked in words.items()})
        self._by_word: dict[tuple[Key, str], list[int]] = defaultdict(list)
        self._by_keys: dict[frozenset[Key], list[int]] = defaultdict(list)

    def add(self, place: int) -> None:
        """Add a rule. If it asks for words, its index is the element with the most words in the table."""
        when = self._rules[place].when
        asked = max(_words(when), key=lambda pair: self._telling[pair[0]], default=None)
        if asked is None:
            self._by_keys[_needed(when)].append(place)
            return
        for word in asked[1]:
            self._by_word[asked[0], word].append(place)

    def of(self, world: World, budget: Budget) -> Iterator[tuple[int, Condition]]:
        known = world.keys
        budget.spend(1 + len(self._by_keys) // PER_QUESTION)
        groups = [group for keys, group in self._by_keys.items() if keys <= known]
        groups += [self._by_word.get(pair, []) for pair in list(world.certain_words())]
        for group in groups:
            for place in group:
                yield place, self._rules[place].when


def _shut_out(case: Case, earlier: _Earlier, budget: Budget) -> set[int] | None:
    """The earlier rules that exclude a case. Empty if it contradicts itself. None if it is possible."""
    world, reasons = World(budget), set[int]()
    try:
        for condition, answer in case:
            world.assume(condition, answer)
    except Impossible:
        return reasons
    for _ in range(PASSES):
        before = world.changes
        for place, when in earlier.of(world, budget):
            changes = world.changes
            try:
                _deny(world, when, True)
            except Impossible:
                return reasons | {place}
            if world.changes > changes:
                reasons.add(place)
        if world.changes == before:
            break
    return None


def _parts(condition: Condition, answer: bool) -> tuple[tuple[Condition, ...], bool] | None:
    """The parts of `all` and `any`, and whether every part must have this answer. None for a single question."""
    if isinstance(condition, AllOf):
        return condition.conditions, answer
    if isinstance(condition, AnyOf):
        return condition.conditions, not answer
    return None


def _cases(condition: Condition, answer: bool) -> list[Case]:
    """The ways in which a condition has this answer. Beyond MOST_CASES it is left out and narrows nothing."""
    if isinstance(condition, Not):
        return _cases(condition.condition, not answer)
    parts = _parts(condition, answer)
    if parts is None:
        return [[(condition, answer)]]
    ways = [_cases(part, answer) for part in parts[0]]
    if not parts[1]:
        alternatives = [case for way in ways for case in way]
        return alternatives if len(alternatives) <= MOST_CASES else [[]]
    found: list[Case] = [[]]
    for way in ways:
        if len(way) == 1:
            for one in found:
                one.extend(way[0])
        elif len(found) * len(way) <= MOST_CASES:
            found = [one + other for one, other in product(found, way)]
    return found


def _deny(world: World, condition: Condition, answer: bool) -> None:
    """Assume that the condition has another answer or is unknown. Raises Impossible if it surely has this answer."""
    if isinstance(condition, Not):
        _deny(world, condition.condition, not answer)
        return
    parts = _parts(condition, answer)
    if parts is None:
        world.deny(condition, answer)
    elif parts[1]:
        unsure = [part for part in parts[0] if not _sure(world, part, answer)]
        if not unsure:
            raise Impossible
        if len(unsure) == 1:
            _deny(world, unsure[0], answer)
    else:
        for part in parts[0]:
            _deny(world, part, answer)


def _sure(world: World, condition: Condition, answer: bool) -> bool:
    if isinstance(condition, Not):
        return _sure(world, condition.condition, not answer)
    parts = _parts(condition, answer)
    if parts is None:
        return world.sure(condition, answer)
    return (all if parts[1] else any)(_sure(world, part, answer) for part in parts[0])


def _words(when: Condition) -> list[tuple[Key, frozenset[str]]]:
    """The words that a rule lists for texts, if the rule cannot fire without them."""
    parts = when.conditions if isinstance(when, AllOf) else (when,)
    asked = [words_asked(part) for part in parts]
    return [(key, matcher.words) for key, matcher in filter(None, asked) if isinstance(matcher, Equal)]


def _needed(condition: Condition, answer: bool = True) -> frozenset[Key]:
    """What must be known of an instance so that the condition surely has this answer."""
    if isinstance(condition, Not):
        return _needed(condition.condition, not answer)
    parts = _parts(condition, answer)
    if parts is not None and parts[0]:
        keys = [_needed(part, answer) for part in parts[0]]
        return frozenset.union(*keys) if parts[1] else frozenset.intersection(*keys)
    if isinstance(condition, AllOf | AnyOf | PixelsAre | ResultOf | Exists | PrivateExists):
        return frozenset()
    return frozenset(key_of(condition))


# -- two conditions alone ----------------------------------------------------------------------------------------------


def implies(stronger: Condition, weaker: Condition, budget: Budget) -> bool:
    """Whether `weaker` is certainly true whenever `stronger` is. False if that is not plain. Raises Spent."""
    budget.spend(1 + (listed(stronger) + listed(weaker)) // PER_QUESTION)
    if isinstance(weaker, AllOf):
        return all(implies(stronger, part, budget) for part in weaker.conditions)
    if isinstance(stronger, AnyOf):
        return all(implies(part, weaker, budget) for part in stronger.conditions)
    if isinstance(stronger, AllOf) and any(implies(part, weaker, budget) for part in stronger.conditions):
        return True
    if isinstance(weaker, AnyOf):
        return any(implies(stronger, part, budget) for part in weaker.conditions)
    return stronger == weaker or _narrower(stronger, weaker)


def _narrower(stronger: Condition, weaker: Condition) -> bool:
    """The same question with fewer answers."""
    match stronger, weaker:
        case (ClassIs(a), ClassIs(b)) | (TopIs(a), TopIs(b)) | (PixelsAre(a), PixelsAre(b)) | (ViewIs(a), ViewIs(b)):
            return a <= b
        case (HeaderPart(a), HeaderPart(b)) | (HeaderView(a), HeaderView(b)):
            return a <= b
        case ResultOf(a), ResultOf(b):
            return a <= b or ANY in b
        case (Confidence(p), Confidence(q)) | (Frames(p), Frames(q)) | (PartConfidence(p), PartConfidence(q)):
            return _tighter(p, q)
        case Probability(), Probability():
            return stronger.classes == weaker.classes and _tighter(stronger.comparison, weaker.comparison)
        case AgeIs(), AgeIs():
            p, q = Comparison(stronger.operator, stronger.limit), Comparison(weaker.operator, weaker.limit)
            return stronger.unit == weaker.unit and _tighter(p, q)
        case Text(tag, _, Equal(a)), Text(other, _, Equal(b)):
            return tag == other and a <= b
    return False


def _tighter(p: Comparison, q: Comparison) -> bool:
    """Whether every number that passes `p` passes `q`."""
    if p.operator == "==":
        return q.holds(p.limit) is True
    if p.operator[0] != q.operator[0] or p.operator[0] not in "<>":
        return False
    inner, outer = (p.limit, q.limit) if p.operator[0] == "<" else (-p.limit, -q.limit)
    return inner < outer or (inner == outer and len(p.operator) <= len(q.operator))
