"""The page and the gate together: what each role sees, what the others are told, and the way in and out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.flow import Role
from router.page.site import MENU
from router.page.static_files import CONTENTS
from router.web.access.pages import FOLDER
from tests.unit.paging import Elements, Node, client_of, decided, node_in, token


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database) as node:
        yield node


def menu_of(text: str) -> set[str]:
    return {href for _, href, _ in MENU if f'<li><a href="{href}"' in text}


def test_the_account_of_the_machine_sees_and_operates_and_no_more(node: Node) -> None:
    which = decided(node.spool)
    with client_of(node) as client:
        assert menu_of(client.get("/").text) == {href for _, href, role in MENU if role is Role.VIEW}
        story = client.get(f"/instances/{which}").text
        assert "picture.png" not in story
        assert "dicom-router user add" in story
        assert "/logout" not in story
        for path in ("/review", "/record", "/record.csv", "/review/labels.csv", f"/instances/{which}/picture.png"):
            answer = client.get(path)
            assert answer.status_code == 403, path
            assert "dicom-router user add" in answer.text
            assert "<nav" in answer.text
        data = {"csrf": token(client), "destination": "ai"}
        assert client.post("/destinations/pause", data=data).status_code == 303
        assert client.post("/rules/reload", data=data).status_code == 403


def test_who_only_views_gives_no_order(node: Node) -> None:
    which = decided(node.spool)
    with client_of(node, Role.VIEW) as client:
        for path in ("/", "/instances", f"/instances/{which}", "/destinations", "/attention", "/rules", "/model"):
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert not [form for form in Elements(answer.text).forms if form["method"] == "post"], path
        refused = client.get("/record")
        assert refused.status_code == 403
        assert "view needs the role &#39;admin&#39;" in refused.text
        assert "/logout" in Elements(refused.text).links
        proof = next(form["csrf"] for form in Elements(client.get("/logout").text).forms if "csrf" in form)
        for order in ("pause", "resume", "echo", "test"):
            data = {"csrf": proof, "destination": "ai"}
            assert client.post(f"/destinations/{order}", data=data).status_code == 403, order
    assert node.ordered == []


def test_pictures_are_for_those_who_may_see_them(node: Node) -> None:
    which = decided(node.spool)
    with client_of(node, Role.VIEW, Role.IMAGES) as client:
        assert "/review" in menu_of(client.get("/").text)
        assert f'src="/instances/{which}/picture.png"' in client.get(f"/instances/{which}").text
        assert client.get("/review").status_code == 200


def test_out_by_the_link_beside_the_name(node: Node) -> None:
    with client_of(node, Role.VIEW) as client:
        page = client.get("/").text
        assert '<span title="Who you are">view</span>' in page
        assert "/logout" in Elements(page).links
        (form,) = Elements(client.get("/logout").text).forms
        assert client.post("/logout", data={"csrf": form["csrf"]}).headers["location"] == "/login"
        assert client.get("/").headers["location"] == "/login?next=/"


def test_the_way_in_has_the_colours_of_the_page() -> None:
    def colours(css: str) -> list[tuple[str, str]]:
        return re.findall(r"(--[\w-]+): (#\w{6});", css)

    pairs = colours((FOLDER / "access.css").read_text())
    assert len(pairs) == 18
    assert set(pairs) <= set(colours(CONTENTS["page.css"].decode()))
