"""Record: who did what, and what happened; also as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.page import words
from router.page.events import said
from router.page.forms import FormError, asked
from router.page.site import Site
from router.spool import Spool
from router.web.access import Role, needs

PAGE = 100
MOST_IN_FILE = 20_000
COLUMNS = ("at", "kind", "who", "instance", "destination", "detail")


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.ADMIN)
    async def record(request: Request) -> Response:
        query = asked(request)
        return await site.show(request, "record.html.j2", lambda spool: _values(spool, query))

    @needs(Role.ADMIN)
    async def as_csv(request: Request) -> Response:
        query = asked(request)
        return await site.answer(request, lambda spool: csv_of(COLUMNS, _lines(spool, query), "record.csv"))

    yield Route("/record", record)
    yield Route("/record.csv", as_csv)


def csv_of(columns: tuple[str, ...], lines: Iterator[tuple[Any, ...]], name: str) -> Response:
    """A file to download. No text in it is taken for a formula."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(columns)
    for line in lines:
        writer.writerow([_plain(value) for value in line])
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(file.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _events(spool: Spool, query: Mapping[str, str], limit: int) -> list[tuple[Any, dict[str, Any]]]:
    before = query.get("before", "")
    if before and (not before.isdecimal() or len(before) > 18):
        raise FormError("before must be the number of an event")
    rows = spool.overview.record(
        kind=query.get("kind", ""), instance_id=query.get("instance", "")[:32],
        destination=query.get("to", ""), who=query.get("by") == "people",
        before=int(before) if before else None, limit=limit,
    )  # fmt: skip
    return [(row, _detail(row.detail)) for row in rows]


def _detail(text: str) -> dict[str, Any]:
    """One damaged value must not hide the other rows."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {"damaged": True}
    return found if isinstance(found, dict) else {}


def _values(spool: Spool, query: dict[str, str]) -> dict[str, Any]:
    found = _events(spool, query, PAGE + 1)
    kept = {name: query[name] for name in ("kind", "instance", "to", "by") if query.get(name)}
    older = words.address("/record", kept | {"before": found[PAGE - 1][0].id}) if len(found) > PAGE else ""
    return {
        "rows": [(row, said(row.kind, row.destination, detail), detail.get("who", "")) for row, detail in found[:PAGE]],
        "asked": kept, "older": older, "newest": words.address("/record", kept) if query.get("before") else "",
        "kinds": spool.overview.kinds(), "csv": words.address("/record.csv", kept),
    }  # fmt: skip


def _lines(spool: Spool, query: dict[str, str]) -> Iterator[tuple[Any, ...]]:
    for row, detail in _events(spool, query, MOST_IN_FILE):
        who = str(detail.pop("who", ""))
        yield words.exact(row.at), row.kind, who, row.instance_id or "", row.destination or "", json.dumps(detail)
