"""Instances that wait for their decision. They are claimed, decided with all their deliveries, or given back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa

from router.decide import RuleTable
from router.flow import Decision, Instance, Seen
from router.spool import clock, owing, queries, replicas, results, statements, steady, studies
from router.spool.blobs import BlobStore
from router.spool.database import Database
from router.spool.finishing import look_alone
from router.spool.gathering import NOTHING_GATHERED, Gathers
from router.spool.keyed import Key
from router.spool.matching import NO_MATCH, Match
from router.spool.rows import Claim, columns_of_decision
from router.spool.rule_tables import NO_RULES, RulesInUse
from router.spool.schema import NORMAL, URGENT, instance
from router.spool.signals import BULK, INSTANCES
from router.spool.states import InstanceState
from router.spool.turns import FIRST_CALLER, Calling, take_turn

NOTHING: Mapping[Calling, int] = {}
UNLIMITED = 1 << 30


class Decisions:
    """What `classify` asks of the spool."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database, self._blobs = database, blobs
        self._after = FIRST_CALLER
        self.key: Key | None = None
        """Hashes study and accession number, so that people can look for them."""
        self._rules = RulesInUse()

    def claim(self, limit: int, taken: Mapping[Calling, int] = NOTHING, most: int = UNLIMITED) -> list[Claim]:
        """Up to `limit` instances that wait for their decision, in order of arrival.

        Instances that were asked about before come first. Then comes new work, evenly among callers (AE title and
        peer). `taken` is how many each caller has under way already, of at most `most`.
        """
        token = self._database.new_token()
        turn = self._database.run(lambda c: take_turn(c, limit, token, taken, most, self._after))
        self._after = turn.after
        self._database.hold(instance, (one.instance.id for one in turn.claimed), token)
        return [
            Claim(one.instance, self._blobs.path(one.instance.id), token, one.tries, one.is_new_decision)
            for one in turn.claimed
        ]

    def record(
        self, claim: Claim, seen: Seen, decision: Decision, limits: Mapping[str, int | None],
        rules: RuleTable = NO_RULES, gathers: Gathers = NOTHING_GATHERED, found: Match = NO_MATCH,
    ) -> Future[bool]:  # fmt: skip
        """Record prediction, decision and deliveries in one transaction. The result is False if the claim was lost.

        `limits`: how many open deliveries a destination may have. The instance follows its study only to destinations
        that are named here. `rules`: those that decided. They are kept, and so is what they asked of the header.
        `gathers`: the destinations that wait for more of a study. `found`: what the instance is a result of.
        """
        decided, token = claim.instance, claim.token
        buried: dict[str, str] = {}
        followed: dict[str, str] = {}
        values = columns_of_decision(seen, decision, self.key, self._rules.asked(rules))
        is_due = self._rules.is_due(rules)

        def job(connection: sa.Connection) -> bool:
            buried.clear()  # a job may run again
            followed.clear()
            if not _record(connection, decided, token, values, decision, limits, gathers, found, buried, followed):
                return False
            if is_due:
                self._rules.keep(connection, rules)
            return True

        def tell(done: Future[bool]) -> None:
            if done.exception() is None and is_due:
                self._rules.was_kept(rules)
            self._database.signals.set_many((*decision.destinations, *followed, *work))
            if done.exception() is not None:
                return
            for name, reason in buried.items():
                owing.tell_buried(decided.id, name, reason)
            for name in followed:
                studies.tell(name, 1)
            if found.answered and done.result():
                results.tell(decided, found)

        work = (BULK,) if decision.study else ()
        future = self._database.end_claim(
            instance, decided.id, token, job,
            lambda changed: (*decision.destinations, *followed, *work) if changed else (),
        )  # fmt: skip
        future.add_done_callback(tell)
        return future

    def release(self, claim: Claim, *, after: float = 0.0, forget_try: bool = False) -> Future[None]:
        """Give a claim back. It can be claimed again after so many seconds."""
        which, token = claim.instance.id, claim.token
        future = self._database.end_claim(
            instance, which, token, lambda c: _release(c, which, token, after, forget_try=forget_try)
        )
        future.add_done_callback(lambda _: self._database.signals.set(INSTANCES))
        return future

    def next_due(self) -> float | None:
        """Seconds until an instance may be claimed. None: there is none, or all are claimed."""
        return self._database.ask(lambda c: queries.seconds_until(c, c.execute(statements.NEXT_INSTANCE_DUE).scalar()))


def _release(connection: sa.Connection, which: str, token: int, after: float, *, forget_try: bool) -> None:
    ready_at: Any = clock.now(connection) + after
    if forget_try and not after:  # it is new work again if this was its first try
        ready_at = sa.case((instance.c.tries <= 1, 0.0), else_=ready_at)
    connection.execute(
        instance.update()
        .where(instance.c.id == which, instance.c.token == token, instance.c.state == InstanceState.NEW)
        .values(token=0, ready_at=ready_at, tries=instance.c.tries - int(forget_try))
    )


def _record(
    connection: sa.Connection, decided: Instance, token: int, columns: Mapping[str, Any], decision: Decision,
    limits: Mapping[str, int | None], gathers: Gathers, found: Match, buried: dict[str, str],
    followed: dict[str, str],
) -> bool:  # fmt: skip
    """Write a decision and the deliveries that it creates. Returns False if the claim was lost.

    `columns` are those of the decision. `buried` gets the destinations whose delivery is buried at once, each with the
    reason. `followed` gets those that the decision did not name, each with the instance of the study that is followed.
    """
    moment = steady.look(connection)
    now = moment.now
    look_alone(connection, lambda: instance.c.id == decided.id)
    claimed = connection.execute(statements.CLAIMED_INSTANCE, {"which": decided.id, "claimed_by": token}).one_or_none()
    if claimed is None:
        return False
    study = columns.get("study") or claimed.study
    decision = replicas.chosen(connection, decision, study, decided.id, now, found.came_from | found.callers)
    # A new decision by a person must not owe again what an older one still owes.
    already = set(connection.execute(statements.OWED_ALREADY, {"which": decided.id}).scalars())
    owed = [name for name in decision.destinations if name not in already]
    back = [name for name in owed if name in found.came_from]
    origins = found.came_from
    follows = studies.followed(connection, study, decided.id, decision, limits, now, origins) if study else {}
    leaders = {name: str(row.instance_id) for name, row in follows.items()}
    followed |= leaders
    priorities = dict.fromkeys(owed, URGENT if decision.urgent else NORMAL)
    priorities |= {name: int(row.priority) for name, row in follows.items()}
    finished = len(owed) == len(back) and not already and not follows
    more = studies.in_words(follows) or (studies.NO_STUDY if decision.study and study is None else "")
    more = "; ".join(filter(None, [f"not sent to {', '.join(back)}: it came from there" if back else "", more]))
    values = {
        **columns, "reason": f"{decision.reason}; {more}" if more else decision.reason,
        "destinations": json.dumps(decision.destinations),
        "which": decided.id, "token": 0, "ready_at": 0,
        "state": InstanceState.FINISHED if finished else InstanceState.DECIDED,
        "decided_at": now, "finished_at": now if finished else None,
    }  # fmt: skip
    connection.execute(statements.DECIDE, values)
    buried |= owing.owe(
        connection, decided, [*owed, *follows], limits, moment, leaders, study, gathers, priorities, origins
    )
    if found.answered:
        results.note(connection, decided, study, found)
    for row in follows.values():
        studies.note(connection, decided.id, row)
    return True
