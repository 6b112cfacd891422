"""Deliveries to destinations. They are claimed, then closed or owed again."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa

from router.flow import Delivery
from router.spool import clock, gathering, queries, rates, results, statements, steady
from router.spool.blobs import BlobStore
from router.spool.claims import claim_end
from router.spool.database import Database
from router.spool.destinations import still_times
from router.spool.events import add_event
from router.spool.finishing import finish_if_last, instances_of, look_alone
from router.spool.rows import instance_of
from router.spool.schema import NORMAL, URGENT, delivery, instance
from router.spool.states import DeliveryState

URGENT_CLAIMS = 3
"""After so many claims with urgent deliveries comes one of others, so that nothing starves."""


class Deliveries:
    """What `forward` asks of the spool about deliveries."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database, self._blobs = database, blobs
        self._urgent = Counter[str]()
        """By destination: claims with urgent deliveries since the last one without."""

    def claim(self, destination: str, limit: int, *, rate: float | None = None) -> list[Delivery]:
        """Up to `limit` deliveries that are due: urgent ones first, then the oldest.

        `rate`: so many in a second at most, over all nodes.
        """
        return self._claim_fairly(statements.CLAIM_DELIVERIES, destination, limit, rate)

    def claim_study(self, destination: str, limit: int, *, rate: float | None = None) -> list[Delivery]:
        """The same of one study, in order of arrival; one delivery if its study is not known.

        Studies that wait for more are due when their pause is over.
        """
        return self._claim_fairly(statements.CLAIM_OF_STUDY, destination, limit, rate, of_study=True)

    def claim_untried(self, destination: str, *, rate: float | None = None) -> list[Delivery]:
        """The newest delivery without a try, if any. Older ones may have come together with those that failed."""
        for new in (URGENT, NORMAL):
            if claimed := self._claim(statements.CLAIM_UNTRIED, destination, 1, rate, new=new):
                return claimed
        return []

    def _claim_fairly(
        self, statement: sa.Executable, to: str, limit: int, rate: float | None, *, of_study: bool = False
    ) -> list[Delivery]:
        """After some claims with urgent deliveries comes one of others, if there are any."""
        if self._urgent[to] >= URGENT_CLAIMS:
            self._urgent[to] = 0
            if claimed := self._claim(statement, to, limit, rate, of_study=of_study, above=URGENT):
                return claimed
        claimed = self._claim(statement, to, limit, rate, of_study=of_study)
        if claimed and claimed[0].urgent:
            self._urgent[to] += 1
        return claimed

    def _claim(
        self, statement: sa.Executable, to: str, limit: int, rate: float | None, *, of_study: bool = False,
        above: int = URGENT - 1, new: int = NORMAL,
    ) -> list[Delivery]:  # fmt: skip
        token = self._database.new_token()

        def job(connection: sa.Connection) -> list[Delivery]:
            moment = steady.look(connection)
            most = limit if rate is None else min(limit, rates.allowed(connection, to, rate, moment.now))
            claim: dict[str, Any] = {"to": to, "now": moment.now, "most": most, "by": token, "above": above, "new": new}
            claim["until"] = claim_end(connection)
            which = statement
            if of_study:
                gathering.release(connection, to, moment.now)
                claim["of"] = gathering.first_study(connection, to, moment.now, above)
                if claim["of"] is None:
                    which, claim["most"] = statements.CLAIM_DELIVERIES, min(most, 1)
            ids = sorted(connection.execute(which, claim).scalars()) if most > 0 else []
            if not ids:
                return []
            if rate is not None:
                rates.use(connection, to, rate, len(ids))
            counts_from = moment.now - still_times(connection, moment)(to)
            found = [
                Delivery(
                    id=row.delivery_id, instance=instance_of(row), destination=to, path=self._blobs.path(row.id),
                    token=token, tries=row.delivery_tries, buriable_tries=row.buriable_tries, owed_for=row.owed_for,
                    urgent=row.priority == URGENT, study=row.study or "",
                )
                for row in connection.execute(
                    statements.CLAIMED_DELIVERIES, {"ids": ids, "counts_from": counts_from}
                )
            ]  # fmt: skip
            return sorted(found, key=lambda one: one.id) if of_study else found

        claimed = self._database.run(job)
        self._database.hold(delivery, (one.id for one in claimed), token)
        return claimed

    def wait_for_rate(self, destination: str, rate: float) -> float:
        """Seconds until a destination with such a rate may have one more."""
        return self._database.ask(lambda c: rates.wait(c, destination, rate, clock.now(c)))

    def close(
        self, one: Delivery, state: DeliveryState, reason: str = "", status: int | None = None, *,
        expect: float | None = None, took: float = 0.0,
    ) -> Future[bool]:  # fmt: skip
        """End a delivery as DONE, BURIED or SKIPPED. The result is False if the claim was lost.

        The instance is finished when none of its deliveries is open or buried. `expect`: a result must come within so
        many seconds of one that is done. `took`: the seconds of the try.
        """

        def job(connection: sa.Connection) -> bool:
            look_alone(connection, lambda: instances_of([one.id]))
            now = clock.now(connection)
            end = {"which": one.id, "claimed_by": one.token, "end": state, "now": now, "why": reason, "answer": status}
            row = connection.execute(statements.CLOSE_DELIVERY, end).one_or_none()
            if row is None:
                return False
            if state == DeliveryState.BURIED:
                add_event(connection, "buried", row.instance_id, row.destination, reason=reason)
            else:
                if expect is not None and state == DeliveryState.DONE:
                    results.expect(connection, one.id, row.instance_id, row.destination, expect, took)
                finish_if_last(connection, row.instance_id, now)
            return True

        return self._database.end_claim(delivery, one.id, one.token, job)

    def retry(
        self, one: Delivery, after: float, reason: str, status: int | None = None, *, tried: bool = True,
        buriable: bool = False,
    ) -> Future[bool]:  # fmt: skip
        """Owe it again after so many seconds. The result is False if the claim was lost.

        `tried` and `buriable` say which counters grow. Without a try the old reason stays.
        """

        def job(connection: sa.Connection) -> bool:
            values = {
                "token": 0, "ready_at": clock.now(connection) + after if after else delivery.c.priority,
                "tries": delivery.c.tries + int(tried), "buriable_tries": delivery.c.buriable_tries + int(buriable),
            } | ({"reason": reason, "status": status} if tried else {})  # fmt: skip
            claimed = (delivery.c.id == one.id) & (delivery.c.token == one.token)
            is_open = delivery.c.state == DeliveryState.OPEN
            return bool(connection.execute(delivery.update().where(claimed & is_open).values(values)).rowcount)

        return self._database.end_claim(delivery, one.id, one.token, job)

    def next_due(self, destination: str) -> float | None:
        """Seconds until an open delivery to a destination may be claimed. None: there is none, or all are claimed."""
        query = statements.NEXT_DUE, {"to": destination}
        return self._database.ask(lambda c: queries.seconds_until(c, c.execute(*query).scalar()))

    def next_study_due(self, destination: str) -> float | None:
        """The same for a destination that waits for more of a study."""

        def ask(connection: sa.Connection) -> float | None:
            asked = ((query, {"to": destination}) for query in (statements.NEXT_DUE, gathering.NEXT_QUIET))
            times = [connection.execute(*one).scalar() for one in asked]
            return queries.seconds_until(connection, min((at for at in times if at is not None), default=None))

        return self._database.ask(ask)

    def known_digests(self, destination: str, sop_instance: str) -> frozenset[str]:
        """Digests of the data sets that a destination got under a UID."""
        query = sa.select(instance.c.digest).where(
            instance.c.sop_instance == sop_instance,
            delivery.c.instance_id == instance.c.id,
            delivery.c.destination == destination,
            delivery.c.state == DeliveryState.DONE,
        )
        return self._database.ask(lambda c: frozenset(c.execute(query).scalars()))
