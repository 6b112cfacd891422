"""Nodes: which nodes work on this spool, what each does, and how it is."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.commands.nodes import listed
from router.page.site import Site
from router.web.access import Role, needs


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def nodes(request: Request) -> Response:
        return await site.show(request, "nodes.html.j2", lambda spool: {"rows": listed(spool)})

    yield Route("/nodes", nodes)
