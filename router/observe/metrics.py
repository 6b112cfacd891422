"""What is counted as it happens, for Prometheus. `web.gauges` reads the rest from the node when metrics are asked for.

Labels are classes, rules, destinations, statuses, and calling AE titles. A calling AE title is received. So it is made
printable, and only the first `MOST_CALLERS` have their own labels.
"""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.observe import safe

REGISTRY = CollectorRegistry()

RECEIVED = Counter(
    "dicom_router_received_total", "C-STORE requests answered, by status", ["status"], registry=REGISTRY
)  # fmt: skip
RECEIVED_BYTES = Counter("dicom_router_received_bytes_total", "Bytes of data sets stored", registry=REGISTRY)
MERGED = Counter("dicom_router_merged_total", "Instances that came again while still open", registry=REGISTRY)
STORED = Counter(
    "dicom_router_stored_total", "Instances stored, by calling AE title", ["calling_ae"], registry=REGISTRY
)
LAST_STORED = Gauge(
    "dicom_router_last_stored_timestamp_seconds", "Unix time of the last instance stored, by calling AE title",
    ["calling_ae"], registry=REGISTRY,
)  # fmt: skip
TAKEN_IN_AGAIN = Counter(
    "dicom_router_taken_in_again_total", "Blobs without a row at the start, taken in again", registry=REGISTRY
)  # fmt: skip
ASSOCIATIONS = Counter(
    "dicom_router_associations_total", "Association requests, by outcome", ["outcome"], registry=REGISTRY
)  # fmt: skip
DECISIONS = Counter(
    "dicom_router_decisions_total", "Decisions, by class (or why there is none) and rule", ["class", "rule"],
    registry=REGISTRY,
)  # fmt: skip
VIEWS_SEEN = Counter("dicom_router_views_total", "Predictions with a view, by view", ["view"], registry=REGISTRY)
INVERTED = Counter("dicom_router_inverted_total", "Pictures that came with the wrong polarity", registry=REGISTRY)
DELIVERED = Counter("dicom_router_delivered_total", "Deliveries done", ["destination"], registry=REGISTRY)
RETRIED = Counter("dicom_router_retried_total", "Deliveries to be tried again", ["destination"], registry=REGISTRY)
BURIED = Counter("dicom_router_buried_total", "Deliveries buried: given up on", ["destination"], registry=REGISTRY)
FOLLOWED = Counter(
    "dicom_router_followed_total", "Deliveries of instances that follow their study", ["destination"],
    registry=REGISTRY,
)  # fmt: skip
RESULTS_CAME = Counter(
    "dicom_router_results_total", "Results, by the destination whose deliveries they answer, and how that is known",
    ["destination", "how"], registry=REGISTRY,
)  # fmt: skip
RESULT_SECONDS = Histogram(
    "dicom_router_result_seconds", "From the last delivery that a result answers to the result", ["destination"],
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600), registry=REGISTRY,
)  # fmt: skip
RESULTS_MISSING = Counter(
    "dicom_router_results_missing_total", "Deliveries whose result did not come in time", ["destination"],
    registry=REGISTRY,
)  # fmt: skip
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DECIDE_SECONDS = Histogram(
    "dicom_router_decide_seconds", "From received to decided", buckets=BUCKETS, registry=REGISTRY
)  # fmt: skip
UNCERTAIN_COMMITS = Counter(
    "dicom_router_uncertain_commits_total",
    "Instances whose COMMIT got no answer: unknown when it happens; then stored, not stored or never known",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip
STORE_SECONDS = Histogram(
    "dicom_router_store_seconds", "Storing (put) and fetching (get) an object, also in vain", ["operation"],
    buckets=BUCKETS, registry=REGISTRY,
)  # fmt: skip
STORE_FAILURES = Counter(
    "dicom_router_store_failures_total", "Failures of the object store, by what it did not do: read, write, remove",
    ["what"], registry=REGISTRY,
)  # fmt: skip
STORE_DOWN = Gauge(
    "dicom_router_store_down",
    "1 while the object store does not do this: read, write, remove",
    ["what"],
    registry=REGISTRY,
)
CACHE_BYTES = Gauge("dicom_router_cache_bytes", "Bytes of blobs kept beside the object store", registry=REGISTRY)
ORPHANS = Gauge("dicom_router_orphans", "Objects without a row, as last counted", registry=REGISTRY)
INFERENCE_RESTARTS = Counter(
    "dicom_router_inference_restarts_total", "Starts of inference after the first", registry=REGISTRY
)
SHADOW_PREDICTIONS = Counter(
    "dicom_router_shadow_predictions_total",
    "Shadow predictions: agreed or differed in class, dropped (too many wait) or failed", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip

NOTIFICATIONS = Counter(
    "dicom_router_notifications_total", "Tries to notify people: sent, failed; and dropped (given up, or too many)",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip
HEADER_AGREEMENT = Counter(
    "dicom_router_header_agreement_total", "Images whose header names the body part that the pixels show, or another",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip


class Agreement:
    """Counts whether headers agree with pixels, for metrics and for notifications."""

    def __init__(self) -> None:
        self._counts = [0, 0]
        self._lock = threading.Lock()

    def add(self, agrees: bool) -> None:
        with self._lock:
            self._counts[0 if agrees else 1] += 1
        HEADER_AGREEMENT.labels("agrees" if agrees else "contradicts").inc()

    def counts(self) -> tuple[int, int]:
        """Images that agreed, and images that did not, since this process began."""
        with self._lock:
            return self._counts[0], self._counts[1]


AGREEMENT = Agreement()

MOST_CALLERS = 64
OTHER_CALLERS = "other"
AE_LENGTH = 16


class Callers:
    """The label of each calling AE title: itself for the first `MOST_CALLERS`, one for all the others."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def label(self, calling_ae: str) -> str:
        name = safe(calling_ae.strip(), AE_LENGTH)
        with self._lock:
            if name not in self._known and len(self._known) >= MOST_CALLERS:
                return OTHER_CALLERS
            self._known.add(name)
        return name


CALLERS = Callers()


def stored(calling_ae: str, at: float) -> None:
    """Count an instance of a caller; `at` is Unix time."""
    label = CALLERS.label(calling_ae)
    STORED.labels(label).inc()
    LAST_STORED.labels(label).set(at)
