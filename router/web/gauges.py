"""/metrics: what is read from the node when it is asked for, and what was counted before (`observe.metrics`).

Metrics need the database. One thread at a time asks for them; requests meanwhile share its answer, and wait a few
seconds at most.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.observe.metrics import REGISTRY
from router.spool import Counts, SpoolError

METRICS_WITHIN = 4.0
"""Seconds."""


class GaugesView(Protocol):
    """What gauges are read from."""

    def counts(self) -> Counts: ...

    def associations(self) -> int: ...

    def circuits(self) -> dict[str, bool]: ...

    def destinations(self) -> dict[str, bool]: ...

    def certificates(self) -> dict[str, float]: ...

    def models(self) -> dict[str, str]: ...


class NodeCollector(Collector):
    """Gauges that are read from the node when they are asked for."""

    def __init__(self, view: GaugesView) -> None:
        self._view = view

    def collect(self) -> Iterable[GaugeMetricFamily]:
        counts = self._view.counts()
        yield GaugeMetricFamily("dicom_router_undecided", "Instances without a decision", value=counts.undecided)
        if counts.oldest_undecided:
            yield GaugeMetricFamily(
                "dicom_router_oldest_undecided_timestamp_seconds", "Unix time at which the oldest of them was received",
                value=counts.oldest_undecided,
            )  # fmt: skip
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
            "dicom_router_results_missing", "Deliveries of the last 12 hours whose result is missing",
            {**none, **counts.missing},
        )  # fmt: skip
        yield _family(
            "dicom_router_oldest_owed_timestamp_seconds", "Unix time since when the oldest is owed", counts.oldest
        )
        yield _family("dicom_router_paused", "1 while a person has paused a destination", paused)
        yield _family(
            "dicom_router_circuit_open", "1 while a destination's circuit is open", {**none, **self._view.circuits()}
        )
        yield _family(
            "dicom_router_certificate_expiry_timestamp_seconds", "Unix time of the first expiry in a certificate file",
            self._view.certificates(), label="setting",
        )  # fmt: skip

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()


def _family(name: str, words: str, values: Mapping[str, float], label: str = "destination") -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=[label])
    for labelled, value in values.items():
        family.add_metric([labelled], float(value))
    return family


class Scrape:
    """One question at a time: a request that comes meanwhile gets the same answer."""

    def __init__(self, collect: Callable[[], bytes]) -> None:
        self._collect = collect
        self._under_way: tuple[Future[bytes], float] | None = None

    async def answer(self) -> bytes:
        """Raises SpoolError, TimeoutError. Called in the web server's loop only."""
        if self._under_way is None or self._under_way[0].done():
            future: Future[bytes] = Future()
            self._under_way = future, time.monotonic() + METRICS_WITHIN
            threading.Thread(target=self._run, args=(future,), name="metrics", daemon=True).start()
        future, deadline = self._under_way
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # else asyncio would complain
        return await asyncio.wait_for(asyncio.shield(waiting), max(0.0, deadline - time.monotonic()))

    def _run(self, future: Future[bytes]) -> None:
        try:
            future.set_result(self._collect())
        except BaseException as error:
            future.set_exception(error)


def metrics_of(view: GaugesView) -> Callable[[Request], Awaitable[Response]]:
    """The answer to /metrics."""
    collector = NodeCollector(view)
    scrape = Scrape(lambda: generate_latest(REGISTRY) + generate_latest(_Only(collector)))

    async def metrics(_: Request) -> Response:
        try:
            own = await scrape.answer()
        except TimeoutError:
            return JSONResponse({"error": "the spool's database does not answer in time"}, status_code=503)
        except SpoolError as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        return Response(own, media_type="text/plain; version=0.0.4; charset=utf-8")

    return metrics


class _Only:
    """A registry of one collector: several nodes in one process (tests) must not share gauges."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Any]:
        return self._collector.collect()
