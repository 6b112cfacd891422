"""Rules to try on the page, over what came; the tables that have decided; nothing of it changes anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from router.config import ConfigError
from router.config.candidate import MOST, candidate
from router.flow import Role
from router.page import candidate as page
from router.page.kept_rules import in_yaml
from tests.unit.paging import DOUBT, HOSTILE, Client, Elements, Node, client_of, decided, node_in

TO_PACS = "rules:\n- {name: all spines, when: {class: spine}, send: pacs}\notherwise: {send: pacs}\n"


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with client_of(node, Role.VIEW, Role.IMAGES, Role.RULES) as client:
        yield client


def tried(client: Client, text: str, **more: str) -> Any:
    forms = Elements(client.get("/rules/candidate").text).forms
    proof = next(form["csrf"] for form in forms if form["action"] == "/rules/candidate")
    return client.post("/rules/candidate", data={"csrf": proof, "text": text, "last": "500", "since": ""} | more)


def test_what_would_go_elsewhere_is_counted_and_linked(node: Node, client: Client) -> None:
    spines = [decided(node.spool, f"1.2.{n}") for n in range(3)]
    decided(node.spool, "1.3", prediction=DOUBT, rule="otherwise", to=("pacs",))
    found = tried(client, TO_PACS).text
    assert "4 instances: 3 would go elsewhere, 1 would not" in found
    assert "3 instances: ai → pacs" in found
    links = Elements(found).links
    assert [which for which in spines if f"/instances/{which}" not in links] == []
    assert found.count("/picture.png") == 3
    assert '<span class="comes">' in found
    assert '<span class="goes">' in found
    assert Elements(found).inline == []
    assert node.ordered == []


def test_the_rules_in_force_are_in_the_form_and_change_nothing(node: Node, client: Client) -> None:
    decided(node.spool, rule="<b>'spine'")
    text = client.get("/rules/candidate").text
    assert "&lt;b&gt;&#39;" in text
    written = in_yaml(node.loaded.rules.text)
    found = tried(client, written).text
    assert "These are the rules in force." in found
    assert "0 would go elsewhere" in found


def test_pictures_need_their_role(node: Node) -> None:
    decided(node.spool)
    with client_of(node, Role.VIEW, Role.RULES) as client:
        found = tried(client, TO_PACS).text
    assert "1 would go elsewhere" in found
    assert "picture.png" not in found


def test_mistakes_are_named_with_their_lines_and_hostile_text_is_text(node: Node, client: Client) -> None:
    decided(node.spool)
    wrong = f"rules:\n- {{name: x, when: {{class: spin}}, send: nowhere}}\n# {HOSTILE}\notherwise: {{send: pacs}}\n"
    found = tried(client, wrong).text
    assert "Line 2:" in found
    assert "<script>alert" not in found
    assert str(escape(HOSTILE)) in found, "the text is still there to be mended"
    named = f'rules:\n- {{name: "{HOSTILE.replace(chr(34), "")}", when: {{class: spine}}, send: pacs}}\n'
    found = tried(client, named + "otherwise: {send: pacs}\n").text
    assert "1 would go elsewhere" in found
    assert "<script>alert" not in found
    for bad in ("", "[", "a: *b", "rules: []", "rules: 7\notherwise: {send: pacs}", "x" * (MOST + 1)):
        assert "cannot be tried" in tried(client, bad).text, bad[:20]
    assert tried(client, TO_PACS, last="9999999").status_code == 400
    assert tried(client, TO_PACS, since="yesterday-ish").status_code == 400


def test_the_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_ROUTER_SECRET", "hunter2")
    text = 'rules:\n- {name: "${DICOM_ROUTER_SECRET}", when: {class: spine}, send: pacs}\notherwise: {send: pacs}\n'
    assert "hunter2" not in candidate(text, {"pacs": True}).table.text


def test_a_new_destination_may_be_tried_and_an_unknown_one_not() -> None:
    rules = "rules: []\notherwise: {send: new}\n"
    assert candidate(rules + "destinations: {new: {host: x}}\n", {"pacs": True}).enabled == {"new", "pacs"}
    with pytest.raises(ConfigError, match="new"):
        candidate(rules, {"pacs": True})


def test_it_says_how_far_it_came(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        decided(node.spool, f"1.2.{n}")
    monkeypatch.setattr(page, "TRY_FOR", -1.0)
    found = tried(client, TO_PACS).text
    assert "There was no time for more." in found
    assert "1 instance: 1 would go elsewhere" in found


def test_one_person_tries_rules_at_a_time(client: Client) -> None:
    with page.ONE_AT_A_TIME:
        assert tried(client, TO_PACS).status_code == 503
    assert tried(client, TO_PACS).status_code == 200


def test_rules_are_tried_by_those_who_may_change_them(node: Node) -> None:
    with client_of(node, Role.VIEW, Role.OPERATE) as client:
        assert "/rules/candidate" not in Elements(client.get("/rules").text).links
        assert client.get("/rules/candidate").status_code == 403
        proof = next(form["csrf"] for form in Elements(client.get("/logout").text).forms if "csrf" in form)
        assert client.post("/rules/candidate", data={"csrf": proof, "text": "", "last": "500"}).status_code == 403


def test_tables_that_decided_are_kept_and_compared(node: Node, client: Client) -> None:
    old = candidate("rules:\n- {name: '<script>alert(1)</script>', when: {class: spine}, send: pacs}\n"
                    "otherwise: {send: pacs}\n", {"pacs": True, "ai": True}).table  # fmt: skip
    decided(node.spool, rules=old)
    assert "No such rules" not in client.get("/rules/tables").text
    assert f"/rules/tables/{old.digest}" in Elements(client.get("/rules/tables").text).links
    shown = client.get(f"/rules/tables/{old.digest}").text
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert" in shown
    assert '<span class="comes">' in shown
    for bad in ("0" * 32, "g" * 32, "é", old.digest[:8]):
        assert client.get(f"/rules/tables/{bad}").status_code == 404, bad
