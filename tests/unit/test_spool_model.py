"""The spool against a model of a few dictionaries: whatever is done in whatever order, both say the same."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)  # fmt: skip

from router.flow import Caller, Delivery
from router.spool import Claim, DeliveryRow, DeliveryState, InstanceState, Spool, open_spool
from tests.unit.spooling import (
    CALLERS,
    HEADER,
    SEEN,
    Door,
    Owed,
    Row,
    decision,
    files,
    instance_for,
    sealed,
    settings_of,
    turned_by_hand,
)

DESTINATIONS = ("chest-ai", "spine-ai", "catch-all")
KEEP, KEEP_RECORDS = 100.0, 1000.0
LIMIT = 2
IN_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class SpoolMachine(RuleBasedStateMachine):
    """Rules do one thing to both and compare what was answered; the invariant compares all that is kept."""

    accepted = Bundle("accepted")
    claims = Bundle("claims")
    held = Bundle("held")

    def __init__(self, database: str) -> None:
        super().__init__()
        self.database = database
        self.root = Path(tempfile.mkdtemp(prefix="spool model ", dir=IN_MEMORY))
        self.settings = settings_of(self.root / "spool", database, keep=KEEP, keep_records=KEEP_RECORDS)
        self.stack = ExitStack()
        self.clock = self.stack.enter_context(turned_by_hand())
        self.spool: Spool = open_spool(self.settings)
        self.rows: dict[str, Row] = {}
        self.owed: dict[int, Owed] = {}
        self.doors = {name: Door() for name in DESTINATIONS}

    def teardown(self) -> None:
        self.spool.close()
        self.stack.close()
        shutil.rmtree(self.root)

    # -- receive

    @initialize(target=accepted)
    def first(self) -> Any:
        return self._accept("1.1", b"a", CALLERS[0])

    @initialize(target=held)
    def some_on_their_way(self) -> Any:
        """Two rounds, so that few steps reach what only happens late."""
        for data in (b"b", b"c"):
            self._accept("1.3", data, CALLERS[1])
            for claim in self.claim_instances(5).values:
                self.record(claim, list(DESTINATIONS))
        return multiple(*self.claim_deliveries("chest-ai", 1).values, *self.claim_deliveries("spine-ai", 1).values)

    @rule(
        target=accepted,
        uid=st.sampled_from(["1.1", "1.2"]),
        data=st.sampled_from([b"a", b"ab" * 50]),
        caller=st.sampled_from(CALLERS),
    )
    def accept(self, uid: str, data: bytes, caller: Caller) -> Any:
        return self._accept(uid, data, caller)

    def _accept(self, uid: str, data: bytes, caller: Caller) -> Any:
        blob = sealed(self.spool, data)
        result = self.spool.intake.accept(blob, instance_for(blob, uid, caller))
        equal = [
            key for key, row in self.rows.items()
            if (row.uid, row.data, row.caller) == (uid, data, caller) and self._has_open_work(key)
        ]  # fmt: skip
        assert result.merged == bool(equal)
        if result.merged:
            assert result.instance_id in equal
            return multiple()
        assert result.instance_id == blob.id
        self.rows[blob.id] = Row(uid, data, caller)
        return blob.id

    def _has_open_work(self, key: str) -> bool:
        return self.rows[key].state == InstanceState.NEW or any(
            o.state == DeliveryState.OPEN for o in self._owed_of(key)
        )

    @rule()
    def abandon_a_blob(self) -> None:
        blob = self.spool.intake.begin(HEADER)
        blob.write(memoryview(b"half of it"))
        blob.discard()

    @rule(data=st.booleans())
    def crash_between_blob_and_row(self, data: bool) -> None:
        """Leaves a blob, whole or half, without a row; gone after the next start."""
        blob = self.spool.intake.begin(HEADER)
        if data:
            blob.seal()
        self._reopen()

    # -- classify

    @rule(target=claims, limit=st.integers(1, 3))
    def claim_instances(self, limit: int) -> Any:
        due = [
            key for key, row in self.rows.items() if row.state == InstanceState.NEW and row.ready_at <= self.clock.at
        ]
        again = sorted((key for key in due if self.rows[key].ready_at), key=lambda key: (self.rows[key].ready_at, key))
        got = self.spool.decisions.claim(limit)
        ids = [claim.instance.id for claim in got]
        assert ids == sorted(ids)
        assert len(ids) == min(limit, len(due))
        assert set(again[:limit]) <= set(ids)
        assert len(again) <= limit or set(ids) == set(again[:limit])
        fresh, left = {}, {}
        for caller in CALLERS:  # of each the oldest, and of none more than of another that has as many
            of_it = sorted(key for key in due if key not in again and self.rows[key].caller == caller)
            fresh[caller] = [key for key in of_it if key in ids]
            left[caller] = len(of_it) - len(fresh[caller])
            assert fresh[caller] == of_it[: len(fresh[caller])]
        for one, other in (CALLERS, CALLERS[::-1]):
            assert len(fresh[one]) <= len(fresh[other]) + 1 or not left[other]
        for claim in got:
            row = self.rows[claim.instance.id]
            assert claim.tries == row.tries
            assert claim.path.read_bytes() == HEADER + row.data
            row.tries, row.token, row.ready_at = row.tries + 1, claim.token, float("inf")
        return multiple(*got)

    @rule(claim=consumes(claims) | claims, to=st.lists(st.sampled_from(DESTINATIONS), max_size=3, unique=True))
    def record(self, claim: Claim, to: list[str]) -> None:
        limits = {"spine-ai": LIMIT}
        ours = self._is_ours(claim)
        before = set(self.owed)
        assert self.spool.decisions.record(claim, SEEN, decision(*to), limits).result() == ours
        new = [row for row in self._stored_deliveries() if row.id not in before]
        if not ours:
            assert not new
            return
        row, key = self.rows[claim.instance.id], claim.instance.id
        already = {o.destination for o in self._owed_of(key) if o.state in (DeliveryState.OPEN, DeliveryState.BURIED)}
        expected = [name for name in to if name not in already]
        assert sorted(one.destination for one in new) == sorted(expected)
        for one in new:
            name = one.destination
            is_full = name in limits and self._open_to(name) >= LIMIT
            self.owed[one.id] = Owed(key, name, self.clock.at, DeliveryState.BURIED if is_full else DeliveryState.OPEN)
        row.state, row.token, row.ready_at = InstanceState.DECIDED, 0, 0.0
        self._finish_if_last(key)

    @rule(claim=consumes(claims) | claims, after=st.sampled_from([0.0, 5.0]), forget=st.booleans())
    def release(self, claim: Claim, after: float, forget: bool) -> None:
        self.spool.decisions.release(claim, after=after, forget_try=forget).result()
        if self._is_ours(claim):
            row = self.rows[claim.instance.id]
            row.tries -= forget
            is_new_again = forget and not after and not row.tries
            row.token, row.ready_at = 0, 0.0 if is_new_again else self.clock.at + after

    def _is_ours(self, claim: Claim) -> bool:
        row = self.rows.get(claim.instance.id)
        return row is not None and row.token == claim.token and row.state == InstanceState.NEW

    # -- forward

    @rule(target=held, to=st.sampled_from(DESTINATIONS), limit=st.integers(1, 3))
    def claim_deliveries(self, to: str, limit: int) -> Any:
        due = [
            k
            for k, o in self.owed.items()
            if (o.destination, o.state) == (to, DeliveryState.OPEN) and o.ready_at <= self.clock.at
        ]
        due.sort(key=lambda key: (self.owed[key].ready_at, key))
        got = self.spool.deliveries.claim(to, limit)
        assert [one.id for one in got] == sorted(due[:limit])
        for one in got:
            o = self.owed[one.id]
            assert (one.instance.id, one.destination, one.tries) == (o.instance_id, to, o.tries)
            assert one.buriable_tries == o.buriable
            assert one.path.read_bytes() == HEADER + self.rows[o.instance_id].data
            still = self.doors[to].still_after(o.owed_since, self.clock.at)
            assert one.owed_for == pytest.approx(self.clock.at - o.owed_since - still)
            o.token, o.ready_at = one.token, float("inf")
        return multiple(*got)

    @rule(
        one=consumes(held) | held,
        state=st.sampled_from([DeliveryState.DONE, DeliveryState.DONE, DeliveryState.BURIED, DeliveryState.SKIPPED]),
    )
    def close_delivery(self, one: Delivery, state: DeliveryState) -> None:
        ours = self._holds(one)
        assert self.spool.deliveries.close(one, state, "because", 0).result() == ours
        if ours:
            o = self.owed[one.id]
            o.state, o.token, o.ready_at, o.tries = state, 0, 0.0, o.tries + 1
            self._finish_if_last(o.instance_id)

    @rule(one=consumes(held) | held, after=st.sampled_from([0.0, 7.0]), tried=st.booleans(), buriable=st.booleans())
    def retry(self, one: Delivery, after: float, tried: bool, buriable: bool) -> None:
        ours = self._holds(one)
        assert self.spool.deliveries.retry(one, after, "later", 0xA700, tried=tried, buriable=buriable).result() == ours
        if ours:
            o = self.owed[one.id]
            o.token, o.ready_at = 0, self.clock.at + after if after else 0.0
            o.tries, o.buriable = o.tries + tried, o.buriable + buriable

    def _holds(self, one: Delivery) -> bool:
        o = self.owed.get(one.id)
        return o is not None and o.state == DeliveryState.OPEN and o.token == one.token

    @rule(name=st.sampled_from(DESTINATIONS), seconds=st.sampled_from([None, 50.0]))
    def set_circuit(self, name: str, seconds: float | None) -> None:
        self.spool.destinations.set_circuit(name, seconds, 3, "no answer")
        self.doors[name].circuit = self.clock.at + seconds if seconds else 0.0
        self.doors[name].changed(self.clock.at)

    # -- people

    @rule(name=st.sampled_from(DESTINATIONS), paused=st.booleans())
    def pause_or_resume(self, name: str, paused: bool) -> None:
        (self.spool.orders.pause if paused else self.spool.orders.resume)(name, "a person")
        self.doors[name].paused = paused
        if not paused:
            self._order_try(name)
        self.doors[name].changed(self.clock.at)

    def _order_try(self, name: str) -> None:
        """An open circuit is to be probed now; it goes on standing still."""
        if self.doors[name].circuit:
            self.doors[name].circuit = self.clock.at

    @rule(data=st.data())
    def retry_now(self, data: st.DataObject) -> None:
        chosen = self._choose(data)
        free = self._free(chosen)
        assert self.spool.orders.retry_now(chosen, "a person") == len(free)
        for key in free:
            o = self.owed[key]
            self.owed[key] = replace(
                o, state=DeliveryState.OPEN, ready_at=0.0, tries=0, buriable=0, owed_since=self.clock.at
            )
        for o in (self.owed[key] for key in chosen if key in self.owed):
            if o.state == DeliveryState.OPEN:
                self._order_try(o.destination)

    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        chosen = self._choose(data)
        free = self._free(chosen)
        assert self.spool.orders.discard(chosen, "a person") == len(free)
        for key in free:
            self.owed[key].state = DeliveryState.DISCARDED
            self._finish_if_last(self.owed[key].instance_id)

    def _choose(self, data: st.DataObject) -> list[int]:
        return data.draw(st.lists(st.sampled_from([0, *self.owed]), max_size=4, unique=True))

    def _free(self, chosen: list[int]) -> list[int]:
        found = [key for key in chosen if key in self.owed]
        return [
            key
            for key in found
            if self.owed[key].state in (DeliveryState.OPEN, DeliveryState.BURIED) and self.owed[key].token == 0
        ]

    @rule(key=accepted)
    def redecide(self, key: str) -> None:
        row = self.rows.get(key)
        possible = row is not None and row.state in (InstanceState.DECIDED, InstanceState.FINISHED)
        assert self.spool.orders.redecide(key, "a person") == possible
        if row is not None and possible:
            row.state, row.ready_at, row.token, row.tries = InstanceState.NEW, 0.0, 0, 0

    # -- housekeeping

    @rule(seconds=st.sampled_from([1.0, 6.0, KEEP + 1, KEEP_RECORDS]))
    def time_passes(self, seconds: float) -> None:
        self.clock.turn(seconds)
        self.spool.database.renew()

    @rule()
    def sweep(self) -> None:
        self._drop_finished(self.clock.at - KEEP)
        for key in [
            k
            for k, r in self.rows.items()
            if r.state == InstanceState.GONE and r.finished_at < self.clock.at - KEEP_RECORDS
        ]:
            del self.rows[key]
            self.owed = {number: o for number, o in self.owed.items() if o.instance_id != key}
        while self.spool.retention.sweep():
            pass

    @rule()
    def wipe(self) -> None:
        assert self.spool.orders.wipe("a person") == self._drop_finished(float("inf"))

    def _drop_finished(self, before: float) -> int:
        due = [row for row in self.rows.values() if row.state == InstanceState.FINISHED and row.finished_at < before]
        for row in due:
            row.state = InstanceState.GONE
        return len(due)

    @rule()
    def stop_and_start(self) -> None:
        self._reopen()

    def _reopen(self) -> None:
        self.spool.close()
        self.spool = open_spool(self.settings)
        for row in self.rows.values():  # what was asked about goes before new work
            if row.ready_at == float("inf"):
                row.ready_at, row.token = self.clock.at, 0
        for owed in self.owed.values():
            if owed.ready_at == float("inf"):
                owed.ready_at, owed.token = 0.0, 0

    # -- the two side by side

    @invariant()
    def same_instances(self) -> None:
        stored = {row.id: row for row in self.spool.views.instances(limit=1000)}
        assert set(stored) == set(self.rows)
        for key, row in self.rows.items():
            kept = stored[key]
            assert (kept.state, kept.token, kept.tries) == (row.state, row.token, row.tries)
            assert kept.sop_instance == row.uid

    @invariant()
    def same_deliveries(self) -> None:
        stored = {row.id: row for row in self._stored_deliveries()}
        assert set(stored) == set(self.owed)
        for key, o in self.owed.items():
            kept = stored[key]
            assert (kept.instance_id, kept.destination, kept.state) == (o.instance_id, o.destination, o.state)
            assert (kept.tries, kept.buriable_tries, kept.token) == (o.tries, o.buriable, o.token)

    @invariant()
    def each_row_its_blob_and_each_blob_its_row(self) -> None:
        kept = {key + ".dcm": row for key, row in self.rows.items() if row.state != InstanceState.GONE}
        assert files(self.settings.path) == set(kept)
        assert self.spool.views.counts().bytes == sum(len(row.data) for row in kept.values())

    @invariant()
    def same_counts(self) -> None:
        counts = self.spool.views.counts()
        assert counts.undecided == sum(row.state == InstanceState.NEW for row in self.rows.values())
        for name, door in self.doors.items():
            assert counts.open.get(name, 0) == self._open_to(name)
            state = self.spool.destinations.state(name)
            assert (state.paused, state.circuit_until) == (door.paused, door.circuit)

    @invariant()
    def what_is_owed_keeps_its_blob(self) -> None:
        for o in self.owed.values():
            if o.state in (DeliveryState.OPEN, DeliveryState.BURIED):
                assert self.rows[o.instance_id].state in (InstanceState.NEW, InstanceState.DECIDED)

    @invariant()
    def the_next_is_known(self) -> None:
        if self.database != "sqlite":  # there it may also be the end of a lease
            return
        for name in DESTINATIONS:
            due = [o.ready_at for o in self.owed.values() if (o.destination, o.state) == (name, DeliveryState.OPEN)]
            free = [at for at in due if at != float("inf")]
            assert self.spool.deliveries.next_due(name) == (min(free) - self.clock.at if free else None)

    def _stored_deliveries(self) -> list[DeliveryRow]:
        return self.spool.views.deliveries(states=tuple(DeliveryState), limit=10_000)

    def _owed_of(self, key: str) -> list[Owed]:
        return [o for o in self.owed.values() if o.instance_id == key]

    def _open_to(self, name: str) -> int:
        return sum((o.destination, o.state) == (name, DeliveryState.OPEN) for o in self.owed.values())

    def _finish_if_last(self, key: str) -> None:
        row = self.rows[key]
        if row.state == InstanceState.DECIDED and not any(
            o.state in (DeliveryState.OPEN, DeliveryState.BURIED) for o in self._owed_of(key)
        ):
            row.state, row.finished_at = InstanceState.FINISHED, self.clock.at


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "examples"), [("sqlite", 20), pytest.param("postgresql", 6, marks=pytest.mark.postgresql)]
)
def test_spool_and_model_say_the_same(request: pytest.FixtureRequest, engine: str, examples: int) -> None:
    def machine() -> SpoolMachine:
        return SpoolMachine(request.getfixturevalue("postgresql")() if engine == "postgresql" else "sqlite")

    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # what makes one does as well
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
