"""What is sent back to the node over and over ends in sight of a person, and costs nobody else anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from router.flow import Caller
from router.observe.metrics import REGISTRY
from router.spool import DeliveryRow, DeliveryState, Spool, open_spool, owing
from tests.unit.spooling import CALLERS, decide, instance_for, sealed, settings_of

COPIES = 5
DATA, UID = b"the same bytes", "1.2.3"


@pytest.fixture
def spool(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    monkeypatch.setattr(owing, "CIRCLING_COPIES", COPIES)
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def goes_round(
    spool: Spool, *, data: bytes = DATA, uid: str = UID, caller: Caller = CALLERS[0], at: float = 1e6
) -> DeliveryRow:
    """It comes, is decided, and is delivered if it may be; its delivery."""
    blob = sealed(spool, data)
    accepted = spool.intake.accept(blob, instance_for(blob, uid, caller, at))
    decide(spool, "mirror")
    for owed in spool.deliveries.claim("mirror", 1):
        assert spool.deliveries.close(owed, DeliveryState.DONE).result()
    (delivery,) = spool.views.deliveries(instance_id=accepted.instance_id)
    return delivery


def buried_so_far() -> float:
    return REGISTRY.get_sample_value("dicom_router_buried_total", {"destination": "mirror"}) or 0.0


def test_the_same_bytes_from_one_caller_over_and_over_are_buried_with_an_alert(spool: Spool) -> None:
    before = buried_so_far()
    with capture_logs() as logs:
        states = [goes_round(spool).state for _ in range(COPIES + 2)]
    assert states == [DeliveryState.DONE] * COPIES + [DeliveryState.BURIED] * 2
    alerts = [line for line in logs if line["event"] == "buried"]
    assert [(line["log_level"], line["destination"]) for line in alerts] == [("error", "mirror")] * 2
    assert buried_so_far() == before + 2
    assert len([event for event in spool.views.events() if event.kind == "buried"]) == 2
    for words in (alerts[0]["reason"], spool.views.deliveries(states=(DeliveryState.BURIED,))[0].reason):
        assert "loop" in str(words)
        assert UID not in str(words)


@pytest.mark.parametrize(
    "other", [{"data": b"other bytes"}, {"caller": CALLERS[1]}, {"uid": "1.2.4"}, {"at": 1e6 + 2 * 86400}]
)
def test_another_data_set_caller_uid_or_day_is_no_loop(spool: Spool, other: dict[str, Any]) -> None:
    for _ in range(COPIES):
        goes_round(spool)
    assert goes_round(spool, **other).state == DeliveryState.DONE
    assert goes_round(spool).state == DeliveryState.BURIED


def test_what_a_person_orders_is_sent(spool: Spool) -> None:
    for _ in range(COPIES):
        goes_round(spool)
    buried = goes_round(spool)
    assert spool.orders.retry_now([buried.id], "a person") == 1
    (owed,) = spool.deliveries.claim("mirror", 5)
    assert spool.deliveries.close(owed, DeliveryState.DONE).result()
    assert spool.views.deliveries(states=(DeliveryState.OPEN, DeliveryState.BURIED)) == []


def test_a_uid_that_everything_bears_is_not_looked_through(spool: Spool) -> None:
    """A caller that gives all its instances one UID would slow everybody down more with each."""
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "ORDER BY instance.id DESC" in statement:
            asked.append((statement, parameters))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    try:
        goes_round(spool)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
    assert len(asked) == 2  # at receipt and with the decision

    def plans(connection: sa.Connection) -> list[str]:
        if connection.dialect.name == "sqlite":
            return [r.detail for s, p in asked for r in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + s, p)]
        for way in ("seqscan", "sort", "bitmapscan"):
            connection.exec_driver_sql(f"SET LOCAL enable_{way} TO off")
        return [row[0] for s, p in asked for row in connection.exec_driver_sql("EXPLAIN " + s, p)]

    lines = spool.database.ask(plans)
    assert any("instance_uid" in line for line in lines)
    assert [line for line in lines if "SORT" in line.upper() or "TEMP B-TREE" in line] == []
