"""The page: each view on both databases, hostile texts as text, orders that ask first, nothing from elsewhere."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from router.config.settings import ModelSettings
from router.flow import CLASSES, Caller
from router.node.orders import EndStudy, SendAlso
from router.page import pictures
from router.page.site import MENU
from router.page.static_files import CONTENTS
from router.spool import InstanceState, Spool, SpoolError
from router.spool.keyed import Key, key_of
from router.spool.schema import instance
from router.spool.sealed import sealed
from router.training.data import read_manifest
from router.web.access.pages import HEADERS
from router.web.access.visitors import IN_BACKGROUND
from tests.unit.paging import (
    ALL,
    DOUBT,
    EVERYTHING,
    HOSTILE,
    Client,
    Elements,
    Node,
    bury,
    client_of,
    decided,
    node_in,
    posted,
    searched,
    sure,
    token,
)
from tests.unit.peer import wait_for
from tests.unit.spooling import CALLERS
from tests.unit.webpeer import WebPeer


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with client_of(node, *EVERYTHING) as client:
        yield client


PAGES = [href for _, href, _ in MENU] + ["/notices", "/attention/jobs", "/rules/candidate", "/rules/tables"]


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
    asked += [f"/instances?rule={HOSTILE}", f"/instances?from={HOSTILE}", f"/record?kind={HOSTILE}"]
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
    assert "1 buried for ai" in page
    assert f'hx-headers=\'{{"{IN_BACKGROUND}"' in page.casefold()  # else a session that only looks would never end
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
        answer = searched(client, line)
        assert answer.status_code == 303
        page = client.get(answer.headers["location"]).text
        assert f"/instances/{which}" in page, line
    assert 'value="rule:&#34;a b&#34;"' in client.get("/instances?rule=a+b").text
    for line, said in (("colour:red", "There is no word colour"), ("a b", "one UID"), ("class:spin", "")):
        answer = searched(client, line)
        if answer.status_code == 303:
            answer = client.get(answer.headers["location"])
        assert answer.status_code == 400
        assert said in answer.text


def test_what_is_looked_for_stands_in_no_address(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.page.instances.PAGE", 1)
    ids = [decided(node.spool, f"1.2.{n}") for n in range(2)]
    key = key_of(node.loaded.spool.path)
    assert key is not None
    hashed = instance.update().values(accession=key.accession("ACC-4711"))
    node.spool.database.run(lambda connection: connection.execute(hashed) and None)
    address = searched(client, "acc-4711 class:spine").headers["location"]
    page = client.get(address)
    assert "4711" not in address
    assert searched(client, "acc-4711 class:spine").headers["location"] == address, "the same page has one address"
    assert 'value="class:spine acc-4711"' in page.text, "the box has what was typed"
    found = Elements(page.text)
    assert [link for link in (*found.links, *found.loaded) if "4711" in link] == []
    assert f"/instances/{ids[1]}" in found.links
    (older,) = [link for link in found.links if "before=" in link]
    assert f"/instances/{ids[0]}" in Elements(client.get(older).text).links
    (many,) = [form for form in found.forms if form["action"] == "/many"]
    assert [value for value in many.values() if "4711" in value] == []
    asks = client.post(
        "/many", data={n: v for n, v in many.items() if n not in ("action", "method")} | {"act": "retry"}
    )
    assert "Retry 2 deliveries" in asks.text
    typed = [asks.text, address, *found.links]
    assert all("4711" not in one for one in typed)


def test_a_link_of_another_node_is_refused(node: Node, client: Client) -> None:
    word = searched(client, "1.2.3").headers["location"].split("find=")[1]
    for bad in (word[:-4] + "AAAA", sealed(Key(b"x" * 32), "1.2.3"), "A", "é", word * 200, "AAAA" * 4):
        answer = client.get(f"/instances?find={bad}")
        assert (answer.status_code, "not of this node" in answer.text) == (400, True), bad
    for query in ("text=1.2.3", "q=1.2.3"):
        assert "Type it into the box" in client.get(f"/instances?{query}").text


def test_a_cause_leads_to_exactly_its_rows(node: Node, client: Client) -> None:
    ids: dict[str, list[str]] = {}
    for n, reason in enumerate(("refused", HOSTILE, "refused", "")):
        ids.setdefault(reason, []).append(decided(node.spool, f"1.2.{n}"))
        bury(node.spool, reason=reason)
    decided(node.spool, "1.3", to=("pacs",))
    bury(node.spool, "pacs", "refused")
    for page in ("/attention?to=ai", "/destinations"):
        links = [
            link for link in dict.fromkeys(Elements(client.get(page).text).links) if "cause=" in link and "ai" in link
        ]
        rows = [[one for one in ids.values() if f"/instances/{one[0]}" in client.get(link).text] for link in links]
        assert sorted(map(str, rows)) == sorted(str([one]) for one in ids.values()), page
        assert [link for link in links if "refused" in link] == []
        (two,) = [link for link in links if f"/instances/{ids['refused'][0]}" in client.get(link).text]
        assert client.get(two).text.count("data-row") == 2


def test_without_a_key_causes_are_shown_and_not_acted_on(node: Node, client: Client) -> None:
    """Without its key nothing tells one cause from another in an address; an order must not be for all of them."""
    decided(node.spool)
    bury(node.spool, reason="refused")
    (node.loaded.spool.path / "find.key").write_bytes(b"damaged")
    page = Elements(client.get("/attention").text)
    assert "/many" not in [form["action"] for form in page.forms]
    assert "/instances?to=ai&state=buried" in page.links
    assert client.get("/destinations").status_code == 200
    assert searched(client, "1.2.3").status_code in (409, 503)
    assert searched(client, "class:spine").status_code == 303


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


def test_what_waits_for_a_quota_says_so(node: Node, client: Client) -> None:
    first, second = decided(node.spool), decided(node.spool, "1.2.4")
    there = node.loaded.destinations
    node.loaded = replace(node.loaded, destinations=there | {"ai": replace(there["ai"], limit_rate=1 / 60)})
    assert len(node.spool.deliveries.claim("ai", 5, rate=1 / 60)) == 1
    stories = [client.get(f"/instances/{which}").text for which in (first, second)]
    assert ["It waits for its quota: 1 in a minute, since" in story for story in stories] in (
        [False, True],
        [True, False],
    )


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


def test_a_whole_study_is_sent_and_the_story_says_whom_each_follows(node: Node, client: Client) -> None:
    study = {0x0020000D: ("1.2.840.9",)}
    first = decided(node.spool, header=study)
    second = decided(node.spool, "1.2.4", header=study)
    answer = posted(client, f"/instances/{first}", f"/instances/{first}/send-also", destination="pacs", study="yes")
    assert answer.headers["location"] == f"/instances/{first}?done=study-sent"
    assert node.ordered[-1][0] == SendAlso(first, "pacs", study=True)
    while node.spool.studies.step({"ai": None, "pacs": None}) is not None:
        pass
    story = client.get(f"/instances/{second}").text
    assert f'It follows <a href="/instances/{first}">instance {first[:12]}</a> of its study.' in story
    assert "Sent to pacs with its study" in story
    assert "Send the study" in story
    assert "All of its study follows to pacs." in story
    answer = posted(client, f"/instances/{second}", f"/instances/{second}/end-study", destination="pacs")
    assert answer.headers["location"] == f"/instances/{second}?done=study-ended"
    assert [order for order, _ in node.ordered][-1:] == [EndStudy(second, "pacs")]
    story = client.get(f"/instances/{second}?done=study-ended").text
    assert "Nothing more of its study follows there." in story
    assert "Nothing more of its study follows to pacs" in story
    assert "All of its study follows" not in story
    alone = decided(node.spool, "1.2.5")
    assert "Send the study" not in client.get(f"/instances/{alone}").text


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
    assert who == ALL


def test_a_cause_is_one_line_with_one_button(node: Node, client: Client) -> None:
    for n in range(3):
        decided(node.spool, f"1.2.{n}")
        bury(node.spool, reason="refused")
    decided(node.spool, "1.3")
    bury(node.spool, reason="another cause")
    assert "3 deliveries" in client.get("/attention").text
    assert "Retry 3 deliveries to ai?" in posted(client, "/attention", "/many").text


def test_pause_and_resume(node: Node, client: Client) -> None:
    posted(client, "/destinations", "/destinations/pause", destination="ai")
    assert node.spool.destinations.state("ai").paused
    posted(client, "/destinations", "/destinations/resume", destination="ai")
    assert not node.spool.destinations.state("ai").paused
    answer = posted(client, "/destinations", "/destinations/echo", destination="ai")
    assert answer.headers["location"] == "/destinations"
    assert "C-ECHO" in client.get("/destinations").text


def test_a_web_server_is_shown_by_its_address_and_asked_by_options(node: Node, client: Client) -> None:
    with WebPeer() as peer:
        web = peer.destination(name="ai")
        node.loaded = replace(node.loaded, destinations=node.loaded.destinations | {"ai": web})
        assert peer.url in client.get("/destinations").text
        posted(client, "/destinations", "/destinations/echo", destination="ai")
        assert [request.method for request in peer.requests] == ["OPTIONS"]


def test_a_test_image_is_in_the_record_with_how_it_ended(node: Node, client: Client) -> None:
    asked = posted(client, "/destinations", "/destinations/test", destination="ai")
    assert "Send a synthetic X-ray to ai?" in asked.text
    posted(client, "/destinations", "/destinations/test", destination="ai", sure="yes")
    wait_for(lambda: node.spool.views.events(kind="test image sent"))
    (kept,) = node.spool.views.events(kind="test image sent")
    assert (kept.destination, kept.detail["who"], bool(kept.detail["error"])) == ("ai", ALL, True)


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
        (second, "adult_chest", ALL)
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


def test_a_picture_does_not_wait_for_ever_for_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection would end without an answer."""
    monkeypatch.setattr(pictures, "WITH_TURN", 0.05)

    async def second() -> None:
        made = pictures.Pictures(ModelSettings())
        async with made._turns.setdefault("ann", asyncio.Lock()):
            await asyncio.wait_for(made.png("ann", "0" * 32, Path("none")), 10)

    with pytest.raises(pictures.NoPictureError, match="ask again"):
        asyncio.run(second())


def test_a_picture_waits_for_no_database(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    which = decided(node.spool, "1.2.3", whole=True)

    def stalls(*_: object) -> Path:
        raise SpoolError("the database did not answer")

    monkeypatch.setattr(Spool, "blob", stalls)
    assert client.get(f"/instances/{which}/picture.png").status_code == 503


# -- who may


def test_other_machines_and_other_names_are_refused(node: Node) -> None:
    for address, host, status in (
        ("10.0.0.9", "http://127.0.0.1", 403), ("127.0.0.1", "http://evil.example", 403),
        ("127.0.0.1", "http://localhost:8080", 200), ("::1", "http://[::1]:8080", 200),
    ):  # fmt: skip
        with client_of(node, address=address, host=host) as client:
            assert client.get("/").status_code == status, (address, host)


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
    assert client.post("/destinations/pause", content=b"a=" + b"x" * 1_100_000).status_code == 413


def test_paths_lead_nowhere_else(client: Client) -> None:
    for path in ("/static/../page.py", "/static/%2e%2e/site.py", "/static//etc/passwd", "/static/page.py"):
        assert client.get(path).status_code in (400, 404), path
    for path in ("/instances/..%2f..", "/instances/%00", "/instances/" + "f" * 4000, "/instances/" + "é" * 32):
        assert client.get(path).status_code in (400, 404), path
    for name in CONTENTS:
        assert client.get(f"/static/{name}").status_code == 200


def test_odd_addresses_are_answered(client: Client) -> None:
    for path in (
        "/instances?before=%00", "/instances?find=%ff", "/instances?since=x", "/instances?class=x", "/record?before=x",
        "/record?before=999999999999999999999", "/review?kind=x&before=%00&last=%3Cb%3E", "/?done=%3Cb%3E",
        "/instances?find=" + "9" * 5000, "/record?kind=%00",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code in (200, 400), (path, answer.text)
        assert "<b>" not in answer.text.replace("<b>'", "")


def test_the_classes_have_their_keys(node: Node, client: Client) -> None:
    decided(node.spool, prediction=DOUBT)
    page = client.get("/review").text
    keys = re.findall(r'data-key="(\d)"><kbd>\d</kbd> (\w+)', page)
    assert keys == [(str(place), name) for place, name in enumerate(CLASSES, 1)]
