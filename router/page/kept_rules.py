"""The tables of rules that have decided: listed, shown as they were written, and compared with the one in force."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from router.config.rule_text import as_yaml
from router.node import settings_file
from router.node.orders import RollBackRules
from router.node.rule_changes import LONGEST_COMMENT
from router.page.forms import FormError, field, fields
from router.page.site import Site
from router.spool import Spool
from router.web.access import Role, needs

LONGEST = 4000
"""Lines of a table, or of a difference, that are shown."""


@dataclass(frozen=True, slots=True)
class Line:
    """Of a difference: `kind` is `+`, `-`, `@` or empty."""

    kind: str
    text: str


def routes(site: Site) -> Iterator[BaseRoute]:
    @needs(Role.VIEW)
    async def tables(request: Request) -> Response:
        return await site.show(request, "tables.html.j2", lambda spool: _listed(site, spool))

    @needs(Role.VIEW)
    async def table(request: Request) -> Response:
        digest = request.path_params["digest"]
        return await site.show(request, "table.html.j2", lambda spool: _values(site, spool, digest))

    @needs(Role.RULES)
    async def roll_back(request: Request) -> Response:
        async def work() -> str:
            form = fields(request)
            order = RollBackRules(field(form, "comment"), field(form, "digest"), field(form, "looked_at"))
            await site.carry_out(request, order)
            return "rules-applied"

        return await site.order(request, work())

    yield Route("/rules/rollback", roll_back, methods=["POST"])
    yield Route("/rules/tables", tables)
    yield Route("/rules/tables/{digest}", table)


def _listed(site: Site, spool: Spool) -> dict[str, Any]:
    return {
        "tables": [(one, len(one.written.get("rules") or ())) for one in spool.rules.tables()],
        "digest": site.node.settings().rules.digest,
    }  # fmt: skip


def _values(site: Site, spool: Spool, digest: str) -> dict[str, Any]:
    is_digest = digest.isalnum() and digest.isascii() and len(digest) <= 64
    found = [one for one in spool.rules.tables(digest.lower()) if one.digest == digest] if is_digest else []
    if not found:
        raise FormError("No such rules are kept. They go with the last record that names them.", 404)
    (one,), rules = found, site.node.settings().rules
    return {
        "table": one, "written": _yaml(one.written), "in_force": one.digest == rules.digest,
        "difference": difference(rules.text, json.dumps(dict(one.written))), "most_comment": LONGEST_COMMENT,
        "looked_at": settings_file.fingerprint(site.node.settings().file),
    }  # fmt: skip


def difference(old: str, new: str) -> list[Line]:
    """Two tables (as a RuleTable's text), line by line; empty where they say the same."""
    before, after = in_yaml(old).splitlines(), in_yaml(new).splitlines()
    lines = list(difflib.unified_diff(before, after, lineterm="", n=3))[2 : LONGEST + 2]
    return [Line(line[:1].strip(), line[1:] if line[0] != "@" else "…") for line in lines if line]


def in_yaml(text: str) -> str:
    """A table, as a RuleTable's text has it, as a person would write it."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return ""
    return _yaml(found) if isinstance(found, dict) else ""


def _yaml(written: Mapping[str, Any]) -> str:
    text = as_yaml(written)
    return "\n".join(text.splitlines()[:LONGEST]) + "\n" if text else ""
