"""Why not that rule: the story of an instance has every rule with its answer and the condition that decided."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from router.flow import Role
from router.spool.schema import instance
from tests.unit.paging import DOUBT, HOSTILE, Elements, Node, client_of, decided, node_in

RULES = """
destinations:
  pacs: {ae_title: PACS, host: 127.0.0.1, port: 104}
  ai: {ae_title: AI, host: 127.0.0.1, port: 105}
rules:
- {name: "<script>alert(1)</script>", when: {class: spine}, send: ai}
- {name: by name, when: {any: [{StudyDescription: X}, {confidence: ">= 0.9"}]}, send: ai}
- {name: apart, when: {header_agrees: false}, send: pacs}
otherwise: {send: pacs}
"""


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database, RULES) as node:
        yield node


def test_each_rule_has_its_answer(node: Node) -> None:
    which = decided(node.spool, prediction=DOUBT, header={0x00081030: (HOSTILE,)})
    with client_of(node, Role.VIEW, Role.IMAGES) as client:
        page = client.get(f"/instances/{which}").text
    assert "Why not another rule?" in page
    assert "<script>alert" not in page
    assert "because of class" in page
    assert "found: uncertain" in page
    assert "found: &lt;script&gt;" in page
    assert "any of these" in page
    assert "those that decided are not kept any more" in page
    assert Elements(page).inline == []


def test_what_the_header_says_is_for_those_who_may_see_images(node: Node) -> None:
    which = decided(node.spool, header={0x00081030: ("Secret words",)})
    with client_of(node, Role.VIEW) as client:
        page = client.get(f"/instances/{which}").text
    assert "Why not another rule?" in page
    assert "found:" not in page
    assert "Secret words" not in page


def test_an_old_decision_says_that_it_kept_nothing(node: Node) -> None:
    which = decided(node.spool, prediction=DOUBT)
    node.spool.database.run(lambda c: c.execute(instance.update().values(header=None)) and None)
    with client_of(node, Role.VIEW, Role.IMAGES) as client:
        page = client.get(f"/instances/{which}").text
    assert "kept nothing of the header" in page
    assert "found: not kept" in page


def test_rules_that_nobody_understands_any_more_leave_the_story_whole(node: Node) -> None:
    which = decided(node.spool)
    table = "d" * 32
    node.spool.database.run(lambda c: c.execute(
        sa.text("INSERT INTO rule_table (digest, first_used, last_used, text, asks) VALUES (:d, 1, 1, :t, '{}')"),
        {"d": table, "t": '{"rules": [{"name": "x", "when": {"unheard": "1"}, "send": "ai"}]}'},
    ) and None)  # fmt: skip
    with client_of(node, Role.VIEW) as client:
        answer = client.get(f"/instances/{which}")
    assert answer.status_code == 200
    assert "this version does not understand them" in answer.text


def test_without_a_decision_there_is_nothing_to_explain(node: Node) -> None:
    from tests.unit.spooling import CALLERS, accept

    accept(node.spool, b"1.9", "1.9", CALLERS[0])
    (claim,) = node.spool.decisions.claim(1)
    with client_of(node, Role.VIEW) as client:
        page = client.get(f"/instances/{claim.instance.id}").text
    assert "Why not another rule?" not in page
