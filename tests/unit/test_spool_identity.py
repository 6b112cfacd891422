"""Database and place of the blobs find each other, also when several nodes start for the first time at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from router.spool.identity import keep_together
from router.spool.schema import metadata


class Bucket:
    """A place that is slow to answer, as one over a network is."""

    place = "bucket"
    value: str | None = None

    def read_id(self) -> str | None:
        value = self.value
        time.sleep(0.3)
        return value

    def write_id(self, value: str) -> None:
        self.value = value


@pytest.mark.postgresql
def test_nodes_that_start_together_for_the_first_time_all_find_the_id(
    postgresql: Callable[[], str],
) -> None:
    engine = sa.create_engine(sa.make_url(postgresql()).set(drivername="postgresql+psycopg"))
    metadata.create_all(engine)
    bucket = Bucket()
    failures: list[Exception] = []

    def start() -> None:
        try:
            keep_together(engine, bucket)
        except Exception as error:
            failures.append(error)

    nodes = [threading.Thread(target=start) for _ in range(2)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    engine.dispose()
    assert (failures, bool(bucket.value)) == ([], True)
