"""Orders over many on the page: they ask with counts, exactly the group is meant, and they can be stopped or undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from router.flow import Role
from router.spool import DeliveryState, Spool
from router.spool.schema import delivery
from tests.unit.paging import HOSTILE, Client, Elements, Node, bury, client_of, decided, node_in, posted, sure, token


@pytest.fixture
def node(tmp_path: Path, database: str) -> Iterator[Node]:
    with node_in(tmp_path, database) as node:
        yield node


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with client_of(node, Role.VIEW, Role.OPERATE) as client:
        yield client


def worked_off(spool: Spool) -> None:
    while spool.bulk.step() is not None:
        pass


def form_of(client: Client, page: str, act: str) -> dict[str, str]:
    forms = Elements(client.get(page).text).forms
    found = next(form for form in forms if form["action"] == "/many" and form.get("act", act) == act)
    return {name: value for name, value in found.items() if name not in ("action", "method", "")} | {"act": act}


def groups(node: Node) -> list[str]:
    """Two instances of one cause, and one of another."""
    ids = []
    for n, reason in enumerate((HOSTILE, HOSTILE, "another cause")):
        ids.append(decided(node.spool, f"1.2.{n}"))
        bury(node.spool, reason=reason)
    return ids


def states(spool: Spool, to: str) -> dict[str, str]:
    query = sa.select(delivery.c.instance_id, delivery.c.state).where(delivery.c.destination == to)
    return {row.instance_id: row.state for row in spool.database.ask(lambda c: c.execute(query).all())}


def test_a_cause_is_retried_whole_and_no_other(node: Node, client: Client) -> None:
    first, second, other = groups(node)
    asks = client.post("/many", data=form_of(client, "/attention", "retry"))
    assert "Retry 2 deliveries to ai?" in asks.text
    assert "<script>alert" not in asks.text
    assert node.ordered == []
    done = sure(client, asks)
    assert done.headers["location"].startswith("/attention/jobs?done=begun#job-")
    worked_off(node.spool)
    assert states(node.spool, "ai") == {first: "open", second: "open", other: "buried"}
    page = client.get("/attention/jobs").text
    assert "2 of 2" in page
    assert "<script>alert" not in page
    assert Elements(page).inline == []


def test_a_cause_is_dropped_with_a_reason(node: Node, client: Client) -> None:
    _, _, other = groups(node)
    asks = client.post("/many", data=form_of(client, "/attention", "discard"))
    (form,) = [one for one in Elements(asks.text).forms if one["method"] == "post"]
    data = {name: value for name, value in form.items() if name not in ("action", "method")}
    client.post("/many", data=data | {"why": HOSTILE})
    worked_off(node.spool)
    assert list(states(node.spool, "ai").values()).count("discarded") == 2
    assert states(node.spool, "ai")[other] == "buried"
    assert [job.reason for job in node.spool.bulk.jobs()] == [HOSTILE]
    assert "<script>alert" not in client.get("/attention/jobs").text


def test_a_new_decision_is_for_the_instances_of_the_cause(node: Node, client: Client) -> None:
    groups(node)
    sure(client, client.post("/many", data=form_of(client, "/attention", "decide-again")))
    worked_off(node.spool)
    assert node.spool.views.counts().undecided == 2


def test_what_was_sent_elsewhere_comes_back(node: Node, client: Client) -> None:
    groups(node)
    sure(client, client.post("/many", data=form_of(client, "/attention", "move") | {"new": "pacs"}))
    worked_off(node.spool)
    assert list(states(node.spool, "pacs").values()) == ["open", "open"]
    back = posted(client, "/attention/jobs", "/attention/jobs/cancel")
    assert back.headers["location"] == "/attention/jobs?done=cancelled"
    worked_off(node.spool)
    assert node.spool.views.counts().buried == {"ai": 3}
    assert "2 taken back" in client.get("/attention/jobs").text


def test_where_a_delivery_was_moved_is_said(node: Node, client: Client) -> None:
    first, *_ = groups(node)
    sure(client, client.post("/many", data=form_of(client, "/attention", "move") | {"new": "pacs"}))
    worked_off(node.spool)
    assert "ai moved to pacs" in client.get("/instances").text
    assert "Moved to pacs by a person, " in client.get(f"/instances/{first}").text


def test_a_whole_search_is_one_order(node: Node, client: Client) -> None:
    groups(node)
    form = form_of(client, "/instances?to=ai&state=buried&since=2h", "retry")
    asks = client.post("/many", data=form)
    assert "Retry 3 deliveries to ai?" in asks.text
    (again,) = [one for one in Elements(asks.text).forms if one["method"] == "post"]
    assert again["since"].startswith("20"), "two hours before it was asked"
    sure(client, asks)
    assert client.get("/attention/jobs", headers={"hx-request": "true"}).text.count("hx-trigger") == 1
    worked_off(node.spool)
    assert node.spool.views.counts().open == {"ai": 3}
    assert "hx-trigger" not in client.get("/attention/jobs").text


def test_nothing_is_done_with_all_that_there_is(node: Node, client: Client) -> None:
    groups(node)
    proof = token(client)
    for data, status in (
        ({"act": "retry"}, 400), ({"act": "explode", "to": "ai"}, 400), ({"act": "move", "to": "ai"}, 409),
        ({"act": "retry", "to": "ai", "state": "done"}, 409), ({"act": "retry", "to": HOSTILE}, 409),
    ):  # fmt: skip
        answer = client.post("/many", data=data | {"csrf": proof, "sure": "yes"})
        assert answer.status_code == status, (data, answer.text)
    assert node.spool.bulk.jobs() == []
    assert client.post("/attention/jobs/cancel", data={"csrf": proof, "job": "x"}).status_code == 400
    assert client.post("/attention/jobs/cancel", data={"csrf": proof, "job": "7"}).status_code == 409


def test_who_may_not_order_sees_the_jobs_and_no_buttons(node: Node) -> None:
    groups(node)
    with client_of(node, Role.VIEW, Role.IMAGES) as client:
        for path in ("/attention", "/attention/jobs", "/instances?to=ai"):
            assert "/many" not in [form["action"] for form in Elements(client.get(path).text).forms], path
        proof = next(form["csrf"] for form in Elements(client.get("/logout").text).forms if "csrf" in form)
        data = {"csrf": proof, "act": "retry", "to": "ai", "sure": "yes"}
        assert client.post("/many", data=data).status_code == 403
        assert client.post("/attention/jobs/cancel", data={"csrf": proof, "job": "1"}).status_code == 403
    assert [one.state for one in node.spool.views.deliveries()] == [DeliveryState.BURIED] * 3


def test_nobody_waits_long_for_the_count(node: Node, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, other = groups(node)
    monkeypatch.setattr("router.page.many.COUNT_FOR", -1.0)
    monkeypatch.setattr("router.spool.bulk.LOOK", 1)
    asks = client.post("/many", data=form_of(client, "/attention", "retry"))
    assert "Retry more than 1 delivery to ai?" in asks.text
    assert "There was no time to count them all." in asks.text
    sure(client, asks)
    worked_off(node.spool)
    assert states(node.spool, "ai") == {first: "open", second: "open", other: "buried"}
