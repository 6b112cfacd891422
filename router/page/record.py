"""record"""

from collections.abc import Iterator

from starlette.routing import BaseRoute

from router.page.site import Site


def routes(_site: Site) -> Iterator[BaseRoute]:
    return iter(())
