"""Something is done with all that a filter finds: each row once, and what was not tried yet can be taken back."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config.settings import SpoolSettings
from router.node.api import application
from router.node.bulk_worker import BulkWorker
from router.node.carrying_out import carry_out
from router.node.local_socket import ControlServer
from router.node.orders import Many, OrderError, parse
from router.spool import Act, ChoiceError, DeliveryState, InstanceState, Spool, bulk, open_spool, read_spool
from router.spool.bulk_rows import Job, JobState
from router.spool.find import Filter, State
from tests.unit.spooling import CALLERS, SEEN, accept, decide, decision, settings_of, turned_by_hand
from tests.unit.test_find import decided


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BITE", 2)
    monkeypatch.setattr(bulk, "LOOK", 3)


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def owed(spool: Spool, n: int, *to: str, ae: int = 0) -> list[str]:
    """Instances with open deliveries."""
    ids = []
    for k in range(n):
        accept(spool, b"x%d" % k, f"1.2.{ae}.{len(spool.views.instances(limit=1000))}", CALLERS[ae])
        ids.append(decide(spool, *to).instance.id)
    return ids


def close(spool: Spool, to: str, state: DeliveryState = DeliveryState.DONE) -> None:
    for one in spool.deliveries.claim(to, 1000):
        assert spool.deliveries.close(one, state, "refused").result()


def work(spool: Spool) -> None:
    while spool.bulk.step() is not None:
        pass


def done(spool: Spool, act: Act, wanted: Filter, destination: str = "") -> Job:
    number = spool.bulk.begin(act, wanted, destination, "a person", "because")
    work(spool)
    job = spool.bulk.job(number)
    assert job is not None
    assert job.state is JobState.DONE
    assert job.total == job.chosen
    return job


def rows(spool: Spool) -> Counter[tuple[str, str]]:
    """Deliveries by destination and state."""
    states = [str(state) for state in DeliveryState]
    return Counter((row.destination, str(row.state)) for row in spool.views.deliveries(states=states, limit=1000))


def kinds(spool: Spool) -> Counter[str]:
    return Counter(event.kind for event in spool.views.events(limit=1000))


# -- the acts


def test_a_move_takes_each_delivery_once_and_leaves_the_other_destinations(spool: Spool) -> None:
    owed(spool, 3, "a", "pacs")
    close(spool, "a", DeliveryState.BURIED)
    owed(spool, 4, "a")
    job = done(spool, Act.MOVE, Filter(to="a"), "b")
    assert (job.chosen, job.changed) == (7, 7)
    assert rows(spool) == {("a", "discarded"): 7, ("b", "open"): 7, ("pacs", "open"): 3}
    moved = [event for event in spool.views.events(limit=1000) if event.kind == "moved by a person"]
    assert len(moved) == 7
    about = {"who": "a person", "moved_to": "b", "job": job.id, "reason": "because"}
    assert all(event.detail == about for event in moved)
    assert spool.views.instances(limit=1)[0].state is InstanceState.DECIDED


def test_what_the_other_destination_has_or_is_owed_is_not_sent_twice(spool: Spool) -> None:
    owed(spool, 2, "a", "b")
    close(spool, "b")
    owed(spool, 1, "a", "b")
    owed(spool, 1, "a")
    assert done(spool, Act.MOVE, Filter(to="a"), "b").changed == 4
    assert rows(spool) == {("a", "discarded"): 4, ("b", "done"): 2, ("b", "open"): 2}
    states = Counter(str(one.state) for one in spool.views.instances())
    assert states == {"finished": 2, "decided": 2}


def test_what_is_being_sent_is_passed_over(spool: Spool) -> None:
    owed(spool, 3, "a")
    (sent,) = spool.deliveries.claim("a", 1)
    job = done(spool, Act.MOVE, Filter(to="a"), "b")
    assert (job.chosen, job.changed) == (3, 2)
    assert spool.deliveries.close(sent, DeliveryState.DONE).result()
    assert rows(spool) == {("a", "done"): 1, ("a", "discarded"): 2, ("b", "open"): 2}


def test_what_was_delivered_is_sent_again_once_as_a_new_delivery(spool: Spool) -> None:
    ids = owed(spool, 3, "a")
    close(spool, "a")
    assert done(spool, Act.RESEND, Filter(to="a", class_name="", text=ids[0])).changed == 1
    close(spool, "a")
    owed(spool, 1, "a")  # waits, so it was not delivered
    job = done(spool, Act.RESEND, Filter(to="a"))
    assert (job.chosen, job.changed) == (3, 3)
    assert rows(spool) == {("a", "done"): 4, ("a", "open"): 4}
    assert kinds(spool)["sent again by a person"] == 4
    again = done(spool, Act.RESEND, Filter(to="a"))  # owed already
    assert (again.chosen, again.changed) == (3, 0)
    assert len(spool.deliveries.claim("a", 100)) == 4


def test_new_work_goes_before_what_is_sent_again(spool: Spool) -> None:
    owed(spool, 3, "a")
    close(spool, "a")
    done(spool, Act.RESEND, Filter(to="a"))
    (new,) = owed(spool, 1, "a")
    assert spool.deliveries.claim("a", 1)[0].instance.id == new


def test_without_its_blob_nothing_is_sent_again(spool: Spool) -> None:
    owed(spool, 2, "a")
    close(spool, "a")
    assert spool.orders.wipe() == 2
    (planned,) = spool.bulk.plan(Act.RESEND, Filter(to="a"))
    assert (planned.n, planned.gone) == (2, 2)
    assert done(spool, Act.RESEND, Filter(to="a")).changed == 0
    assert done(spool, Act.DECIDE_AGAIN, Filter()).changed == 0
    assert rows(spool) == {("a", "done"): 2}


def test_buried_ones_are_retried_and_dropped_by_a_filter(spool: Spool) -> None:
    owed(spool, 3, "a", ae=0)
    owed(spool, 3, "a", ae=1)
    close(spool, "a", DeliveryState.BURIED)
    buried = Filter(calling_ae="XRAY_2", state=State.BURIED)
    assert done(spool, Act.RETRY, buried).changed == 3
    assert rows(spool) == {("a", "buried"): 3, ("a", "open"): 3}
    assert done(spool, Act.DISCARD, Filter(state=State.BURIED)).changed == 3
    assert rows(spool) == {("a", "discarded"): 3, ("a", "open"): 3}
    assert [str(one.state) for one in spool.views.instances()] == ["decided"] * 3 + ["finished"] * 3


def test_many_are_decided_again_while_few_wait(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "UNDECIDED", 3)
    monkeypatch.setattr(bulk, "FEW_DECISIONS", 2)
    decided(spool, "1.9", rule="another")
    every = {decided(spool, f"1.2.{n}") for n in range(5)}
    number = spool.bulk.begin(Act.DECIDE_AGAIN, Filter(rule="spine by pixels"), "", "a person", "")
    again: list[str] = []
    for _ in range(20):
        while (due := spool.bulk.step()) is not None and due < bulk.LOOK_AGAIN:
            pass
        assert spool.views.counts().undecided <= 4
        for claim in spool.decisions.claim(100):
            again.append(claim.instance.id)
            assert spool.decisions.record(claim, SEEN, decision("a"), {}).result()
    job = spool.bulk.job(number)
    assert job is not None
    assert (job.state, job.changed) == (JobState.DONE, 5)
    assert sorted(again) == sorted(every)


# -- each once


def test_what_comes_after_the_order_does_not_belong_to_it(spool: Spool) -> None:
    (old,) = owed(spool, 1, "z")
    owed(spool, 5, "a")
    number = spool.bulk.begin(Act.DISCARD, Filter(to="a"), "", "a person", "")
    spool.bulk.step()
    owed(spool, 1, "a")
    assert spool.orders.redecide(old, "a person")
    decide(spool, "a")
    work(spool)
    job = spool.bulk.job(number)
    assert job is not None
    assert (job.total, job.changed) == (5, 5)
    assert rows(spool) == {("a", "discarded"): 5, ("a", "open"): 2, ("z", "open"): 1}


def test_what_is_buried_after_the_order_is_not_dropped(tmp_path: Path) -> None:
    with turned_by_hand() as clock, closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        owed(spool, 1, "a")
        spool.bulk.begin(Act.DISCARD, Filter(state=State.BURIED), "", "a person", "")
        clock.turn(1.0)
        close(spool, "a", DeliveryState.BURIED)
        work(spool)
        assert rows(spool) == {("a", "buried"): 1}


def test_two_processes_that_work_on_one_job_do_each_row_once(spool: Spool) -> None:
    owed(spool, 5, "a")
    close(spool, "a")
    number = spool.bulk.begin(Act.RESEND, Filter(to="a"), "", "a person", "")
    spool.bulk.step()
    seen = spool.bulk.job(number)
    assert seen is not None
    for _ in range(2):  # the second has read the row before the first had moved the cursor
        spool.bulk._work(seen)
    after = spool.bulk.job(number)
    assert after is not None
    assert (after.chosen, after.changed) == (2, 2)
    work(spool)
    assert rows(spool) == {("a", "done"): 5, ("a", "open"): 5}


@pytest.mark.slow
@pytest.mark.postgresql
def test_two_nodes_on_one_database_do_each_row_once(tmp_path: Path, postgresql: Callable[[], str]) -> None:
    settings = settings_of(tmp_path / "spool", postgresql())
    with closing(open_spool(settings)) as one, closing(open_spool(settings)) as other:
        owed(one, 30, "a", "z")
        close(one, "a")
        resend = one.bulk.begin(Act.RESEND, Filter(to="a"), "", "a person", "")
        move = one.bulk.begin(Act.MOVE, Filter(to="z"), "b", "a person", "")
        workers = [BulkWorker(spool) for spool in (one, other)]
        for worker in workers:
            worker.start()
        ended = one.signals.of("any")
        while any(job.state is JobState.RUNNING for job in one.bulk.jobs()):
            ended.wait(ended.version, 0.1)
        for worker in workers:
            worker.stop(time.monotonic() + 60)
        for number in (resend, move):
            job = other.bulk.job(number)
            assert job is not None
            assert (job.total, job.chosen, job.changed) == (30, 30, 30)
        assert rows(one) == {("a", "done"): 30, ("a", "open"): 30, ("z", "discarded"): 30, ("b", "open"): 30}
        assert kinds(one)["sent again by a person"] == kinds(one)["moved by a person"] == 30


# -- taken back


def test_a_cancelled_move_takes_back_what_was_not_tried(spool: Spool) -> None:
    owed(spool, 2, "a")
    close(spool, "a", DeliveryState.BURIED)
    owed(spool, 5, "a")
    job = done(spool, Act.MOVE, Filter(to="a"), "b")
    first, second = spool.deliveries.claim("b", 2)
    assert spool.deliveries.close(first, DeliveryState.DONE).result()
    assert spool.bulk.cancel(job.id, "a person")
    work(spool)
    after = spool.bulk.job(job.id)
    assert after is not None
    assert (after.state, after.changed, after.undone) == (JobState.CANCELLED, 7, 5)
    assert spool.deliveries.close(second, DeliveryState.DONE).result()
    found = rows(spool)
    assert (found["b", "done"], found["b", "discarded"], found["a", "discarded"]) == (2, 5, 2)
    assert found["a", "open"] + found["a", "buried"] == 5
    assert {row.reason for row in spool.views.deliveries(states=["buried"])} <= {"refused"}
    assert not spool.bulk.cancel(job.id, "a person")


def test_what_is_owed_again_meanwhile_is_not_owed_twice_by_taking_back(spool: Spool) -> None:
    (which,) = owed(spool, 1, "a")
    job = done(spool, Act.MOVE, Filter(to="a"), "b")
    assert spool.orders.send_also(which, "a", "a person")
    assert spool.bulk.cancel(job.id, "a person")
    work(spool)
    assert rows(spool) == {("a", "open"): 1, ("a", "discarded"): 1, ("b", "discarded"): 1}


def test_a_resend_is_cancelled_half_way(spool: Spool) -> None:
    owed(spool, 6, "a")
    close(spool, "a")
    number = spool.bulk.begin(Act.RESEND, Filter(to="a"), "", "a person", "")
    spool.bulk.step()
    spool.bulk.step()
    assert rows(spool)["a", "open"] == 2
    assert spool.bulk.cancel(number, "a person")
    work(spool)
    assert rows(spool) == {("a", "done"): 6, ("a", "discarded"): 2}
    assert {str(one.state) for one in spool.views.instances()} == {"finished"}
    assert kinds(spool)["taken back by a person"] == 2


def test_what_was_dropped_for_good_cannot_be_taken_back(spool: Spool) -> None:
    owed(spool, 1, "a")
    job = done(spool, Act.DISCARD, Filter(to="a"))
    assert not spool.bulk.cancel(job.id, "a person")
    assert not spool.bulk.cancel(999, "a person")


# -- what is kept


def test_a_job_keeps_neither_study_nor_accession_number(spool: Spool) -> None:
    for text, found in (("1.840.77", 1), ("SECRET77", 1), ("20261130", 1), ("1.2.3", 1), ("9" * 8, 0)):
        if found:
            decided(spool, "1.2.3", study="1.840.77", accession="SECRET77" if text != "20261130" else text, to=("a",))
        number = spool.bulk.begin(Act.DISCARD, Filter(text=text), "", "a person", "")
        kept = spool.bulk.job(number)
        assert kept is not None
        assert text not in repr(kept).replace("1.2.3'", "") or text == "1.2.3"
        work(spool)
        job = spool.bulk.job(number)
        assert job is not None
        assert job.changed == found, text


def test_jobs_are_forgotten_with_the_records(tmp_path: Path) -> None:
    with turned_by_hand() as clock, closing(open_spool(settings_of(tmp_path, keep=10, keep_records=100))) as spool:
        owed(spool, 5, "a")
        close(spool, "a")
        done(spool, Act.RESEND, Filter(to="a"))
        close(spool, "a")
        clock.turn(1000.0)
        while spool.retention.sweep():
            pass
        assert spool.bulk.jobs() == []
        with closing(sqlite3.connect(tmp_path / "node.db")) as shell:
            assert shell.execute("SELECT count(*) FROM bulk_change").fetchone() == (0,)


# -- as an order


@pytest.mark.parametrize(
    ("about", "why"),
    [({"act": "eat"}, "act"), ({"act": "retry", "state": "lost"}, "state"),
     ({"act": "retry", "state": "done"}, "ended"),
     ({"act": "move", "to": "a"}, "go to"), ({"act": "move", "to": "a", "destination": "x"}, "no destination .*x"),
     ({"act": "move", "to": "a", "destination": "a"}, "two"), ({"act": "move", "destination": "a"}, "destination"),
     ({"act": "retry", "destination": "a"}, "only a move"), ({"act": "resend"}, "destination"),
     ({"act": "retry", "to": "x"}, "no destination .*x"), ({"act": "retry", "since": "2h"}, "since"),
     ({"act": "retry", "since": float("inf")}, "since"), ({"act": "retry", "limit": 2}, "limit"), ({}, "act")],
)  # fmt: skip
def test_an_order_without_meaning_is_refused(tmp_path: Path, about: dict[str, object], why: str) -> None:
    with closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        with pytest.raises((OrderError, ChoiceError), match=why) as refused:
            carry_out(parse("many", about), "a person", spool, ["a", "b"])  # type: ignore[arg-type]
        assert refused.value.exit_code == 2
        assert spool.bulk.jobs() == []


def test_a_worker_goes_on_with_what_it_finds_and_hears_of_new_jobs(tmp_path: Path) -> None:
    with closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        owed(spool, 5, "a")
        assert carry_out(Many("move", "b", to="a"), "a person", spool, ["a", "b"]) == {"job": 1}
        worker = BulkWorker(spool)
        worker.start()
        for name, order in (("b", None), ("a", Many("move", "a", to="b"))):
            woken = spool.signals.of(name)
            if order is not None:
                carry_out(order, "a person", spool, ["a", "b"])
            while True:
                version = woken.version
                if rows(spool)[name, "open"] == 5:
                    break
                woken.wait(version, 10)
        worker.stop(time.monotonic() + 60)
        assert not worker.is_alive


# -- as commands

CONFIG = """
spool: {path: spool, reserve: 1 MB}
destinations:
  a: {ae_title: A, host: 127.0.0.1, port: 1}
  b: {ae_title: B, host: 127.0.0.1, port: 1}
rules: []
otherwise: {send: a}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "routing.yaml").write_text(CONFIG)
    with closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        owed(spool, 3, "a")
        close(spool, "a")
        owed(spool, 2, "a", "b")
    return tmp_path / "routing.yaml"


def queue(config: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["queue", *words, "--config", str(config)])
    return done.exit_code, done.stdout + done.stderr


def test_a_dry_run_counts_and_changes_nothing(config: Path) -> None:
    code, told = queue(config, "move", "--from", "a", "--to", "b", "--dry-run")
    assert code == 0
    assert told.startswith("a: 2 deliveries (0 buried, 2 waiting), oldest since ")
    assert told.endswith("2 would be changed\n")
    code, told = queue(config, "resend", "--to", "a", "--since", "1h", "--dry-run", "--json")
    assert code == 0
    about = json.loads(told)
    assert (about["total"], about["counts"][0]["state"]) == (3, "done")
    code, told = queue(config, "decide-again", "--since", "1h", "--dry-run")
    assert (code, told.splitlines()[-1]) == (0, "5 would be changed")
    for words in (["retry", "--to", "a"], ["discard", "--to", "a", "--waiting"], ["discard", "4"]):
        assert "would be changed" in queue(config, *words, "--dry-run")[1]
    with closing(read_spool(settings_of(config.parent / "spool"))) as spool:
        assert spool.bulk.jobs() == []
        assert rows(spool) == {("a", "done"): 3, ("a", "open"): 2, ("b", "open"): 2}


def test_a_move_is_done_listed_and_taken_back(config: Path) -> None:
    assert queue(config, "move", "--from", "b", "--to", "a") == (0, "2 of 2 changed\n")
    found = CliRunner().invoke(app, ["find", "--to", "b", "--state", "discarded", "--config", str(config)]).output
    assert found.count("b moved to a") == 2
    assert "b: moved to a 20" in queue(config, "show", found.split()[0])[1]
    assert queue(config, "resend", "--to", "a", "--since", "1h", "--reason", "lost there")[0] == 0
    code, told = queue(config, "jobs")
    assert code == 0
    second, first = told.splitlines()
    assert "resend" in second
    assert "3 of 3 changed" in second
    assert second.endswith("(lost there)")
    assert "b to a" in first
    code, told = queue(config, "jobs", "cancel", "2")
    assert (code, "3 taken back" in told) == (0, True)
    assert queue(config, "jobs", "cancel", "2")[0] == 1
    assert json.loads(queue(config, "jobs", "follow", "2", "--json")[1])["undone"] == 3
    assert queue(config, "jobs", "follow", "77")[0] == 1


@pytest.mark.slow
def test_with_a_running_node_the_node_does_the_work(config: Path) -> None:
    with closing(open_spool(settings_of(config.parent / "spool"))) as spool:
        server = ControlServer(
            config.parent / "spool",
            application(lambda order, who: carry_out(order, who, spool, ["a", "b"]), {"health": dict}),  # type: ignore[arg-type]
        )
        worker = BulkWorker(spool)
        server.start()
        worker.start()
        try:
            assert queue(config, "move", "--from", "b", "--to", "a", "--reason", "b is old") == (0, "2 of 2 changed\n")
            code, told = queue(config, "resend", "--to", "a", "--since", "1h", "--json")
            assert (code, json.loads(told)["changed"]) == (0, 3)
            code, told = queue(config, "jobs", "cancel", "2")
            assert (code, "3 taken back" in told) == (0, True)
            assert queue(config, "discard", "--to", "a", "--waiting", "--yes", "--no-wait")[0] == 0
        finally:
            worker.stop(time.monotonic() + 60)
            server.stop()


@pytest.mark.slow
def test_a_slow_disk_ends_no_job_before_its_time(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = bulk.Bulk.step

    def slow(self: bulk.Bulk) -> float | None:
        return None if (wait := step(self)) is None else max(wait, bulk.LOOK_AGAIN)

    monkeypatch.setattr(bulk.Bulk, "step", slow)
    monkeypatch.setattr("router.cli.bulk.time.sleep", lambda _: None)
    assert queue(config, "retry", "--from", "XRAY_1", "--state", "waiting", "--since", "1h") == (0, "4 of 4 changed\n")


@pytest.mark.slow
def test_a_command_of_the_queue_closes_the_spool_that_it_reads(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Spool] = []
    closed: list[Spool] = []

    def read(settings: SpoolSettings) -> Spool:
        opened.append(read_spool(settings))
        return opened[-1]

    def close(self: Spool, seconds: float | None = None) -> bool:
        closed.append(self)
        return close_as_ever(self, seconds)

    close_as_ever = Spool.close
    assert queue(config, "decide-again", "--since", "1h", "--no-wait")[0] == 0
    monkeypatch.setattr("router.spool.read_spool", read)
    monkeypatch.setattr(Spool, "close", close)
    assert queue(config, "jobs")[0] == queue(config, "list")[0] == queue(config, "show", "1")[0] == 0
    assert queue(config, "move", "--from", "a", "--to", "b", "--dry-run")[0] == 0
    assert queue(config, "retry", "--to", "x")[0] == 2
    assert queue(config, "discard", "--to", "a", "--all", "--yes")[0] == 0
    monkeypatch.setattr("router.node.client.state", lambda *_: {})  # as if a node ran, and worked it off
    assert queue(config, "jobs", "follow", "2")[0] == 0
    assert len(opened) == 8
    assert all(one in closed for one in opened)


def test_filters_beside_numbers(config: Path) -> None:
    assert queue(config, "retry", "--from", "XRAY_1", "--state", "waiting", "--since", "1h") == (0, "4 of 4 changed\n")
    assert queue(config, "discard", "--from", "XRAY_2", "--yes") == (0, "0 of 0 changed\n")
    assert queue(config, "discard", "1.2.0.4", "--state", "waiting")[0] == 2  # --yes is needed
    code, told = queue(config, "discard", "1.2.0.4", "--state", "waiting", "--yes")
    assert (code, told.splitlines()[0]) == (0, "2 of 2 changed")
    assert queue(config, "decide-again", "1.2.0.4") == (0, "1 of 1 changed\n")
    code, told = queue(config, "decide-again", "--since", "1h", "--no-wait")
    assert (code, told.startswith("job 4; ")) == (0, True), told


@pytest.mark.parametrize(
    "words",
    [["move", "--from", "a", "--to", "a"], ["move", "--from", "x", "--to", "a"], ["move", "--from", "a", "--to", "x"],
     ["resend", "--to", "a"], ["retry"], ["retry", "4", "--since", "1h"], ["retry", "4", "1.2.3"],
     ["discard", "--to", "a", "--waiting", "--state", "buried"], ["retry", "--state", "done"], ["decide-again"]],
)  # fmt: skip
def test_wrong_use_is_code_2(config: Path, words: list[str]) -> None:
    code, told = queue(config, *words)
    assert code == 2, told


KILLED = """
import os, signal, sys
from pathlib import Path
from router.spool import bulk, open_spool
from tests.unit.spooling import settings_of
bulk.BITE, seen = 7, bulk._do_some
steps = int(sys.argv[2])
def some(connection, job, page):
    global steps
    steps -= 1
    topics = seen(connection, job, page)
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)  # the batch is written, and not committed
    return topics
bulk._do_some = some
spool = open_spool(settings_of(Path(sys.argv[1])))
while spool.bulk.step() is not None:
    pass
spool.close()
"""


@pytest.mark.slow
def test_a_job_goes_on_after_kill_minus_nine_and_does_each_row_once(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with closing(open_spool(settings_of(path))) as spool:
        owed(spool, 60, "a")
        close(spool, "a")
        spool.bulk.begin(Act.RESEND, Filter(to="a"), "", "a person", "")
    ends = []
    for steps in (1, 2, 3, 4, 1000):
        ran = subprocess.run([sys.executable, "-c", KILLED, str(path), str(steps)], env=dict(os.environ), check=False)
        ends.append(ran.returncode)
    assert ends == [-signal.SIGKILL] * 4 + [0]
    with closing(open_spool(settings_of(path))) as spool:
        (job,) = spool.bulk.jobs()
        assert (job.state, job.total, job.chosen, job.changed) == (JobState.DONE, 60, 60, 60)
        assert rows(spool) == {("a", "done"): 60, ("a", "open"): 60}
        assert kinds(spool)["sent again by a person"] == 60
