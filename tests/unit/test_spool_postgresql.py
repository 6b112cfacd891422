"""What only PostgreSQL brings: several nodes on one spool, leases on the server's clock, a server that goes away."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from router.config.settings import SpoolSettings
from router.forward.circuit import Circuit
from router.spool import FULL, INSTANCES, DeliveryState, InstanceState, Spool, SpoolError, clock, open_spool, read_spool
from router.spool.claims import LEASE
from router.spool.schema import delivery, instance
from tests.unit.peer import wait_for
from tests.unit.spooling import HEADER, SEEN, accept, decide, decision, files, settings_of, stored, turned_by_hand

pytestmark = pytest.mark.postgresql


@pytest.fixture
def settings(tmp_path: Path, postgresql: Callable[[], str]) -> SpoolSettings:
    return settings_of(tmp_path / "spool", postgresql())


@pytest.fixture
def nodes(settings: SpoolSettings) -> Iterator[tuple[Spool, Spool]]:
    both = open_spool(settings), open_spool(settings)
    yield both
    for one in both:
        one.close()


def owed_to_ai(spool: Spool, count: int) -> None:
    for number in range(count):
        accept(spool, uid=f"1.{number}")
        decide(spool, "ai")


# -- several nodes


def test_no_two_nodes_claim_the_same(nodes: tuple[Spool, Spool]) -> None:
    one, other = nodes
    owed_to_ai(one, 4)
    first, second = one.deliveries.claim("ai", 3), other.deliveries.claim("ai", 3)
    assert (len(first), len(second)) == (3, 1)
    assert one.deliveries.claim("ai", 3) == other.deliveries.claim("ai", 3) == []
    assert {d.id for d in first}.isdisjoint({d.id for d in second})
    assert other.deliveries.close(second[0], DeliveryState.DONE).result()


def test_a_node_in_the_middle_of_a_claim_is_passed_by(nodes: tuple[Spool, Spool]) -> None:
    """It holds its rows locked and its commit takes long: another takes the next ones and does not wait."""
    one, other = nodes
    owed_to_ai(one, 2)
    claimed, go_on = threading.Event(), threading.Event()

    def slow(connection: sa.Connection) -> None:
        connection.execute(sa.select(delivery.c.id).order_by(delivery.c.id).limit(1).with_for_update())
        claimed.set()
        assert go_on.wait(60)

    holding = one.database.writer.submit(slow)
    assert claimed.wait(60)
    got = other.deliveries.claim("ai", 5)
    go_on.set()
    holding.result()
    assert len(got) == 1
    assert got[0].id == max(row.id for row in other.views.deliveries())


def test_the_last_two_deliveries_closed_at_once_finish_the_instance(nodes: tuple[Spool, Spool]) -> None:
    """Each would see the other's as still open, were it not for the lock on the instance."""
    one, other = nodes
    instance_id = accept(one).instance_id
    decide(one, "ai", "archive")
    (to_ai,), (to_archive,) = one.deliveries.claim("ai", 1), other.deliveries.claim("archive", 1)
    closed, go_on = threading.Event(), threading.Event()

    def held_open(_: sa.Connection) -> None:
        closed.set()
        assert go_on.wait(60)

    gate = threading.Event()
    writer = one.database.writer
    writer.submit(lambda _: gate.wait(60))
    first = one.deliveries.close(to_ai, DeliveryState.DONE)
    writer.submit(held_open)  # in the same commit as the close
    gate.set()
    assert closed.wait(60)
    second = other.deliveries.close(to_archive, DeliveryState.DONE)
    while not waits_for_a_lock(one):
        assert not second.done()
    go_on.set()
    assert first.result()
    assert second.result()
    row = one.views.instance(instance_id)
    assert row is not None
    assert row.state == InstanceState.FINISHED


def waits_for_a_lock(spool: Spool) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(spool.database.ask(lambda c: c.execute(sa.text(query)).scalar_one()))


def test_a_deadlock_is_tried_again(nodes: tuple[Spool, Spool]) -> None:
    """Two nodes lock the same two rows in opposite order; the server stops one, and nobody hears of it."""
    one, other = nodes
    ids = sorted(accept(one, uid=f"1.{number}").instance_id for number in range(2))
    meet = threading.Barrier(2, timeout=60)
    tries: list[int] = []

    def job(first: str, second: str) -> Callable[[sa.Connection], str]:
        def lock_both(connection: sa.Connection) -> str:
            tries.append(1)
            lock = sa.select(instance.c.id).with_for_update()
            connection.execute(lock.where(instance.c.id == first))
            if len(tries) <= 2:
                meet.wait()
            return str(connection.execute(lock.where(instance.c.id == second)).scalar_one())

        return lock_both

    there, back = one.database.writer.submit(job(*ids)), other.database.writer.submit(job(*ids[::-1]))
    assert (there.result(), back.result()) == (ids[1], ids[0])
    assert len(tries) == 3


@pytest.mark.slow
def test_a_second_node_leaves_what_the_first_is_receiving(settings: SpoolSettings) -> None:
    first = open_spool(settings)
    half = first.intake.begin(HEADER)
    half.write(memoryview(b"still coming"))
    second = open_spool(settings)
    assert len(files(settings.path)) == 1
    half.discard()
    accept(first)
    assert second.retention.sweep() == 0
    second.tidy_up()
    assert second.views.counts().bytes == first.views.counts().bytes == len(b"pixels")
    first.close()
    second.close()
    open_spool(settings).close()


def test_a_second_node_leaves_what_the_first_has_claimed(settings: SpoolSettings) -> None:
    first = open_spool(settings)
    accept(first)
    (claim,) = first.decisions.claim(1)
    second = open_spool(settings)
    assert second.decisions.claim(1) == []
    assert first.decisions.record(claim, SEEN, decision("ai"), {}).result()
    first.close()
    second.close()


def test_two_make_the_schema_at_once(settings: SpoolSettings) -> None:
    opened: list[Spool] = []
    threads = [threading.Thread(target=lambda: opened.append(open_spool(settings))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({spool.database.new_token() >> 32 for spool in opened}) == 3
    for spool in opened:
        spool.close()


# -- work that another process makes


SENDER = (
    "import sys; from pathlib import Path; from tests.unit.spooling import *; from router.spool import *;"
    "spool = open_spool(settings_of(Path(sys.argv[1]), sys.argv[2])); print('open', flush=True); input();"
    "accept(spool); print('accepted', flush=True); input(); decide(spool, 'ai'); spool.close()"
)


@contextmanager
def sender(settings: SpoolSettings) -> Iterator[Callable[[], None]]:
    """Another process on the spool, that receives and then decides, each when told."""
    command = [sys.executable, "-c", SENDER, str(settings.path), settings.database]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdin is not None
        assert one.stdout is not None
        assert one.stdout.readline() == b"open\n"

        def go_on() -> None:
            assert one.stdin is not None
            one.stdin.write(b"\n")
            one.stdin.flush()

        yield go_on
    assert one.returncode == 0


@pytest.mark.slow
def test_work_that_another_process_makes_is_signalled(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a poll behind it, and nobody hears of what he did himself a second time."""
    spool = open_spool(settings)
    wait_for(lambda: spool.database._watch is not None and spool.database._watch.hears)
    monkeypatch.setattr(spool.database._watch, "longest_wait", lambda: 60.0)
    with sender(settings) as go_on:
        for topic in (INSTANCES, "ai"):
            version, begin = spool.signals.of(topic).version, time.monotonic()
            go_on()
            spool.signals.of(topic).wait(version, None)
            assert spool.signals.of(topic).version > version
            assert time.monotonic() - begin < 30
    assert len(spool.deliveries.claim("ai", 5)) == 1
    spool.close()


@pytest.mark.slow
def test_who_does_not_hear_looks_by_itself(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.spool.watch.Watch._hear", lambda *_: None)
    monkeypatch.setattr("router.spool.watch.POLL", (0.05, 0.1))
    spool = open_spool(settings)
    wait_for(lambda: spool.database._watch is not None and spool.database._watch.hears)
    with sender(settings) as go_on:
        go_on()
        claims: list[Any] = []
        while not claims:
            version = spool.signals.of(INSTANCES).version
            claims = spool.decisions.claim(5)
            if not claims:
                spool.signals.of(INSTANCES).wait(version, None)  # as the stages do
        spool.decisions.release(claims[0]).result()
        go_on()
    spool.close()


def test_what_was_said_while_nobody_heard_is_looked_for(
    settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.spool.watch.AGAIN_AFTER", 0.01)
    spool, looker = open_spool(settings), read_spool(settings)
    wait_for(lambda: spool.database._watch is not None and spool.database._watch.hears)
    version = spool.signals.of("ai").version
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1'"
    looker.database.ask(lambda c: c.execute(sa.text(end)).all())
    spool.signals.of("ai").wait(version, 30)
    assert spool.signals.of("ai").version > version
    looker.close()
    spool.close()


# -- leases


def test_a_stalled_holder_loses_its_claim_and_changes_nothing(settings: SpoolSettings) -> None:
    with turned_by_hand() as hands:
        stalled, other = open_spool(settings), open_spool(settings)
        accept(stalled)
        (claim,) = stalled.decisions.claim(1)
        hands.turn(LEASE - 1)
        assert other.decisions.claim(1) == []
        hands.turn(2)
        (again,) = other.decisions.claim(1)
        assert again.tries == 1
        stalled.database.renew()  # it wakes up, and still believes that it holds it
        assert not stalled.decisions.record(claim, SEEN, decision("wrong"), {}).result()
        assert other.decisions.record(again, SEEN, decision("ai"), {}).result()

        (lost,) = stalled.deliveries.claim("ai", 1)
        hands.turn(LEASE + 1)
        (held,) = other.deliveries.claim("ai", 1)
        stalled.database.renew()
        assert not stalled.deliveries.close(lost, DeliveryState.DONE).result()
        assert not stalled.deliveries.retry(lost, 0, "later").result()
        assert other.deliveries.close(held, DeliveryState.DONE).result()
        stalled.close()
        other.close()


def test_what_is_held_is_renewed_and_what_was_ended_is_not(settings: SpoolSettings) -> None:
    with turned_by_hand() as hands:
        one, other = open_spool(settings), open_spool(settings)
        owed_to_ai(one, 2)
        held, ended = one.deliveries.claim("ai", 2)
        assert one.deliveries.retry(ended, 2 * LEASE, "later").result()
        for seconds in (LEASE - 1, LEASE - 1, 3):
            assert other.deliveries.claim("ai", 2) == []
            hands.turn(seconds)
            one.database.renew()
        assert [d.id for d in other.deliveries.claim("ai", 2)] == [ended.id]
        assert one.deliveries.close(held, DeliveryState.DONE).result()
        one.close()
        other.close()


def test_who_lost_a_claim_does_not_hold_it_for_the_next(settings: SpoolSettings) -> None:
    with turned_by_hand() as hands:
        stalled, other = open_spool(settings), open_spool(settings)
        owed_to_ai(stalled, 1)
        stalled.deliveries.claim("ai", 1)
        hands.turn(LEASE + 1)
        (held,) = other.deliveries.claim("ai", 1)
        hands.turn(LEASE - 1)
        stalled.database.renew()
        hands.turn(2)
        assert [d.id for d in stalled.deliveries.claim("ai", 1)] == [held.id]
        stalled.close()
        other.close()


def test_who_stops_gives_back_what_it_held(nodes: tuple[Spool, Spool]) -> None:
    one, other = nodes
    owed_to_ai(one, 1)
    accept(one, uid="1.9")
    (owed,), (claim,) = one.deliveries.claim("ai", 1), one.decisions.claim(1)
    one.close()
    assert [d.id for d in other.deliveries.claim("ai", 1)] == [owed.id]
    assert [c.instance.id for c in other.decisions.claim(1)] == [claim.instance.id]


def test_a_person_frees_what_a_dead_holder_left(settings: SpoolSettings) -> None:
    with turned_by_hand() as hands:
        dead, node = open_spool(settings), open_spool(settings)
        owed_to_ai(dead, 1)
        (held,) = dead.deliveries.claim("ai", 1)
        assert node.orders.retry_now([held.id], "a person") == 0
        hands.turn(LEASE + 1)
        assert node.orders.retry_now([held.id], "a person") == 1
        assert not dead.deliveries.close(held, DeliveryState.DONE).result()
        dead.close()
        node.close()


@pytest.mark.parametrize("do", ["retry", "resume"])
def test_what_a_person_orders_of_one_node_the_circuit_of_another_heeds(nodes: tuple[Spool, Spool], do: str) -> None:
    one, other = nodes
    owed_to_ai(one, 1)
    circuit = Circuit("ai", one, lambda: 0.5)
    circuit.failed("no answer", for_good=True)
    circuit.heed()
    assert circuit.wait() > 200
    if do == "retry":
        assert other.orders.retry_now([row.id for row in other.views.deliveries()], "a person") == 1
    else:
        other.orders.resume("ai", "a person")
    circuit.heed()
    assert circuit.wait() == 0.0


def test_renewing_happens_by_itself(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.spool.claims.LEASE", 0.003)
    spool = open_spool(settings)
    accept(spool)
    spool.decisions.claim(1)
    ends: set[float] = set()
    while len(ends) < 3:
        ends.add(spool.database.ask(lambda c: c.execute(sa.select(instance.c.ready_at)).scalar_one()))
    (renewing,) = [thread for thread in threading.enumerate() if thread.name == "spool-leases"]
    spool.close()
    renewing.join(10)
    assert not renewing.is_alive()


def test_the_clock_is_the_servers(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(settings)
    monkeypatch.setattr("time.time", lambda: 5.0)
    assert spool.database.ask(clock.now) > 1_600_000_000
    assert spool.database.ask(clock.now) < spool.database.ask(clock.now)
    accept(spool)
    assert len(spool.decisions.claim(1)) == 1
    spool.close()


@pytest.mark.slow
def test_after_a_crash_a_lone_node_goes_on_at_once(settings: SpoolSettings) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tests.unit.spooling import *; from router.spool import *;"
        "spool = open_spool(settings_of(Path(sys.argv[1]), sys.argv[2])); accept(spool); spool.decisions.claim(1);"
        "os._exit(9)"
    )
    command = [sys.executable, "-c", script, str(settings.path), settings.database]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == 9
    spool = open_spool(settings)
    assert len(spool.decisions.claim(10)) == 1
    spool.close()


# -- the server


def hang_up(spool: Spool, looker: Spool) -> None:
    """The server ends the writer's connection, as a restart does."""
    pid = spool.database.run(lambda c: c.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
    gone = sa.text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
    looker.database.ask(lambda c: c.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}))
    while looker.database.ask(lambda c: c.execute(gone, {"pid": pid}).scalar_one()):
        pass


@pytest.mark.slow
def test_a_server_that_restarts_costs_one_refusal(settings: SpoolSettings) -> None:
    spool, looker = open_spool(settings), read_spool(settings)
    hang_up(spool, looker)
    with pytest.raises(SpoolError, match="did not take the change"):
        accept(spool, uid="1.1")
    assert files(settings.path) == set()
    assert not accept(spool, uid="1.1").merged
    (claim,) = spool.decisions.claim(1)
    hang_up(spool, looker)
    assert spool.decisions.record(claim, SEEN, decision("ai"), {}).result()
    looker.close()
    spool.close()


@pytest.mark.slow
def test_a_lost_connection_is_no_full_disk(settings: SpoolSettings) -> None:
    """Notifications were missed meanwhile, so all look for work; but finished images are kept for their time."""
    spool, looker = open_spool(settings), read_spool(settings)
    work, full = spool.signals.of(INSTANCES), spool.signals.of(FULL)
    wait_for(lambda: work.version > 0)
    seen, before = work.version, full.version
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    looker.database.ask(lambda c: c.exec_driver_sql(f"SELECT pg_terminate_backend(pid) {others}").all())
    wait_for(lambda: work.version > seen)
    assert full.version == before
    looker.close()
    spool.close()


def test_no_server(settings: SpoolSettings, tmp_path: Path) -> None:
    url = f"postgresql://someone:secret@/spool?host={tmp_path}"
    for attempt in (open_spool, lambda changed: read_spool(changed).views.counts()):
        with pytest.raises(SpoolError, match="does not answer") as caught:
            attempt(settings_of(settings.path, url))
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_another_database_does_not_make_orphans_of_all_blobs(
    settings: SpoolSettings, postgresql: Callable[[], str]
) -> None:
    spool = open_spool(settings)
    accept(spool)
    spool.close()
    with pytest.raises(SpoolError, match="has blobs but its database is empty"):
        open_spool(settings_of(settings.path, postgresql()))
    assert len(files(settings.path)) == 1


def test_an_older_dump_costs_no_instance(settings: SpoolSettings) -> None:
    """The server was restored from a dump, or a standby that lagged took over."""
    spool = open_spool(settings)
    known, lost = stored(spool, "1.1").id, stored(spool, "1.2").id
    spool.database.run(lambda c: c.execute(instance.delete().where(instance.c.id == lost)))
    spool.close()
    spool = open_spool(settings)
    assert {claim.instance.id for claim in spool.decisions.claim(9)} == {known, lost}
    spool.close()


def test_looking_cannot_write(settings: SpoolSettings) -> None:
    spool = open_spool(settings)

    def write(connection: sa.Connection) -> Any:
        return connection.execute(instance.delete())

    with pytest.raises(SpoolError, match="read-only"):
        spool.database.ask(write)
    spool.close()


def test_a_received_value_that_the_database_cannot_hold_is_that_instances_own_fault(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    with pytest.raises(SpoolError) as caught:
        accept(spool, uid="1.2\0.3")
    assert "1.2" not in str(caught.value)
    assert not accept(spool).merged
    assert len(files(settings.path)) == 1
    spool.close()
