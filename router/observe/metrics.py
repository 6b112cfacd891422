"""What can be counted, for Prometheus. Labels are classes, rules, destinations and statuses, never a received value."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

REGISTRY = CollectorRegistry()

RECEIVED = Counter(
    "dicom_router_received_total", "C-STORE requests answered, by status", ["status"], registry=REGISTRY
)  # fmt: skip
RECEIVED_BYTES = Counter("dicom_router_received_bytes_total", "Bytes of data sets stored", registry=REGISTRY)
MERGED = Counter("dicom_router_merged_total", "Instances that came again while still open", registry=REGISTRY)
ASSOCIATIONS = Counter(
    "dicom_router_associations_total", "Association requests, by outcome", ["outcome"], registry=REGISTRY
)  # fmt: skip
DECISIONS = Counter(
    "dicom_router_decisions_total", "Decisions, by class (or why there is none) and rule", ["class", "rule"],
    registry=REGISTRY,
)  # fmt: skip
VIEWS_SEEN = Counter("dicom_router_views_total", "Predictions that say a view, by view", ["view"], registry=REGISTRY)
INVERTED = Counter("dicom_router_inverted_total", "Pictures that came with the wrong polarity", registry=REGISTRY)
DELIVERED = Counter("dicom_router_delivered_total", "Deliveries done", ["destination"], registry=REGISTRY)
RETRIED = Counter("dicom_router_retried_total", "Deliveries to be tried again", ["destination"], registry=REGISTRY)
BURIED = Counter("dicom_router_buried_total", "Deliveries given up on", ["destination"], registry=REGISTRY)
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
DECIDE_SECONDS = Histogram(
    "dicom_router_decide_seconds", "From received to decided", buckets=BUCKETS, registry=REGISTRY
)  # fmt: skip
INFERENCE_RESTARTS = Counter(
    "dicom_router_inference_restarts_total", "Starts of inference after the first", registry=REGISTRY
)
SHADOW_PREDICTIONS = Counter(
    "dicom_router_shadow_predictions_total",
    "Shadow predictions: agreed or differed in class, dropped (too many wait) or failed", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
