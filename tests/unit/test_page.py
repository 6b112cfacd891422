"""The page: each view on both databases, hostile texts as text, orders that ask first, nothing from elsewhere."""

from __future__ import annotations

import asyncio
import csv
import io
import re
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
from router.flow import CLASSES, Caller, Decision, Prediction, Seen
from router.node.orders import Order, Reload, carry_out
from router.page import Page
from router.page.headers import HEADERS
from router.page.site import MENU
from router.page.static_files import CONTENTS
from router.spool import DeliveryState, InstanceState, Spool, open_spool
from router.training.data import read_manifest
from router.web.access import Access, protected
from tests.unit.spooling import CALLERS, accept, settings_of, stored

UNUSED: Any = None
HOSTILE = "<script>alert(1)</script>'\"&{{7*7}}"
CONFIG = """
spool: {path: spool}
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

    def carry_out(self, order: Order, who: str) -> dict[str, Any]:
        self.ordered.append((order, who))
        if isinstance(order, Reload):
            return {"done": True}
        return carry_out(order, who, self.spool, self.loaded.destinations)  # type: ignore[arg-type]


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    text = (
        CONFIG if database == "sqlite" else CONFIG.replace("{path: spool}", f"{{path: spool, database: '{database}'}}")
    )
    (tmp_path / "routing.yaml").write_text(text)
    spool = open_spool(settings_of(tmp_path / "spool", database))
    yield Node(spool, load(tmp_path / "routing.yaml", {}))
    spool.close()


class Client:
    """A browser without scripts, that follows no redirect."""

    def __init__(self, page: Page, address: str = "127.0.0.1", host: str = "http://127.0.0.1") -> None:
        app = protected(page.app, Access(WebSettings(), UNUSED))
        transport = httpx.ASGITransport(app, client=(address, 5000))
        self._client = httpx.AsyncClient(transport=transport, base_url=host)
        self._runner = asyncio.Runner()

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._client.get(path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self._runner.run(self._client.post(path, **more))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


@contextmanager
def client_of(page: Page, address: str = "127.0.0.1", host: str = "http://127.0.0.1") -> Iterator[Client]:
    client = Client(page, address, host)
    yield client
    client.close()


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    page = Page(node)
    with client_of(page) as client:
        yield client
    page.stop()


def decided(
    spool: Spool, uid: str = "1.2.3", caller: Caller = CALLERS[0], prediction: Prediction | None = SPINE,
    rule: str = "spine", to: tuple[str, ...] = ("ai",), reason: str = "because", whole: bool = False,
) -> str:  # fmt: skip
    if whole:
        stored(spool, uid, caller)
    else:
        accept(spool, uid.encode(), uid, caller)
    (claim,) = spool.decisions.claim(1)
    seen = Seen("decoded" if prediction else "none", {}, prediction, reason="" if prediction else "no pixel data")
    assert spool.decisions.record(claim, seen, Decision(rule, to, reason, table="d" * 32), {}).result()
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
            self.forms.append({"action": found.get("action", ""), "method": found.get("method", "get")})
        if tag == "input" and self.forms:
            self.forms[-1][found.get("name", "")] = found.get("value", "")


def posted(client: Client, page: str, action: str, **changes: str) -> Any:
    """Press the button of a form on a page."""
    forms = Elements(client.get(page).text).forms
    (form, *_) = [one for one in forms if one["action"] == action]
    values = {name: value for name, value in form.items() if name not in ("action", "method")}
    return client.post(action, data=values | changes)


def token(client: Client) -> str:
    forms = Elements(client.get("/destinations").text).forms
    return next(form["csrf"] for form in forms if "csrf" in form)


def sure(client: Client, answer: Any) -> Any:
    """Press the button of the page that asks first."""
    assert answer.status_code == 200
    (form,) = [one for one in Elements(answer.text).forms if one["method"] == "post"]
    assert form["sure"] == "yes"
    return client.post(form["action"], data={n: v for n, v in form.items() if n not in ("action", "method")})


PAGES = [href for _, href, _ in MENU]


def test_each_page_is_whole_and_shows_hostile_text_as_text(node: Node, client: Client) -> None:
    hostile = Caller(HOSTILE, HOSTILE, HOSTILE)
    which = decided(node.spool, "1.2.3", hostile, rule=HOSTILE, reason=HOSTILE)
    decided(node.spool, "1.2.4", hostile, DOUBT, rule="apart", to=("pacs",))
    decided(node.spool, "1.2.5", hostile, None)
    bury(node.spool, reason=HOSTILE)
    node.spool.event("buried", which, HOSTILE, reason=HOSTILE, who=HOSTILE)
    node.spool.event(HOSTILE, who=HOSTILE, more={HOSTILE: HOSTILE})
    node.spool.destinations.set_circuit("pacs", 60.0, 1, HOSTILE)
    asked = [*PAGES, f"/instances/{which}", "/attention?to=ai", "/instances?state=buried", "/review?kind=disagreement"]
    asked += [f"/instances?rule={HOSTILE}&text=x", f"/instances?from={HOSTILE}", f"/record?kind={HOSTILE}"]
    for path in asked:
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert "<script>alert" not in answer.text, path
        assert "49" not in re.findall(r"&quot;&amp;(.*?)<", answer.text), path
        page = Elements(answer.text)
        assert page.inline == [], path
        assert page.loaded, path
        assert all(one.startswith("/") and not one.startswith("//") for one in page.loaded), path
        assert len(page.ids) == len(set(page.ids)), path
        assert not [link for link in page.links if not link.startswith(("/", "#"))], path
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, path
    assert "&lt;script&gt;alert" in client.get(f"/instances/{which}").text


def test_an_empty_spool_has_all_pages_too(client: Client) -> None:
    for path in PAGES:
        assert client.get(path).status_code == 200, path


def test_now_says_first_what_needs_a_person(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Well. Nothing needs you." in client.get("/").text
    decided(node.spool)
    bury(node.spool)
    monkeypatch.setattr("router.page.latest.FRESH", -1.0)
    page = client.get("/").text
    assert "One thing needs you." in page
    assert "1 given up on for ai" in page
    part = client.get("/", headers={"hx-request": "true"}).text
    assert "<html" not in part
    assert 'id="live"' in part


def test_numbers_lead_to_exactly_their_rows(node: Node, client: Client) -> None:
    decided(node.spool, "1.2.3")
    decided(node.spool, "1.2.4", CALLERS[1], DOUBT, rule="apart", to=("pacs",))
    links = Elements(client.get("/").text).links
    for word, value, n in (("class", "spine", 1), ("rule", "apart", 1), ("to", "ai", 1), ("from", "XRAY_2", 1)):
        (link, *_) = [one for one in links if f"{word}={value}" in one]
        assert len(re.findall("data-row", client.get(link).text)) == n, link


# -- finding


def test_the_search_box_has_the_words_of_find(node: Node, client: Client) -> None:
    which = decided(node.spool)
    for line in ("class:spine to:ai", "--class spine --state waiting", which[:12], "1.2.3 from:XRAY_1 since:2h"):
        answer = client.get("/instances", params={"q": line})
        assert answer.status_code == 303
        page = client.get(answer.headers["location"]).text
        assert f"/instances/{which}" in page, line
    assert 'value="rule:&#34;a b&#34;"' in client.get("/instances?rule=a+b").text
    for line, said in (("colour:red", "There is no word colour"), ("a b", "one UID"), ("class:spin", "")):
        answer = client.get("/instances", params={"q": line})
        if answer.status_code == 303:
            answer = client.get(answer.headers["location"])
        assert answer.status_code == 400
        assert said in answer.text


def test_pages_of_instances_follow_each_other(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.page.instances.PAGE", 2)
    ids = [decided(node.spool, f"1.2.{n}") for n in range(5)]
    seen: list[str] = []
    address = "/instances?class=spine"
    while address:
        page = Elements(client.get(address).text)
        seen += [link.split("/")[-1] for link in page.links if link.startswith("/instances/")]
        address = next((link for link in page.links if "before=" in link), "")
    assert seen == ids[::-1]


# -- orders


def test_one_more_destination(node: Node, client: Client) -> None:
    which = decided(node.spool)
    answer = posted(client, f"/instances/{which}", f"/instances/{which}/send-also", destination="pacs")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/instances/{which}?done=sent-also"
    assert {one.destination for one in node.spool.views.deliveries(instance_id=which)} == {"ai", "pacs"}
    data = {"csrf": token(client), "destination": "pacs"}
    again = client.post(f"/instances/{which}/send-also", data=data)
    assert again.status_code == 409
    assert "owed there already" in again.text


def test_what_is_dropped_asks_first(node: Node, client: Client) -> None:
    which = decided(node.spool)
    bury(node.spool)
    first = posted(client, f"/instances/{which}", "/deliveries/discard")
    assert node.ordered == []
    assert sure(client, first).headers["location"] == f"/instances/{which}?done=discarded"
    instance = node.spool.views.instance(which)
    assert instance is not None
    assert instance.state is InstanceState.FINISHED
    (_, who), *_ = node.ordered
    assert who == "local"


def test_a_cause_is_one_line_with_one_button(node: Node, client: Client) -> None:
    for n in range(3):
        decided(node.spool, f"1.2.{n}")
        bury(node.spool, reason="refused")
    decided(node.spool, "1.3")
    bury(node.spool, reason="another cause")
    assert "3 deliveries" in client.get("/attention").text
    answer = sure(client, posted(client, "/attention", "/attention/retry"))
    assert answer.headers["location"] == "/attention?done=retried"
    assert node.spool.views.counts().open == {"ai": 3}
    assert node.spool.views.counts().buried == {"ai": 1}


def test_pause_and_resume(node: Node, client: Client) -> None:
    posted(client, "/destinations", "/destinations/pause", destination="ai")
    assert node.spool.destinations.state("ai").paused
    posted(client, "/destinations", "/destinations/resume", destination="ai")
    assert not node.spool.destinations.state("ai").paused
    answer = posted(client, "/destinations", "/destinations/echo", destination="ai")
    assert answer.headers["location"] == "/destinations"
    assert "C-ECHO" in client.get("/destinations").text


def test_a_label_is_what_adapt_reads(node: Node, client: Client, tmp_path: Path) -> None:
    first = decided(node.spool, "1.2.3", prediction=DOUBT)
    second = decided(node.spool, "1.2.4", prediction=DOUBT)
    assert second in client.get("/review").text
    answer = posted(client, "/review", "/review/label", label="pediatric_chest")
    assert answer.headers["location"].startswith("/review?kind=doubt&last=")
    page = client.get("/review").text
    assert first in page
    assert second not in page
    posted(client, f"/instances/{second}", "/review/label", label="adult_chest")
    text = client.get("/review/labels.csv").text
    assert [(row["file"], row["label"], row["who"]) for row in csv.DictReader(io.StringIO(text))] == [
        (second, "adult_chest", "local")
    ]
    (tmp_path / "labels.csv").write_text(text)
    (item,) = read_manifest(tmp_path / "labels.csv", Path(), any_split=True)
    assert (str(item.path), item.label) == (second, "adult_chest")


def test_the_record_says_who_did_what(node: Node, client: Client) -> None:
    node.spool.event("=cmd", who="+mueller", much=1)
    node.spool.orders.pause("ai", "mueller")
    page = client.get("/record?by=people").text
    assert "mueller" in page
    assert "ai paused" in page
    rows = list(csv.reader(io.StringIO(client.get("/record.csv").text)))
    assert ["'=cmd", "'+mueller"] in [row[1:3] for row in rows]


def test_a_picture_is_made_in_a_process_of_its_own(node: Node, client: Client) -> None:
    which = decided(node.spool, "1.2.3", whole=True)
    answer = client.get(f"/instances/{which}/picture.png")
    assert answer.status_code == 404  # it has no Rows and Columns
    assert "image/png" not in answer.headers["content-type"]
    assert client.get(f"/instances/{'0' * 32}/picture.png").status_code == 404


# -- who may


def test_other_machines_and_other_names_are_refused(node: Node) -> None:
    page = Page(node)
    for address, host, status in (
        ("10.0.0.9", "http://127.0.0.1", 403), ("127.0.0.1", "http://evil.example", 403),
        ("127.0.0.1", "http://localhost:8080", 200), ("::1", "http://[::1]:8080", 200),
    ):  # fmt: skip
        with client_of(page, address, host) as client:
            assert client.get("/").status_code == status, (address, host)
    page.stop()


def test_orders_from_elsewhere_are_refused(node: Node, client: Client) -> None:
    decided(node.spool)
    for data in ({}, {"csrf": "x"}, {"csrf": ""}):
        answer = client.post("/destinations/pause", data={"destination": "ai"} | data)
        assert answer.status_code == 403, data
    data = {"destination": "ai", "csrf": token(client)}
    elsewhere = client.post("/destinations/pause", data=data, headers={"origin": "http://evil.example"})
    assert elsewhere.status_code == 403
    assert node.ordered == []
    assert client.get("/destinations/pause").status_code == 405
    back = client.post("/destinations/pause", data=data | {"back": "/\\evil.example/"})
    assert back.headers["location"] == "/?done=paused"
    assert client.post("/destinations/pause", content=b"a=" + b"x" * 300_000).status_code == 413


def test_paths_lead_nowhere_else(client: Client) -> None:
    for path in ("/static/../page.py", "/static/%2e%2e/site.py", "/static//etc/passwd", "/static/page.py"):
        assert client.get(path).status_code == 404, path
    for path in ("/instances/..%2f..", "/instances/%00", "/instances/" + "f" * 4000, "/instances/" + "é" * 32):
        assert client.get(path).status_code == 404, path
    for name in CONTENTS:
        assert client.get(f"/static/{name}").status_code == 200


def test_odd_addresses_are_answered(client: Client) -> None:
    for path in (
        "/instances?before=%00", "/instances?text=%ff", "/instances?since=x", "/instances?class=x", "/record?before=x",
        "/record?before=999999999999999999999", "/review?kind=x&before=%00&last=%3Cb%3E", "/?done=%3Cb%3E",
        "/instances?text=" + "9" * 5000, "/record?kind=%00",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code in (200, 400), (path, answer.text)
        assert "<b>" not in answer.text.replace("<b>'", "")


def test_the_classes_have_their_keys(node: Node, client: Client) -> None:
    decided(node.spool, prediction=DOUBT)
    page = client.get("/review").text
    keys = re.findall(r'data-key="(\d)"><kbd>\d</kbd> (\w+)', page)
    assert keys == [(str(place), name) for place, name in enumerate(CLASSES, 1)]
