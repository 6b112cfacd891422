"""The node over HTTP: health, readiness, metrics. Counts and the node's own ids, never a patient or study value.

`server` runs uvicorn in a thread, also for the local socket; it also serves pages that it is given (`router/page`).
 What a person may order is in `node.api`.
"""

from router.web.health import View
from router.web.server import WebServer

__all__ = ["View", "WebServer"]
