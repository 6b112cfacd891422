"""What people are told, on the page, and a silence from there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.flow import Role
from router.spool.notices import Notice
from tests.unit.paging import HOSTILE, Elements, Node, client_of, node_in


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database) as node:
        yield node


def goes_on(node: Node, text: str) -> None:
    now = time.time()
    notice = Notice("buried", "ai", "", text, now - 60, now, now - 30)
    node.spool.notices.exchange("here", lambda *_: ([notice], None))


def test_what_goes_on_is_shown_as_text(node: Node) -> None:
    goes_on(node, HOSTILE)
    with client_of(node, Role.VIEW) as client:
        page = client.get("/notices").text
        proof = next(form["csrf"] for form in Elements(client.get("/logout").text).forms if "csrf" in form)
        data = {"csrf": proof, "condition": "", "hours": "1"}
        assert client.post("/notices/silence", data=data).status_code == 403
        assert "/notices" in Elements(client.get("/").text).links
    assert "&lt;script&gt;alert" in page
    assert "<script>alert" not in page
    assert "Nobody is told of anything" in page
    assert "/notices/silence" not in page


def test_a_silence_and_its_end(node: Node) -> None:
    with client_of(node, Role.VIEW, Role.OPERATE) as client:
        (form,) = [one for one in Elements(client.get("/notices").text).forms if one["action"] == "/notices/silence"]
        data = {"csrf": form["csrf"], "back": "/notices"}
        answer = client.post("/notices/silence", data=data | {"condition": "buried", "hours": "4"})
        assert answer.headers["location"] == "/notices?done=silenced"
        (silence,) = node.spool.notices.silences()
        assert (silence.condition, silence.who) == ("buried", "view-operate")
        assert 3.9 * 3600 < silence.until - time.time() < 4.1 * 3600
        assert "buried until" in client.get("/notices").text
        again = client.post("/notices/silence", data=data | {"condition": "buried", "hours": "0"})
        assert again.headers["location"] == "/notices?done=told-again"
        assert node.spool.notices.silences() == []
        for bad in ({"condition": "buried", "hours": "9999"}, {"condition": HOSTILE, "hours": "1"}, {"hours": "1"}):
            assert client.post("/notices/silence", data=data | bad).status_code in (400, 409), bad
