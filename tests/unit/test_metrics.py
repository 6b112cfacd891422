"""What the metrics say of callers and destinations, and that received names cannot flood them."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from router.observe import metrics
from router.spool import Counts
from router.web.gauges import NodeCollector


class View:
    """A node with two destinations, one of them paused, and one that the settings no longer have."""

    def counts(self) -> Counts:
        return Counts(open={"gone": 2, "paused": 1}, oldest={"gone": 1000.0}, oldest_undecided=3000.0)

    def destinations(self) -> dict[str, bool]:
        return {"idle": False, "paused": True}

    def circuits(self) -> dict[str, bool]:
        return {"paused": True}

    def certificates(self) -> dict[str, float]:
        return {"node.tls.certificate": 2000.0}

    def associations(self) -> int:
        return 0

    def models(self) -> dict[str, str]:
        return {}


@pytest.fixture
def lines() -> set[str]:
    view: Any = View()
    registry = CollectorRegistry()
    registry.register(NodeCollector(view))
    return set(generate_latest(registry).decode().splitlines())


def test_every_configured_destination_has_its_series_also_at_zero(lines: set[str]) -> None:
    for line in (
        'dicom_router_queue{destination="idle"} 0.0', 'dicom_router_queue{destination="paused"} 1.0',
        'dicom_router_queue{destination="gone"} 2.0', 'dicom_router_buried{destination="idle"} 0.0',
        'dicom_router_paused{destination="idle"} 0.0', 'dicom_router_paused{destination="paused"} 1.0',
        'dicom_router_circuit_open{destination="idle"} 0.0', 'dicom_router_circuit_open{destination="paused"} 1.0',
    ):  # fmt: skip
        assert line in lines


def test_a_time_is_named_a_timestamp(lines: set[str]) -> None:
    assert 'dicom_router_oldest_owed_timestamp_seconds{destination="gone"} 1000.0' in lines
    assert "dicom_router_oldest_undecided_timestamp_seconds 3000.0" in lines
    assert 'dicom_router_certificate_expiry_timestamp_seconds{setting="node.tls.certificate"} 2000.0' in lines
    assert not [line for line in lines if line.startswith('dicom_router_oldest_owed_timestamp_seconds{destination="i')]


def test_callers_have_labels_of_their_own_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CALLERS", metrics.Callers())
    for n in range(metrics.MOST_CALLERS):
        metrics.stored(f"CALLER_{n} ", 10.0)
    for n in range(100):
        metrics.stored(f"FLOOD_{n}", 20.0)
    metrics.stored("CALLER_3", 30.0)

    def value(name: str, caller: str) -> float | None:
        return metrics.REGISTRY.get_sample_value(f"dicom_router_{name}", {"calling_ae": caller})

    assert value("last_stored_timestamp_seconds", "CALLER_3") == 30.0
    assert value("stored_total", "FLOOD_7") is None
    assert (value("stored_total", "other") or 0) >= 100


def test_a_calling_ae_title_is_made_printable() -> None:
    assert metrics.Callers().label('\x1b]0;X\x07"é' + "A" * 40) == '?]0;X?"?AAAAAAA~'
