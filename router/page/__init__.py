"""The page: every view and order of the node in a browser, on the port of health and metrics.

One module for each page, a template beside it in `templates`, and no build step: what the browser needs is in `static`.
The pages read through connections of their own that cannot write (`site.Site.read`); what changes something is an order
of `node.orders`, carried out as the command's is.
"""

from __future__ import annotations

from starlette.applications import Starlette

from router.page import (
    attention,
    candidate,
    deliveries,
    destinations,
    devices,
    instances,
    kept_rules,
    many,
    model,
    nodes,
    notices,
    now,
    record,
    review,
    rules,
    story,
)
from router.page.running import Running
from router.page.site import Site
from router.page.static_files import route as static_files

PAGES = (
    now, notices, instances, story, deliveries, destinations, attention, many, review, rules, candidate, kept_rules,
    devices, model, nodes, record,
)  # fmt: skip


class Page:
    """What the web port shows of a node: an application, which the gate of `web.access` must protect."""

    def __init__(self, node: Running) -> None:
        self._site = Site(node)
        routes = [static_files(), *(route for page in PAGES for route in page.routes(self._site))]
        self.app = Starlette(routes=routes)
        self.app.state.lacking = self._site.lacking

    def start(self) -> None:
        """It works when it is asked for something."""

    def stop(self, _deadline: float = 0.0) -> None:
        self._site.stop()
