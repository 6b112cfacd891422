"""/healthz, /readyz and /metrics: for load balancers, containers and Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.observe.metrics import REGISTRY
from router.spool import Counts, SpoolError


class View(Protocol):
    """What the web room may ask of the node."""

    def alive(self) -> dict[str, bool]: ...

    def ready(self) -> dict[str, bool]: ...

    def counts(self) -> Counts: ...

    def associations(self) -> int: ...

    def circuits(self) -> dict[str, bool]: ...

    def destinations(self) -> dict[str, bool]: ...

    def certificates(self) -> dict[str, float]: ...

    def models(self) -> dict[str, str]: ...


class NodeCollector(Collector):
    """Gauges that are read from the node when they are asked for."""

    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterable[GaugeMetricFamily]:
        counts = self._view.counts()
        yield GaugeMetricFamily("dicom_router_undecided", "Instances without a decision", value=counts.undecided)
        yield GaugeMetricFamily(
            "dicom_router_spool_bytes", "Bytes of blobs and native copies in the spool", value=counts.bytes
        )
        yield GaugeMetricFamily(
            "dicom_router_set_aside", "Blobs that could not be verified and wait for a person", value=counts.set_aside
        )
        yield GaugeMetricFamily(
            "dicom_router_open_associations", "Open incoming associations", value=self._view.associations()
        )
        models = GaugeMetricFamily("dicom_router_model", "1 for the weights that answer", labels=["role", "digest"])
        for role, digest in self._view.models().items():
            models.add_metric([role, digest], 1.0)
        yield models
        paused = self._view.destinations()
        none = dict.fromkeys(paused, 0)  # a series that vanishes at zero cannot be watched
        yield _family("dicom_router_queue", "Open deliveries", {**none, **counts.open})
        yield _family("dicom_router_buried", "Buried deliveries that wait for a person", {**none, **counts.buried})
        yield _family(
            "dicom_router_oldest_owed_timestamp_seconds", "Unix time since when the oldest is owed", counts.oldest
        )
        yield _family("dicom_router_paused", "1 while a person has paused a destination", paused)
        yield _family(
            "dicom_router_circuit_open", "1 while a destination's circuit is open", {**none, **self._view.circuits()}
        )
        yield _family(
            "dicom_router_certificate_expiry_timestamp_seconds", "Unix time when the first certificate of a file ends",
            self._view.certificates(), label="setting",
        )  # fmt: skip

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()


def _family(name: str, words: str, values: Mapping[str, float], label: str = "destination") -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=[label])
    for labelled, value in values.items():
        family.add_metric([labelled], float(value))
    return family


def routes(view: View) -> Iterator[Route]:
    collector = NodeCollector(view)

    def answer(parts: dict[str, bool]) -> Response:
        return JSONResponse(parts, status_code=200 if all(parts.values()) else 503)

    def ready(_: Request) -> Response:
        try:
            return answer(view.ready())
        except (OSError, SpoolError):  # nobody can say what room there is on a disk that does not answer
            return answer({"room": False})

    def metrics(_: Request) -> Response:
        try:
            own = generate_latest(REGISTRY) + generate_latest(_Only(collector))
        except SpoolError as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        return Response(own, media_type="text/plain; version=0.0.4; charset=utf-8")

    yield Route("/healthz", lambda _: answer(view.alive()))
    yield Route("/readyz", ready)
    yield Route("/metrics", metrics)


class _Only:
    """A registry of one collector: several nodes in one process (tests) must not share gauges."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Any]:
        return self._collector.collect()
