"""What other rules would have done with what came: the same decision again, from what the first one kept. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from router.decide.conditions import AgeIs, AllOf, AnyOf, Condition, Facts, Kept, Not, parts
from router.decide.decision import decide, places
from router.decide.header_facts import Asked, HeaderFacts, asked
from router.decide.studies import keeps_together
from router.decide.table import RuleTable
from router.flow import Decision, Instance, Seen

EXAMPLES = 5
"""Instances that a change names, the latest ones."""
DRY_RUN = "dry run: "


@dataclass(frozen=True, slots=True)
class Came:
    """An instance that came, as its decision kept it.

    `seen.header` has the kept values. `facts` is None for a decision that kept nothing of the header: an older version
    made it. `asked`: what the rules that decided asked of the header.
    """

    instance: Instance
    seen: Seen
    decided: Decision
    facts: HeaderFacts | None
    asked: Asked
    study: str = ""
    """A hash of its study; empty if that is not known."""
    follows: tuple[str, ...] = ()
    """Where it followed others of its study, by a rule with `scope: study`."""


@dataclass(frozen=True, slots=True)
class Would:
    """What rules would decide. `unsure`: conditions that could change it, and whose values were not kept."""

    decision: Decision
    unsure: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hits:
    """How many instances a rule decided, and how many it would decide; or, as a shadow rule, would have named."""

    rule: str
    before: int
    after: int
    shadow: int


@dataclass(frozen=True, slots=True)
class Change:
    """Instances that would be decided in another way. `examples` are ids, the latest first, of at most a number."""

    from_rule: str
    to_rule: str
    from_destinations: tuple[str, ...]
    to_destinations: tuple[str, ...]
    count: int
    examples: tuple[str, ...]

    @property
    def moves(self) -> bool:
        """Whether other destinations get the instances; else only the name of the rule differs."""
        return set(self.from_destinations) != set(self.to_destinations)


@dataclass(frozen=True, slots=True)
class Replay:
    """What rules would have done. `same`, `moved`, `renamed`, `unsure` and `without_facts` add up to `instances`."""

    instances: int
    same: int
    moved: int
    """Other destinations would get them."""
    renamed: int
    """Another rule, and the same destinations."""
    unsure: int
    """A rule asks for something that was not kept, and the answer could change the decision."""
    without_facts: int
    """Decided before facts were kept; not replayed."""
    in_dry_run: int
    """Decided while `node.dry_run` was on, so by `otherwise`; they are among the others."""
    not_kept: tuple[tuple[str, int], ...]
    """The conditions whose values were not kept, each with the number of instances for which that could matter."""
    rules: tuple[Hits, ...]
    """In the order of the table, then `otherwise`, then those that are no longer there. Without the unsure."""
    changes: tuple[Change, ...]
    """The most frequent first."""
    latest: str
    earliest: str
    """Ids of the first and the last instance that was looked at; empty if there was none."""


class Replayer:
    """Rules that are tried on one instance after the other."""

    def __init__(self, table: RuleTable, enabled: frozenset[str]) -> None:
        self._table, self._enabled = table, enabled
        self._asks = asked(table)
        self._limits = tuple(sorted(self._asks.ages))

    def would(self, came: Came) -> Would | None:
        """What the rules would decide of an instance; None if nothing was kept of its header."""
        if came.facts is None:
            return None
        missing = came.facts.missing(self._asks.tags, came.asked)
        kept = Kept(came.facts.age, missing)
        decision = decide(self._table, came.instance, came.seen, enabled=self._enabled, kept=kept)
        if not missing and not self._cut(kept):
            return Would(decision)
        return Would(decision, frozenset(self._unsure(Facts(came.instance, came.seen, kept), decision)))

    def _cut(self, kept: Kept) -> bool:
        """Whether a limit of the rules lies within the span that was kept of the age."""
        return kept.age is not None and any(kept.age.least < limit < kept.age.below for limit in self._limits)

    def _unsure(self, facts: Facts, decision: Decision) -> Iterator[str]:
        for rule in self._table.rules:
            if rule.when.holds(facts) is None and True in _possible(rule.when, facts):
                yield from (part.subject for part in parts(rule.when) if _depends(part, facts))
            if rule.name == decision.rule:
                return


def _possible(condition: Condition, facts: Facts) -> set[bool | None]:
    """The answers that a condition could have had, if what was not kept is taken for anything."""
    if isinstance(condition, Not):
        return {None if one is None else not one for one in _possible(condition.condition, facts)}
    if not isinstance(condition, AllOf | AnyOf):
        return {True, False, None} if _depends(condition, facts) else {condition.holds(facts)}
    settles = isinstance(condition, AnyOf)  # the answer of one part that settles the whole
    below = [_possible(one, facts) for one in condition.conditions]
    found: set[bool | None] = set()
    if any(settles in one for one in below):
        found.add(settles)
    if all((not settles) in one for one in below):
        found.add(not settles)
    if any(None in one for one in below) and all(one - {settles} for one in below):
        found.add(None)
    return found


def _depends(part: Condition, facts: Facts) -> bool:
    """Whether the answer of a condition is unknown because something was not kept."""
    if part.holds(facts) is not None:
        return False
    if isinstance(part, AgeIs):
        age = facts.age
        return age is not None and any(age.least < limit < age.below for limit in part.changes_at)
    return facts.is_missing(part.tags)


_Pair = tuple[str, str, tuple[str, ...], tuple[str, ...]]
"""The rule and the destinations before and after: the fields of a `Change`."""


class _Changes:
    """Counts how decisions differ. A change names at most a number of instances."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self.counts: Counter[str] = Counter()
        self._many: Counter[_Pair] = Counter()
        self._named: dict[_Pair, list[str]] = {}

    def add(self, pair: _Pair, ids: list[str], count: int) -> None:
        before, after, had, gets = pair
        moves = set(had) != set(gets)
        self.counts["moved" if moves else "renamed" if before != after else "same"] += count
        if moves or before != after:
            self._many[pair] += count
            named = self._named.setdefault(pair, [])
            named += ids
            named.sort(reverse=True)  # ids are in the order of arrival
            del named[self._examples :]

    def found(self) -> tuple[Change, ...]:
        """The most frequent first."""
        return tuple(Change(*pair, count, tuple(self._named[pair])) for pair, count in self._many.most_common())


class _Studies:
    """What is known of each study until all of it was looked at. Memory grows with studies, not with instances."""

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._leads: dict[str, dict[str, int]] = {}
        self._members: dict[str, dict[tuple[_Pair, bool], list[str]]] = {}
        self._many: Counter[tuple[str, _Pair, bool]] = Counter()

    def add(self, study: str, pair: _Pair, decision: Decision, instance_id: str) -> None:
        if decision.study:
            self._leads.setdefault(study, {}).update(dict.fromkeys(pair[3], 0))
        named = self._members.setdefault(study, {}).setdefault((pair, decision.discard), [])
        if len(named) < self._examples:
            named.append(instance_id)
        self._many[study, pair, decision.discard] += 1

    def close(self, into: _Changes) -> None:
        """Add each instance with the destinations that it follows to."""
        for study, members in self._members.items():
            for (pair, discards), named in members.items():
                before, after, had, gets = pair
                more = [] if discards else [name for name in self._leads.get(study, {}) if name not in gets]
                into.add((before, after, had, (*gets, *sorted(more))), named, self._many[study, pair, discards])


def replay(table: RuleTable, came: Iterable[Came], enabled: frozenset[str], examples: int = EXAMPLES) -> Replay:
    """Try rules on what came, the latest first. Memory grows with the number of different changes; if the rules keep
    studies together, with the number of studies too.

    A change names at most `examples` instances.
    """
    replayer = Replayer(table, enabled)
    changes = _Changes(examples)
    studies = _Studies(examples) if keeps_together(table) else None
    counts = changes.counts
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    shadow: Counter[str] = Counter()
    unkept: Counter[str] = Counter()
    latest = earliest = ""
    for one in came:
        latest, earliest = latest or one.instance.id, one.instance.id
        counts["instances"] += 1
        would = replayer.would(one)
        if would is None:
            counts["without_facts"] += 1
            continue
        was, now = one.decided, would.decision
        counts["in_dry_run"] += was.reason.startswith(DRY_RUN)
        if would.unsure:
            counts["unsure"] += 1
            unkept.update(would.unsure)
            continue
        before[was.rule] += 1
        after[now.rule] += 1
        shadow.update(name for name, _ in now.shadow)
        stays = now.one_of and len(was.destinations) == 1 and was.destinations[0] in now.destinations
        gets = was.destinations if stays else places(now)
        pair = (was.rule, now.rule, (*was.destinations, *one.follows), gets)
        if studies is not None and one.study:
            studies.add(one.study, pair, now, one.instance.id)
        else:
            changes.add(pair, [one.instance.id], 1)
    if studies is not None:
        studies.close(changes)
    names = dict.fromkeys((*(rule.name for rule in table.rules), "otherwise", *sorted(before)))
    return Replay(
        **{name: counts[name] for name in
           ("instances", "same", "moved", "renamed", "unsure", "without_facts", "in_dry_run")},
        not_kept=tuple(unkept.most_common()),
        rules=tuple(Hits(name, before[name], after[name], shadow[name]) for name in names),
        changes=changes.found(), latest=latest, earliest=earliest,
    )  # fmt: skip
