"""The list of nodes as people see it: what needs them, the command, the page, and who did not follow a reload."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.commands.nodes import WITHOUT, troubles
from router.commands.refusing import refusing
from router.commands.status import status
from router.config.settings import ROLES
from router.forward.failing import Failing
from router.spool.nodes import NodeRow, NodeState
from tests.unit.paging import HOSTILE, client_of, node_in
from tests.unit.several import SHARED


def row(name: str, *roles: str, ago: float = 1.0, choice: int = 0, problem: str = "", **about: Any) -> NodeRow:
    state = NodeState(1, choice, problem, about)
    return NodeRow(1, name, "host", roles or ROLES, "0.1.0", 1.0, 2.0, 0.0, state, ago)


def told(*rows: NodeRow) -> list[str]:
    return [what for what, _ in troubles(rows)]


def test_what_needs_a_person() -> None:
    assert told() == []
    assert told(row("a")) == []
    assert told(row("a", "receive"), row("b", "web")) == [WITHOUT["classify"], WITHOUT["forward"]]
    assert told(row("a"), row("b", "receive", ago=31.0)) == ["node b has not been seen for 31 s"]
    assert told(row("a"), row("b", "receive", ago=7200.0)) == [], "it is in the list, and no news any more"
    assert told(row("a", problem="its clock is 9 s ahead of the database's")) == [
        "node a: its clock is 9 s ahead of the database's"
    ]
    assert told(row("a", not_ready=["inference"])) == ["node a: its model is not ready"]
    assert told(row("a"), row("a", "web")) == ["2 nodes are called a"]
    assert told(row("a"), row("a", "web", ago=31.0)) == ["node a has not been seen for 31 s"]


def test_different_models_are_told_unless_one_follows_just_now() -> None:
    one, other = row("a", model="1" * 64, choice=1), row("b", model="2" * 64, choice=1)
    assert told(one, other) == ["2 different models decide"]
    assert told(one, row("b", model="2" * 64, choice=0)) == []
    assert told(one, row("b", "receive")) == []


def failing(since: float, tries: int, instances: int, reason: str = "status A700") -> dict[str, Any]:
    return {"ai": {"since": since, "tries": tries, "instances": instances, "reason": reason}}


def test_what_fails_at_several_nodes_is_told_together() -> None:
    one, other = row("a", failing=failing(100.0, 2, 2)), row("b", "forward", failing=failing(200.0, 7, 1, "it aborts"))
    assert refusing(None, [one], 300.0) == {}, "two tries are few"
    (found,) = refusing(None, [one, other, row("c", "web")], 300.0).values()
    assert (found.by, found.all) == (("a", "b"), Failing(100.0, 9, 2, "it aborts"))
    assert refusing(None, [replace(other, ago=31.0), one], 300.0) == {}, "one that is gone sends nothing"
    ahead = replace(row("a", failing=failing(400.0, 3, 2)), skew=300.0)
    assert refusing(None, [ahead], 300.0)["ai"].all.since == 100.0, "by the clock of the database"


@pytest.mark.parametrize("database", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_every_page_and_command_says_what_fails_at_another_node(tmp_path: Path, database: str) -> None:
    with node_in(tmp_path, database) as node, client_of(node) as client:
        node.spool.nodes.begin("sender", "host", ["forward"], "0.1.0", "")
        node.spool.nodes.seen(NodeState(1, 0, "", {"failing": failing(time.time() - 130, 3, 2)}))
        said = "ai refuses what it gets: each of 3 tries by sender has failed for 2 min, the last: status A700"
        assert said in client.get("/").text
        found = status(replace(node.settings(), spool=node.spool.settings))
        assert said in [one.what for one in found.problems]


@pytest.mark.parametrize("database", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_the_page_lists_them_and_shows_hostile_text_as_text(tmp_path: Path, database: str) -> None:
    with node_in(tmp_path, database) as node, client_of(node) as client:
        assert client.get("/nodes").status_code == 200
        node.spool.nodes.begin("first", "host", ["classify"], "0.1.0", "")
        assert "first" in client.get("/nodes").text, "it has said no more than that"
        node.spool.nodes.seen(NodeState(3, 0, HOSTILE, {"model": "a" * 64, "engine": HOSTILE}))
        page = client.get("/nodes").text
    assert "first" in page
    assert HOSTILE not in page
    assert page.count("aaaaaaaaaaaa") == 1


def test_a_reload_names_who_did_not_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "routing.yaml").write_text(SHARED)
    behind = [{"node": "two", "problem": "there is no file ai.crt"}]
    answer = {"changed": ["rules"], "needs_restart": [], "version": 2, "not_followed": behind}
    monkeypatch.setattr("router.node.client.give", lambda *_: answer)
    done = CliRunner().invoke(app, ["reload", "--config", str(tmp_path / "routing.yaml")])
    assert done.exit_code == 1
    assert "not followed by two: there is no file ai.crt" in done.output
    answer["not_followed"] = []
    assert CliRunner().invoke(app, ["reload", "--config", str(tmp_path / "routing.yaml")]).exit_code == 0


def test_with_sqlite_the_only_node_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "routing.yaml").write_text(SHARED)
    command = ["nodes", "--config", str(tmp_path / "routing.yaml")]
    assert CliRunner().invoke(app, command).output == "no node\n"
    said = {"version": "0.1.0", "began_at": 1.0, "seen_at": 2.0, "about": {"listens": ["127.0.0.1:11112"]}}
    monkeypatch.setattr("router.commands.nodes.state", lambda _folder, _what: said)
    output = CliRunner().invoke(app, command).output
    assert "receive,classify,forward,web" in output
    assert "listens on 127.0.0.1:11112" in output
