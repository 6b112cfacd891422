"""Review: a choice that also sends, and hidden repeats that measure how people agree with themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from router.config import load
from router.page import repeats
from router.page.repeats import ONE_IN, RECENT, Agreement, Given, agreement, repeat_before
from tests.unit.paging import ALL, DOUBT, EVERYTHING, RULES, Client, Elements, Node, client_of, decided, node_in, posted

BODY_PART = 0x00180015
SPINE_RULE, AGREES_RULE = '{class: spine, confidence: ">= 0.5"}', "{class: spine, header_agrees: true}"


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with client_of(node, *EVERYTHING) as client:
        yield client


def owed(node: Node, which: str) -> set[str]:
    return {one.destination for one in node.spool.views.deliveries(instance_id=which)}


# -- also send


def test_a_label_can_also_send(node: Node, client: Client) -> None:
    which = decided(node.spool, prediction=DOUBT, to=("pacs",))
    assert "→ ai" in client.get("/review").text
    answer = posted(client, "/review", "/review/label", label="spine", send="yes")
    assert "send=yes" in answer.headers["location"]
    assert "done=labelled-and-sent" in answer.headers["location"]
    assert owed(node, which) == {"pacs", "ai"}
    assert [type(order).__name__ for order, _ in node.ordered] == ["Label", "SendAlso"]
    decided(node.spool, "1.2.4", prediction=DOUBT)
    assert 'data-key="a" checked' in client.get(answer.headers["location"]).text


def test_it_sends_only_if_wanted_and_not_twice(node: Node, client: Client) -> None:
    second, first = (decided(node.spool, uid, prediction=DOUBT, to=("pacs",)) for uid in ("1.2", "1.3"))
    posted(client, "/review", "/review/label", label="spine", send="")
    assert owed(node, first) == {"pacs"}
    answer = posted(client, "/review", "/review/label", label="adult_chest", send="yes")  # pacs, by `otherwise`
    assert "done=labelled-not-sent" in answer.headers["location"]
    assert owed(node, second) == {"pacs"}


def test_the_header_of_the_image_counts(node: Node, client: Client, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(f"spool: {{path: spool}}{RULES.replace(SPINE_RULE, AGREES_RULE)}")
    node.loaded = replace(node.loaded, rules=load(tmp_path / "other.yaml", {}).rules)
    for uid, part, places in (("1.2", "CHEST", set()), ("1.3", "LSPINE", {"ai"}), ("1.4", "", set())):
        which = decided(node.spool, uid, prediction=DOUBT, to=("pacs",), header={BODY_PART: (part,)} if part else {})
        posted(client, "/review", "/review/label", label="spine", send="yes")
        assert owed(node, which) - {"pacs"} == places, part


# -- hidden repeats


def labelled(node: Node, n: int) -> list[str]:
    ids = [decided(node.spool, f"1.2.{k}", prediction=DOUBT) for k in range(n)]
    for which in ids:
        node.spool.orders.label(which, "spine", ALL)
    return ids


def test_an_image_comes_again_and_nothing_says_so(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "ONE_IN", 1)
    old = labelled(node, RECENT + 1)[0]
    new = decided(node.spool, "1.9", prediction=DOUBT)
    again = client.get("/review").text
    assert f"/instances/{old}/picture.png" in again
    assert again == client.get("/review").text
    monkeypatch.setattr(repeats, "ONE_IN", 1 << 70)
    plain = client.get("/review").text
    assert f'name="instance" value="{new}"' in plain
    shape = [(form["action"], sorted(form)) for form in Elements(again).forms]
    assert shape == [(form["action"], sorted(form)) for form in Elements(plain).forms]
    monkeypatch.setattr(repeats, "ONE_IN", 1)
    posted(client, "/review", "/review/label", label="abdominal")
    page = client.get("/review").text
    assert f'name="instance" value="{new}"' in page
    assert "you 0 of 1, all reviewers 0 of 1" in page
    rows = csv.DictReader(io.StringIO(client.get("/review/labels.csv").text))
    assert [row["label"] for row in rows if row["file"] == old] == ["abdominal"]


def test_a_repeat_can_be_skipped_and_needs_its_picture(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "ONE_IN", 1)
    old = labelled(node, RECENT + 1)[0]
    before, new = (decided(node.spool, uid, prediction=DOUBT) for uid in ("1.8", "1.9"))
    (skip,) = [link for link in Elements(client.get("/review").text).links if f"before={new}" in link]
    assert f"before={before}" in client.get(skip).text
    (owed_there,) = [one for one in node.spool.views.deliveries(instance_id=old) if one.destination == "ai"]
    node.spool.orders.discard([owed_there.id], ALL)
    node.spool.orders.wipe(ALL)
    assert f'name="instance" value="{new}"' in client.get("/review").text


GIVEN = [Given("ann", f"{n:032x}", "spine") for n in range(RECENT + 3)]


def test_a_repeat_is_fixed_by_ids_and_comes_once() -> None:
    ids = [f"{n:032x}" for n in range(1000, 5000)]
    chosen = [repeat_before(one, "ann", GIVEN) for one in ids]
    assert chosen == [repeat_before(one, "ann", GIVEN) for one in ids]
    share = sum(one is not None for one in chosen) / len(ids)
    assert 0.5 / ONE_IN < share < 2 / ONE_IN
    assert set(chosen) == {None, *(one.instance_id for one in GIVEN[:3])}
    place = next(n for n, one in enumerate(chosen) if one)
    answered = [*GIVEN, Given("ann", str(chosen[place]), "spine")]
    assert repeat_before(ids[place], "ann", answered) is None
    assert repeat_before(ids[place], "bob", GIVEN) is None
    assert repeat_before(ids[place], "ann", GIVEN[:RECENT]) is None


def test_agreement_is_with_oneself_and_a_correction_is_none() -> None:
    assert agreement([*GIVEN, Given("ann", GIVEN[0].instance_id, "spine")]) == Agreement(1, 1)
    assert agreement([*GIVEN, Given("ann", GIVEN[0].instance_id, "others")]) == Agreement(0, 1)
    assert agreement([*GIVEN, Given("ann", GIVEN[-1].instance_id, "others")]) == Agreement(0, 0)
    assert agreement([*GIVEN, Given("bob", GIVEN[0].instance_id, "others")]) == Agreement(0, 0)
    assert agreement([*GIVEN, Given("ann", GIVEN[0].instance_id, "spine")], "bob") == Agreement(0, 0)
