"""Orders of the page while the database is locked: a person is told in time, and pages are shown meanwhile."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from router.flow import Role
from router.page import site
from router.spool import DestinationState
from tests.unit.paging import Client, Node, client_of, node_in, token


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path, "sqlite") as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with client_of(node, Role.VIEW, Role.OPERATE) as client:
        yield client


@contextmanager
def locked(node: Node) -> Iterator[None]:
    """Somebody holds the database, as a tool of a person may."""
    with closing(sqlite3.connect(node.loaded.spool.path / "node.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def paused(node: Node) -> DestinationState:
    return node.spool.destinations.state("ai")


def test_a_person_is_told_in_time_and_the_order_is_done_later(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "ORDER_SECONDS", 0.1)
    fields = {"csrf": token(client), "destination": "ai", "back": "/destinations"}
    with locked(node):
        answer = client.post("/destinations/pause", data=fields)
        assert answer.status_code == 503
        assert "has not taken it within 0.1 s: it is done when it does" in answer.text
        said = {client.post("/destinations/pause", data=fields | {"destination": "pacs"}).text for _ in range(3)}
        assert any("wait for the database: nothing was done" in one for one in said)
        assert client.get("/destinations").status_code == 200, "who looks does not wait"
    until = time.monotonic() + 20
    while not paused(node).paused:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_orders_that_wait_are_bounded(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "ORDER_SECONDS", 0.05)
    fields = {"csrf": token(client), "destination": "ai"}
    with locked(node):
        answers = [client.post("/destinations/pause", data=fields) for _ in range(site.ORDERING + 1)]
        assert {one.status_code for one in answers} == {503}
        assert "nothing was done" in answers[-1].text
    assert client.get("/").status_code == 200
