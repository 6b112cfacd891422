"""A pause with an end: by command and page, told everywhere, ended by the node itself, also after a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.commands.pause_words import in_words, pause_end
from router.spool import Spool, clock, open_spool
from tests.unit.forwarding import forwarding, quick
from tests.unit.paging import EVERYTHING, Node, client_of, decided, node_in, posted
from tests.unit.peer import Peer
from tests.unit.spooling import settings_of

NOON = datetime(2026, 11, 1, 12).timestamp()
LATER = 5_000_000.0
"""Seconds, more than the tests take."""


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database) as node:
        yield node


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("", 0.0), ("2h", NOON + 7200), ("30m", NOON + 1800), ("13:30", NOON + 5400), ("7:00", NOON + 19 * 3600),
        ("12:00", NOON + 86400), ("2026-11-02T08:30", NOON + 20.5 * 3600),
    ],
)  # fmt: skip
def test_people_write_a_span_or_a_time(text: str, end: float) -> None:
    assert pause_end(text, NOON) == end


@pytest.mark.parametrize("text", ["x", "25:00", "7", "-2h", "0s", "2026-10-01", "9" * 99, "nan", "1e9", "\0"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a span"):
        pause_end(text, NOON)


def test_it_ends_when_its_time_is_over_and_once(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    until = time.time() + LATER
    spool.orders.pause("ai", "ann", until)
    state = spool.destinations.state("ai")
    assert (state.paused, state.pause_until) == (True, until)
    assert state.pause_left == pytest.approx(LATER, abs=600)
    assert not spool.orders.end_pause("ai")
    assert spool.destinations.states()["ai"].paused
    monkeypatch.setattr(clock, "now", lambda _: until + 1)
    assert (spool.destinations.state("ai").pause_left or 0) < 0
    assert spool.orders.end_pause("ai")
    assert not spool.orders.end_pause("ai")
    after = spool.destinations.state("ai")
    assert (after.paused, after.pause_until, after.pause_left, after.still_since) == (False, 0.0, None, 0.0)
    events = [(one.kind, one.detail) for one in spool.views.events() if one.destination == "ai"]
    assert [kind for kind, _ in sorted(events, key=lambda one: one[0])] == ["paused", "resumed"]
    assert dict(events)["resumed"]["reason"] == "the time of the pause is over"


def test_a_pause_without_an_end_and_a_person_end_it(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.orders.pause("ai", "ann", time.time() + LATER)
    spool.orders.pause("ai", "ann")
    assert spool.destinations.state("ai").pause_left is None
    monkeypatch.setattr(clock, "now", lambda _: time.time() + 2 * LATER)
    assert not spool.orders.end_pause("ai")
    spool.orders.pause("ai", "ann", time.time() + 3 * LATER)
    spool.orders.resume("ai", "ann")
    spool.orders.pause("ai", "ann")
    assert spool.destinations.state("ai").pause_until == 0.0


def test_the_node_resumes_by_itself_also_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with Peer() as peer, Peer() as other, forwarding(tmp_path, peer, other) as stage:
        stage.spool.orders.pause("dest", "ann", time.time() + LATER)
        stage.owe("dest", "dest2")
        stage.until("done", 1, "dest2")
        assert stage.states("dest") == ["open"]
        stage.spool.orders.pause("dest", "ann", time.time() + 0.2)
        stage.until("done", 1, "dest")
        assert len(stage.events("resumed")) == 1
        stage.stop()
        stage.spool.orders.pause("dest", "ann", time.time() + 0.01)
        stage.owe("dest")
        stage.spool.close()
        stage.open()
        assert stage.spool.destinations.state("dest").paused
        stage.start()
        stage.until("done", 2, "dest")
        assert len(stage.events("resumed")) == 2


def test_the_page(node: Node) -> None:
    decided(node.spool)
    with client_of(node, *EVERYTHING) as client:
        wrong = posted(client, "/destinations", "/destinations/pause", destination="ai", until="soon")
        assert wrong.status_code == 400
        assert "write a span" in wrong.text
        assert not node.spool.destinations.state("ai").paused
        answer = posted(client, "/destinations", "/destinations/pause", destination="ai", until="2h")
        assert answer.headers["location"].endswith("done=paused-until")
        end = node.spool.destinations.state("ai").pause_until
        assert end == pytest.approx(time.time() + 7200, abs=600)
        assert in_words(end).strip() in client.get("/destinations").text
        assert f"ai is paused{in_words(end)}, 1 wait" in client.get("/").text


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text(
        "spool: {path: spool, reserve: 1 MB}\ndestinations:\n  ai: {ae_title: A, host: 127.0.0.1, port: 1}\n"
        "rules: []\notherwise: {send: ai}\n"
    )
    open_spool(settings_of(tmp_path / "spool")).close()
    config = ["--config", str(tmp_path / "routing.yaml")]
    done = CliRunner().invoke(app, ["queue", "pause", "ai", "--until", "2h", *config])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("ai is paused until 2")
    listed = CliRunner().invoke(app, ["queue", "list", *config])
    assert "ai is paused until 2" in listed.output
    assert CliRunner().invoke(app, ["queue", "pause", "ai", "--until", "soon", *config]).exit_code == 2
