"""Deliveries to destinations. They are claimed, then closed or owed again."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import sqlalchemy as sa

from router.flow import Delivery
from router.spool import clock, gathering, queries, statements, steady
from router.spool.blobs import BlobStore
from router.spool.claims import claim_end
from router.spool.database import Database
from router.spool.destinations import still_times
from router.spool.events import add_event
from router.spool.finishing import finish_if_last, instances_of, look_alone
from router.spool.rows import instance_of
from router.spool.schema import delivery, instance
from router.spool.states import DeliveryState


class Deliveries:
    """What `forward` asks of the spool about deliveries."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database, self._blobs = database, blobs

    def claim(self, destination: str, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries that are due, oldest first."""
        return self._claim(statements.CLAIM_DELIVERIES, destination, limit)

    def claim_study(self, destination: str, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries that are due, of one study, oldest first; one if its study is not known.

        Studies that wait for more are due when their pause is over.
        """
        return self._claim(statements.CLAIM_OF_STUDY, destination, limit, of_study=True)

    def claim_untried(self, destination: str) -> list[Delivery]:
        """The newest delivery without a try, if any. Older ones may have come together with those that failed."""
        return self._claim(statements.CLAIM_UNTRIED, destination, 1)

    def _claim(self, statement: sa.Executable, to: str, limit: int, *, of_study: bool = False) -> list[Delivery]:
        token = self._database.new_token()

        def job(connection: sa.Connection) -> list[Delivery]:
            moment = steady.look(connection)
            claim: dict[str, Any] = {"to": to, "now": moment.now, "most": limit, "by": token}
            claim["until"] = claim_end(connection)
            which = statement
            if of_study:
                gathering.release(connection, to, moment.now)
                claim["of"] = gathering.first_study(connection, to, moment.now)
                if claim["of"] is None:
                    which, claim["most"] = statements.CLAIM_DELIVERIES, 1
            ids = sorted(connection.execute(which, claim).scalars())
            if not ids:
                return []
            counts_from = moment.now - still_times(connection, moment)(to)
            return [
                Delivery(
                    id=row.delivery_id, instance=instance_of(row), destination=to, path=self._blobs.path(row.id),
                    token=token, tries=row.delivery_tries, buriable_tries=row.buriable_tries, owed_for=row.owed_for,
                )
                for row in connection.execute(
                    statements.CLAIMED_DELIVERIES, {"ids": ids, "counts_from": counts_from}
                )
            ]  # fmt: skip

        claimed = self._database.run(job)
        self._database.hold(delivery, (one.id for one in claimed), token)
        return claimed

    def close(self, one: Delivery, state: DeliveryState, reason: str = "", status: int | None = None) -> Future[bool]:
        """End a delivery as DONE, BURIED or SKIPPED. The result is False if the claim was lost.

        The instance is finished when none of its deliveries is open or buried.
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
                "token": 0, "ready_at": clock.now(connection) + after if after else 0.0,
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
