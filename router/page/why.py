"""Why not that rule: each rule of the table that decided an instance, with its answer, as `rules explain` has them."""

from __future__ import annotations

from dataclasses import dataclass

from router.commands.explain import ExplainError, explain_instance
from router.config import ConfigError, Settings
from router.decide.explain import Explanation, Outcome
from router.spool import Spool

MARKS = {Outcome.DECIDES: "done", Outcome.SHADOW: "open", Outcome.UNKNOWN: "waiting", Outcome.DISABLED: "disabled"}
"""How the outcome of a rule looks; the others look like what is off."""


@dataclass(frozen=True, slots=True)
class Why:
    """The rules with their answers; none where they cannot be asked, and `trouble` says why."""

    explanation: Explanation | None
    which: str = ""
    facts_kept: bool = True
    trouble: str = ""


def why(spool: Spool, instance_id: str, settings: Settings) -> Why:
    """Raises SpoolError."""
    try:
        found = explain_instance(spool, instance_id, settings, None)
    except ExplainError:
        return Why(None)
    except ConfigError:
        return Why(None, trouble="The rules that decided are kept, and this version does not understand them.")
    return Why(found.explanation, found.which, found.facts_kept)
