"""One instance, one decision: a pure function of prediction, header and rules."""

from __future__ import annotations

from router.decide.conditions import AllOf, Condition, Facts, Kept
from router.decide.table import Rule, RuleTable
from router.flow import Decision, Instance, Seen

OTHERWISE = "otherwise"
_LONGEST_REASON = 1000


def decide(
    table: RuleTable, instance: Instance, seen: Seen, *, enabled: frozenset[str], dry_run: bool = False,
    kept: Kept | None = None,
) -> Decision:  # fmt: skip
    """Where `instance` must go. Total and deterministic; never raises.

    A rule is skipped if all its destinations are disabled. Disabled destinations of the rule that fires are left out.
    `otherwise` keeps its destinations if all of them are disabled: the instance then waits visibly and does not
    vanish. Shadow rules are recorded until a rule fires, even if their destinations are disabled. With `kept`, the
    header of `seen` is what an earlier decision kept of it.
    """
    facts = Facts(instance, seen, kept)
    shadow: list[tuple[str, tuple[str, ...]]] = []
    missed: list[str] = []
    for rule in table.rules:
        answer = rule.when.holds(facts)
        if answer is None:
            missed.append(f"'{rule.name}' unknown ({_unknown(rule.when, facts)})")
        if answer is not True:
            continue
        if rule.shadow:
            shadow.append((rule.name, rule.send))
            continue
        send = tuple(name for name in rule.send if name in enabled)
        if not send and not rule.discard:
            missed.append(f"'{rule.name}' passed over (every destination disabled)")
            continue
        if dry_run:
            return _by_otherwise(table, enabled, f"dry run: would have been {_fired(rule, send)}", shadow)
        return Decision(
            rule.name, send, _short(_fired(rule, send)), rule.discard, tuple(shadow), table.digest, study=rule.study,
            one_of=rule.one_of, urgent=rule.urgent,
        )  # fmt: skip
    outcome = "; ".join(("no rule fired", *missed))
    prefix = "dry run: would have been otherwise: " if dry_run else "otherwise: "
    return _by_otherwise(table, enabled, prefix + outcome, shadow)


def _by_otherwise(
    table: RuleTable, enabled: frozenset[str], reason: str, shadow: list[tuple[str, tuple[str, ...]]]
) -> Decision:
    send = tuple(name for name in table.otherwise.send if name in enabled) or table.otherwise.send
    one_of = table.otherwise.one_of
    return Decision(OTHERWISE, send, _short(reason), shadow=tuple(shadow), table=table.digest, one_of=one_of)


def _fired(rule: Rule, send: tuple[str, ...]) -> str:
    """The reason of a decision: the rule that fired, and what its condition said."""
    said = f"rule '{rule.name}' ({rule.when.subject}): "
    if rule.discard:
        return f"{said}discarded: {rule.reason}"
    disabled = [name for name in rule.send if name not in send]
    said += "sent to one of " if rule.one_of else "sent to "
    return said + ", ".join(send) + (f"; disabled: {', '.join(disabled)}" if disabled else "")


def _unknown(when: Condition, facts: Facts) -> str:
    parts = when.conditions if isinstance(when, AllOf) else (when,)
    return ", ".join(part.subject for part in parts if part.holds(facts) is None)


def places(decision: Decision) -> tuple[str, ...]:
    """Where a decision sends, before one of several destinations is chosen."""
    return (f"one of {', '.join(decision.destinations)}",) if decision.one_of else decision.destinations


def _short(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 1] + "…"
