"""Why an instance, or a file on disk, goes where it goes: the rules with their answers, and the model's thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from router.commands.classify_files import as_came, look_at
from router.config import Settings
from router.config.kept_rules import table_of
from router.decide import RuleTable
from router.decide.conditions import Kept
from router.decide.explain import Explanation, explain
from router.decide.header_facts import asked
from router.decide.table import named_destinations
from router.errors import RouterError
from router.flow import Caller, Decision, Seen
from router.inference import Inference
from router.model.doubt import Limits, limits_of
from router.model.files import shipped_model
from router.spool import Spool


class ExplainError(RouterError):
    """There is nothing to explain; one line with the fix."""


@dataclass(frozen=True, slots=True)
class Explained:
    """An instance or a file, with the answer of each rule.

    `of` is the id, or the file. `table` is the digest of the rules that were asked, and `which` says in words
    which ones they are. `decided` is the decision of record, if there is one. `limits` are those of the model that
    answered, if its card is still there. `facts_kept`: whether the decision kept what the header said.
    """

    of: str
    table: str
    which: str
    seen: Seen
    explanation: Explanation
    decided: Decision | None
    limits: Limits | None
    facts_kept: bool = True
    follows: tuple[str, ...] = ()
    """Where the instance follows others of its study, beside the destinations of its own decision."""


def explain_instance(spool: Spool, instance_id: str, settings: Settings, candidate: Settings | None) -> Explained:
    """By the rules that decided it, if they are kept; else by the present ones; or by those of a candidate.

    Raises ExplainError, SpoolError, ConfigError.
    """
    came = spool.rules.came_one(instance_id)
    if came is None:
        raise ExplainError(
            f"instance {instance_id} has no decision yet; 'dicom-router queue show' says what it waits for"
        )
    table, enabled, which = _rules_for(spool, came.decided.table, settings, candidate)
    wanted = asked(table).tags
    kept = Kept(None, wanted) if came.facts is None else Kept(came.facts.age, came.facts.missing(wanted, came.asked))
    explanation = explain(table, came.instance, came.seen, enabled=enabled, kept=kept)
    limits = _limits(came.seen, settings)
    return Explained(
        instance_id, table.digest, which, came.seen, explanation, came.decided, limits, came.facts is not None,
        came.follows,
    )  # fmt: skip


def _rules_for(
    spool: Spool, digest: str, settings: Settings, candidate: Settings | None
) -> tuple[RuleTable, frozenset[str], str]:
    """The rules to ask, their enabled destinations, and which they are in words."""
    if candidate is not None:
        return candidate.rules, candidate.enabled, f"the rules of {candidate.file}"
    if digest and digest != settings.rules.digest:
        if found := [one for one in spool.rules.tables(digest) if one.digest == digest]:
            table = table_of(found[0].written)
            disabled = settings.destinations.keys() - settings.enabled
            return table, named_destinations(table) - disabled, "the rules that decided; others are in force now"
        return settings.rules, settings.enabled, "the present rules; those that decided are not kept any more"
    which = "the rules that decided; they are still in force" if digest else "the present rules; it is not known which"
    return settings.rules, settings.enabled, which if digest else f"{which} decided"


def explain_file(path: Path, inference: Inference, settings: Settings, caller: Caller) -> Explained:
    """By the rules of the settings, as if `caller` had sent the file. Raises ExplainError, OSError."""
    try:
        seen = look_at(path, inference, settings)
    except ValueError as error:
        raise ExplainError(f"{path}: {error}") from error
    explanation = explain(settings.rules, as_came(path, caller), seen, enabled=settings.enabled)
    which = f"the rules of {settings.file}"
    return Explained(str(path), settings.rules.digest, which, seen, explanation, None, _limits(seen, settings))


def _limits(seen: Seen, settings: Settings) -> Limits | None:
    """The limits on the card of the model that answered."""
    if seen.prediction is None:
        return None
    kept = sorted((settings.spool.path / "models").glob("*/"))
    return limits_of(seen.prediction.model, [settings.model.path or shipped_model(), shipped_model(), *kept])
