"""Other rules in force: written into routing.yaml, read again, recorded; and the earlier file back where that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.config import Settings, load
from router.config.candidate import candidate
from router.config.rule_text import as_yaml, rules_in, with_rules
from router.decide import RuleTable
from router.errors import RouterError, explain
from router.node import settings_file
from router.node.orders import ApplyRules, OrderError, RollBackRules
from router.node.reloading import PARTS
from router.observe import log
from router.spool import Spool, SpoolError
from router.spool.errors import UncertainCommitError
from router.spool.rule_tables import KeptTable
from router.spool.rules import Rules

LONGEST_COMMENT = 500
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What will be written: the whole file, its rules as text, and the rules that it then has."""

    content: bytes
    source: str
    table: RuleTable


class RuleChanges:
    """Carries out `ApplyRules` and `RollBackRules`: of a node, or of a command where no node runs."""

    def __init__(self, settings: Callable[[], Settings], reload: Callable[[str], object], spool: Spool) -> None:
        """`reload` puts the file in force: all of it, or it raises and nothing has changed."""
        self._settings, self._reload, self._spool = settings, reload, spool
        self._one_at_a_time = threading.Lock()

    def carry_out(self, order: ApplyRules | RollBackRules, who: str) -> dict[str, Any]:
        """Raises RouterError or OSError: then file and rules are as they were, or the message says otherwise."""
        comment = "".join(c if c.isprintable() else " " for c in order.comment).strip()
        if not comment or len(comment) > LONGEST_COMMENT:
            raise OrderError(f"say why, in a comment of at most {LONGEST_COMMENT} characters", 2)
        if not self._one_at_a_time.acquire(blocking=False):
            raise OrderError("somebody else is changing the rules just now; look at them, and try again")
        try:
            return self._change(order, comment, who)
        finally:
            self._one_at_a_time.release()

    def _change(self, order: ApplyRules | RollBackRules, comment: str, who: str) -> dict[str, Any]:
        before = self._settings()
        path = before.file
        now = settings_file.read(path)
        if order.looked_at and order.looked_at != settings_file.fingerprint_of(now):
            raise OrderError(f"{path} has changed since you looked at it; look at the rules again")
        settings_file.must_be_writable(path)
        self._must_be_in_force(before)
        if isinstance(order, ApplyRules):
            plan = self._applied(order, before, now)
        else:
            plan = self._rolled_back(order, before, now)
        if plan.table.digest == before.rules.digest:
            raise OrderError("these are the rules in force")
        kind = "rules applied" if isinstance(order, ApplyRules) else "rules rolled back"
        old = before.rules, rules_in(_text(now), str(path))
        self._record(lambda rules: rules.note_begun(kind, old, plan.table.digest, comment, who))
        try:
            kept = settings_file.keep(path, now)
            self._put_in_force(path, plan, now, kept, who)
        except (RouterError, OSError) as error:
            reason = explain(error)[1][:LONGEST_COMMENT]
            self._record(lambda rules: rules.note_refused(plan.table.digest, reason, who))
            raise
        self._record(lambda rules: rules.note_applied(kind, old, (plan.table, plan.source), comment, who))
        return {"done": True, "digest": plan.table.digest, "before": before.rules.digest, "kept": str(kept)}

    def _must_be_in_force(self, settings: Settings) -> None:
        """What else the file says must not come into force by the way."""
        found = load(settings.file)
        differ = ", ".join(part for part in PARTS if getattr(found, part) != getattr(settings, part))
        if differ and self._spool.database.is_sqlite:
            raise OrderError(f"{settings.file} has changes that are not in force ({differ}): reload it, or undo them, "
                             "and look again")  # fmt: skip
        if differ:
            raise OrderError(f"{settings.file} differs from what is in force on all nodes ({differ}): copy the file of "
                             "the node that published it (dicom-router nodes), or give the order there")  # fmt: skip

    def reloaded(self, before: Settings, who: str) -> None:
        """Record who has put rules in force that were changed in the file by hand, if they are others than before."""
        now = self._settings()
        if now.rules.digest == before.rules.digest:
            return
        try:
            source = rules_in(_text(settings_file.read(now.file)), str(now.file))
            self._spool.rules.note_applied("", (before.rules, ""), (now.rules, source), "", who)
        except (RouterError, OSError) as error:
            log.error("spool", stage="rules applied", reason=explain(error)[1])

    def finish(self) -> None:
        """At a start: the last node may have ended between the new file and the record of who and why."""
        now, source = self._settings(), ""
        try:
            if self._spool.database.is_sqlite:  # else what is in force may be another node's file
                source = rules_in(_text(settings_file.read(now.file)), str(now.file))
            self._spool.rules.note_finished((now.rules, source))
        except (RouterError, OSError, UnicodeDecodeError) as error:
            log.error("spool", stage="rules applied", reason=explain(error)[1])

    # -- what to write ---------------------------------------------------------------------------------------------

    def _applied(self, order: ApplyRules, before: Settings, now: bytes) -> _Plan:
        wanted = candidate(order.text, {name: to.enabled for name, to in before.destinations.items()})
        if "${" in wanted.table.text:  # not what a comment says
            raise OrderError("rules that are applied name no environment variable: write the value in place of ${…}", 2)
        return _plan(before, now, rules_in(order.text, "the new rules"), wanted.table.digest)

    def _rolled_back(self, order: RollBackRules, before: Settings, now: bytes) -> _Plan:
        kept = kept_rules(self._spool.rules.tables(), order.digest.lower(), before.rules.digest)
        if kept.source:
            try:
                return _plan(before, now, kept.source, kept.digest)
            except OrderError:
                pass  # it names an environment variable that says something else now
        return _plan(before, now, as_yaml(kept.written), kept.digest)

    # -- how -------------------------------------------------------------------------------------------------------

    def _put_in_force(self, path: Path, plan: _Plan, now: bytes, kept: Path, who: str) -> None:
        settings_file.put(path, plan.content, instead_of=now)
        try:
            self._reload(who)
        except (RouterError, OSError) as error:
            reason = explain(error)[1]
            try:
                settings_file.put(path, now, instead_of=plan.content)
            except (RouterError, OSError) as second:
                log.error("rules", stage="put back", reason=explain(second)[1])
                raise OrderError(f"the rules are not in force, and {path} has them: put {kept} back by hand; "
                                 f"{explain(second)[1]}; they were refused: {reason}") from error  # fmt: skip
            if isinstance(error, UncertainCommitError):
                unsure = "the database has not said whether the rules are in force on all nodes"
                raise OrderError(f"{unsure}; the earlier file is back: look at dicom-router nodes, and try again; "
                                 f"{reason}") from error  # fmt: skip
            raise OrderError(f"nothing has changed, the earlier file is back: {reason}") from error

    def _record(self, note: Callable[[Rules], None]) -> None:
        """The rules change, whether or not the database takes the record."""
        try:
            note(self._spool.rules)
        except SpoolError as error:
            log.error("spool", stage="rules applied", reason=str(error))


def kept_rules(tables: Sequence[KeptTable], digest: str, in_force: str) -> KeptTable:
    """Those with this digest, or its beginning; without one those before the ones in force. Raises OrderError."""
    if not digest:
        before = next((one.replaced for one in tables if one.digest == in_force), "")
        others = [one for one in tables if one.digest != in_force]
        found = [one for one in others if one.digest == before] or others[:1]
    else:
        found = [one for one in tables if one.digest.startswith(digest)]
    if not found:
        which = "such" if digest else "other"
        raise OrderError(f"no {which} rules are kept: see dicom-router rules list")
    if len(found) > 1:
        raise OrderError(f"{digest[:32]} is the beginning of {len(found)} digests; write more of it", 2)
    return found[0]


def _plan(before: Settings, now: bytes, source: str, digest: str) -> _Plan:
    """Raises OrderError if the file would then have other rules than these, ConfigError if it could not be used."""
    text = with_rules(_text(now), source, str(before.file))
    content = (BOM if now.startswith(BOM) else b"") + text.encode()
    found = settings_file.checked(before.file, content)
    if found.rules.digest != digest:
        raise OrderError("routing.yaml would have other rules than these: an environment variable DICOM_ROUTER__… "
                         "replaces some of them")  # fmt: skip
    if [part for part in PARTS if part != "rules" and getattr(found, part) != getattr(before, part)]:
        raise OrderError("more than the rules would change; change routing.yaml by hand")
    return _Plan(content, source, found.rules)


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig")


def without_node(settings: Settings, spool: Spool) -> RuleChanges:
    """For a command where no node runs: the file is in force at the next start. Raises OrderError.

    On a shared database it would not be: there a node publishes what it has read.
    """
    if settings.spool.database != "sqlite":
        raise OrderError("no node runs on this machine: give the order on one where a node runs, which publishes it")
    return RuleChanges(lambda: settings, lambda _: load(settings.file), spool)
