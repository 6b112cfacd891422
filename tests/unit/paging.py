"""What the tests of the page share: a node without its roles, a browser without scripts, forms that are pressed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from router.config import Settings, load
from router.config.settings import WebSettings
from router.decide import RuleTable
from router.flow import Caller, Decision, Header, Prediction, Role, Seen
from router.node.carrying_out import carry_out
from router.node.orders import ApplyRules, Order, Reload, RollBackRules
from router.node.rule_changes import RuleChanges
from router.page import Page
from router.spool import DeliveryState, Spool, open_spool
from router.spool.rule_tables import NO_RULES
from router.web.access import Access, passwords, protected
from tests.unit.access import PASSWORD, QUICK, add_user
from tests.unit.spooling import CALLERS, accept, settings_of, stored

EVERYTHING = tuple(Role)
ALL = "-".join(EVERYTHING)
"""The name of the user with every role."""
HOSTILE = "<script>alert(1)</script>'\"&{{7*7}}"
RULES = """
destinations:
  pacs: {ae_title: PACS, host: 127.0.0.1, port: 104}
  ai: {ae_title: AI, host: 127.0.0.1, port: 105}
rules:
- {name: "<b>'spine'", when: {class: spine, confidence: ">= 0.5"}, send: ai}
- {name: apart, when: {header_agrees: false}, send: pacs}
otherwise: {send: pacs}
"""
SPINE = Prediction((0.01, 0.02, 0.01, 0.95, 0.01), "spine", 0.95, 0.1, False, "spine", "m", view="lateral")
DOUBT = Prediction((0.01, 0.5, 0.44, 0.04, 0.01), "adult_chest", 0.5, 0.1, False, "uncertain", "m")


class View:
    """What a node says of itself."""

    def status(self) -> dict[str, Any]:
        return {"inference": True, "database": True, "open": True, "room": True,
                "runs_on": {"model": "a" * 64, "engine": HOSTILE}}  # fmt: skip

    def model_report(self) -> dict[str, Any]:
        return {"configured": "", "serving": None, "previous": {"name": "x", "since": 1.0, "who": "a"}, "shadow": None,
                "inference": {"model": "a" * 64, "engine": "torch"}, "busy": False, "error": HOSTILE}  # fmt: skip


@dataclass
class Node:
    """A spool with orders, as the node has it."""

    spool: Spool
    loaded: Settings
    view: View = field(default_factory=View)
    ordered: list[tuple[Order, str]] = field(default_factory=list)

    def settings(self) -> Settings:
        return self.loaded

    def reload(self, who: str = "") -> None:
        self.loaded = load(self.loaded.file, {})

    def carry_out(self, order: Order, who: str) -> dict[str, Any]:
        self.ordered.append((order, who))
        if isinstance(order, Reload):
            before = self.loaded
            self.reload()
            RuleChanges(self.settings, self.reload, self.spool).reloaded(before, who)
            return {"done": True}
        if isinstance(order, ApplyRules | RollBackRules):
            return RuleChanges(self.settings, self.reload, self.spool).carry_out(order, who)
        return carry_out(order, who, self.spool, self.loaded.destinations)  # type: ignore[arg-type]


@contextmanager
def node_in(tmp_path: Path, database: str, rules: str = RULES) -> Iterator[Node]:
    """A node's spool and settings, on a database."""
    where = "" if database == "sqlite" else f", database: '{database}'"
    text = f"spool: {{path: spool{where}}}{rules}"
    (tmp_path / "routing.yaml").write_text(text)
    spool = open_spool(settings_of(tmp_path / "spool", database))
    yield Node(spool, load(tmp_path / "routing.yaml", {}))
    spool.close()


class Client:
    """A browser without scripts, that keeps cookies and follows no redirect."""

    def __init__(self, page: Page, spool: Spool, address: str = "127.0.0.1", host: str = "http://127.0.0.1") -> None:
        app = protected(page.app, Access(WebSettings(), spool))
        transport = httpx.ASGITransport(app, client=(address, 5000))
        self._client = httpx.AsyncClient(transport=transport, base_url=host)
        self._runner = asyncio.Runner()

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._client.get(path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._client.post(path, **more))

    def log_in(self, name: str) -> None:
        (form,) = Elements(self.get("/login").text).forms
        answer = self.post("/login", data={"csrf": form["csrf"], "name": name, "password": PASSWORD, "next": "/"})
        assert answer.status_code == 303

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


@contextmanager
def client_of(node: Node, *roles: Role, address: str = "127.0.0.1", host: str = "http://127.0.0.1") -> Iterator[Client]:
    """Somebody who is logged in with these roles; without any, an account of the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", lambda: QUICK)
        page = Page(node)
        client = Client(page, node.spool, address, host)
        if roles:
            name = "-".join(roles)
            add_user(node.spool, name, *roles)
            client.log_in(name)
        yield client
        client.close()
        page.stop()


def decided(
    spool: Spool, uid: str = "1.2.3", caller: Caller = CALLERS[0], prediction: Prediction | None = SPINE,
    rule: str = "spine", to: tuple[str, ...] = ("ai",), reason: str = "because", whole: bool = False,
    header: Header | None = None, rules: RuleTable = NO_RULES,
) -> str:  # fmt: skip
    if whole:
        stored(spool, uid, caller)
    else:
        accept(spool, uid.encode(), uid, caller)
    (claim,) = spool.decisions.claim(1)
    trouble = "" if prediction else "no pixel data"
    seen = Seen("decoded" if prediction else "none", header or {}, prediction, reason=trouble)
    decision = Decision(rule, to, reason, table=rules.digest or "d" * 32)
    assert spool.decisions.record(claim, seen, decision, {}, rules).result()
    return claim.instance.id


def bury(spool: Spool, to: str = "ai", reason: str = "no such patient here") -> None:
    (owed,) = spool.deliveries.claim(to, 1)
    spool.deliveries.close(owed, DeliveryState.BURIED, reason=reason).result()


class Elements(HTMLParser):
    """Collects what a page loads, its forms, and anything that a strict policy would refuse."""

    VOID: ClassVar[set[str]] = {"meta", "link", "input", "img", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.search: dict[str, str] = {}
        """The form at the top, which every page has."""
        self._in: dict[str, str] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.inline += [name for name in found if name.startswith("on") or name in ("style", "hx-on")]
        if tag == "style" or (tag == "script" and "src" not in found):
            self.inline.append(tag)
        self.loaded += [found[name] for name in ("src",) if name in found]
        self.loaded += [found["href"]] if tag == "link" else []
        self.links += [found["href"]] if tag == "a" else []
        self.ids += [found["id"]] if "id" in found else []
        if tag == "form":
            self._in = {"action": found.get("action", ""), "method": found.get("method", "get")}
            if found.get("role") == "search":
                self.search = self._in
            else:
                self.forms.append(self._in)
        if tag == "input":
            self._in[found.get("name", "")] = found.get("value", "")


def posted(client: Client, page: str, action: str, **changes: str) -> Any:
    """Press the button of a form on a page."""
    forms = Elements(client.get(page).text).forms
    (form, *_) = [one for one in forms if one["action"] == action]
    values = {name: value for name, value in form.items() if name not in ("action", "method")}
    return client.post(action, data=values | changes)


def searched(client: Client, line: str) -> Any:
    """What answers when this is typed into the box at the top."""
    form = Elements(client.get("/").text).search
    return client.post(form["action"], data={"csrf": form["csrf"], "q": line})


def token(client: Client) -> str:
    forms = Elements(client.get("/destinations").text).forms
    return next(form["csrf"] for form in forms if "csrf" in form)


def sure(client: Client, answer: Any) -> Any:
    """Press the button of the page that asks first."""
    assert answer.status_code == 200
    (form,) = [one for one in Elements(answer.text).forms if one["method"] == "post"]
    assert form["sure"] == "yes"
    return client.post(form["action"], data={n: v for n, v in form.items() if n not in ("action", "method")})
