"""The files that a browser needs: read once, so that no path is ever made of what is asked for."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from xxhash import xxh3_64_hexdigest

FOLDER = Path(__file__).parent / "static"
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
CONTENTS = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
VERSIONS = {name: xxh3_64_hexdigest(content)[:8] for name, content in CONTENTS.items()}
"""Part of a file's address, so that a browser may keep it until it changes."""


def route() -> Mount:
    return Mount("/static", routes=[Route("/{name}", _file)])


async def _file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in CONTENTS:
        return PlainTextResponse("no such file", status_code=404)
    keep = {"cache-control": "public, max-age=31536000, immutable"} if request.query_params.get("v") else {}
    return Response(CONTENTS[name], media_type=TYPES[Path(name).suffix], headers=keep)
