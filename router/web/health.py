"""/healthz, /readyz and /metrics: for load balancers, containers and Prometheus.

No request waits for the node. A thread looks at it twice a second, and the answer is what it saw last. If the thread
has seen nothing for a while it hangs, and that is the answer. Metrics need the database. One thread at a time asks for
them; requests meanwhile share its answer, and wait a few seconds at most.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.observe import log, where
from router.observe.metrics import REGISTRY
from router.spool import Counts, SpoolError

LOOK_EVERY = 0.5
"""Seconds between two looks at the node."""
STALE = 3.0
"""Seconds. If the last look is older, the node counts as hanging."""
METRICS_WITHIN = 4.0


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


@dataclass(frozen=True, slots=True)
class Looked:
    """What was seen of the node, and when (time.monotonic)."""

    alive: dict[str, bool]
    ready: dict[str, bool]
    at: float


class Health:
    """The last look at the node."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._last = Looked({"looked": False}, {"looked": False}, time.monotonic())
        self._stopped = threading.Event()
        self._looked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Look once, unless that takes long, and go on looking."""
        self._thread.start()
        self._looked.wait(LOOK_EVERY)

    def stop(self) -> None:
        self._stopped.set()

    def alive(self) -> dict[str, bool]:
        return self._fresh().alive

    def ready(self) -> dict[str, bool]:
        return self._fresh().ready

    def _fresh(self) -> Looked:
        last = self._last
        if time.monotonic() - last.at > STALE:  # something hangs
            return Looked(last.alive | {"looked": False}, last.ready | {"looked": False}, last.at)
        return last

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._last = Looked(self._view.alive(), self._ready(), time.monotonic())
            except Exception as error:  # the last look grows stale, and the answer says so
                log.error("health failed", error=where(error))
            self._looked.set()
            self._stopped.wait(LOOK_EVERY)

    def _ready(self) -> dict[str, bool]:
        try:
            return self._view.ready()
        except (OSError, SpoolError):  # a disk that does not answer counts as full
            return {"room": False}


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


def routes(view: View, health: Health) -> Iterator[Route]:
    collector = NodeCollector(view)
    scrape = Scrape(lambda: generate_latest(REGISTRY) + generate_latest(_Only(collector)))

    def answer(parts: Callable[[], dict[str, bool]]) -> Callable[[Request], Awaitable[Response]]:
        async def said(_: Request) -> Response:
            found = parts()
            return JSONResponse(found, status_code=200 if all(found.values()) else 503)

        return said

    async def metrics(_: Request) -> Response:
        try:
            own = await scrape.answer()
        except TimeoutError:
            return JSONResponse({"error": "the spool's database does not answer in time"}, status_code=503)
        except SpoolError as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        return Response(own, media_type="text/plain; version=0.0.4; charset=utf-8")

    yield Route("/healthz", answer(health.alive))
    yield Route("/readyz", answer(health.ready))
    yield Route("/metrics", metrics)


class _Only:
    """A registry of one collector: several nodes in one process (tests) must not share gauges."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def collect(self) -> Iterable[Any]:
        return self._collector.collect()
