"""What the database is asked, and how: each statement by an index, the schema as its migrations make it, retention."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg as postgresql_dialect

from router.config.settings import ResultsFrom, SpoolSettings
from router.flow import Caller, PictureFacts, Prediction, Seen
from router.spool import (
    INSTANCES,
    DeliveryRow,
    DeliveryState,
    EventRow,
    InstanceRow,
    InstanceState,
    Spool,
    claims,
    open_spool,
    queries,
)
from router.spool.filters import BEHIND_ALL, AnyFilter, HasDelivery, InColumn, InState, Span
from router.spool.find import Filter, Result, State
from router.spool.keyed import STUDY
from router.spool.schema import delivery, event, instance, metadata
from tests.unit.spooling import (
    SEEN,
    accept,
    decide,
    decision,
    files,
    instance_for,
    sealed,
    settings_of,
    turned_by_hand,
)  # fmt: skip

LARGE = ("instance", "delivery", "event", "result")


@pytest.fixture
def settings(tmp_path: Path, database: str) -> SpoolSettings:
    return settings_of(tmp_path / "spool", database, keep=100, keep_records=1000)


def everything(spool: Spool) -> None:
    """Whatever the spool can do, once."""
    accept(spool)
    accept(spool)
    for claim in spool.decisions.claim(5):
        spool.decisions.release(claim, after=0.0).result()
    claim = decide(spool, "ai", "other", "third", ai=5)
    for owed in spool.deliveries.claim_untried("ai"):
        spool.deliveries.retry(owed, 0, "", tried=False).result()
    spool.deliveries.next_due("ai")
    spool.decisions.next_due()
    spool.deliveries.known_digests("ai", "1.2.3")
    for name, state in (("ai", DeliveryState.DONE), ("other", DeliveryState.BURIED), ("third", DeliveryState.SKIPPED)):
        (owed,) = spool.deliveries.claim(name, 5)
        spool.deliveries.retry(owed, 0, "later").result()
        (owed,) = spool.deliveries.claim(name, 5)
        spool.deliveries.close(owed, state).result()
    with spool.space.for_copy(claim.instance, claim.path.with_suffix(".1.native")):
        pass
    spool.destinations.set_circuit("ai", 1.0, 1, "no answer")
    spool.orders.pause("ai", "a person")
    (buried,) = spool.views.deliveries(states=(DeliveryState.BURIED,))
    spool.orders.retry_now([buried.id], "a person")
    spool.orders.discard([buried.id], "a person")
    spool.orders.redecide(claim.instance.id, "a person")
    decide(spool)
    spool.views.deliveries(to="ai")
    spool.views.deliveries(states=(DeliveryState.OPEN,), after=1)
    spool.views.deliveries(instance_id=claim.instance.id)
    spool.views.instances()
    spool.views.instance(claim.instance.id)
    spool.views.events()
    spool.views.events(instance_id=claim.instance.id)
    spool.views.counts()
    results_come_and_do_not(spool)
    spool.orders.wipe()
    spool.retention.sweep()
    spool.tidy_up()


TURN = itertools.count()


def results_come_and_do_not(spool: Spool) -> None:
    image, with_reference, without = (f"1.2.{next(TURN)}.{name}" for name in (7, 8, 9))
    givers = {"ai": ResultsFrom(frozenset({"AI"}), True)}
    key = spool.decisions.key
    assert key is not None
    study = key.study("1.9")
    accept(spool, image.encode(), image)
    (claim,) = spool.decisions.claim(1)
    header = {STUDY: ("1.9",)}
    assert spool.decisions.record(claim, Seen("none", header), decision("ai"), {}).result()
    (owed,) = spool.deliveries.claim("ai", 1)
    spool.deliveries.close(owed, DeliveryState.DONE, expect=-1.0).result()
    spool.results.step({"ai": (-1.0, "people")}, {"ai": None, "people": None}, givers=givers)
    for uid, refers_to in ((with_reference, (image,)), (without, ())):
        accept(spool, uid.encode(), uid, Caller("AI", "ROUTER", "10.0.0.9"))
        (claim,) = spool.decisions.claim(1)
        one = replace(claim.instance, received_at=2e9)
        found = spool.results.match(one, study, refers_to, givers)
        assert found.names == ("ai",)
        seen = Seen("none", header)
        assert spool.decisions.record(claim, seen, decision("people"), {}, found=found).result()
        spool.results.answering(owed.instance.id)
        spool.results.answered_by(one.id)
    spool.results.lately()
    for which in Result:
        spool.views.find(Filter(result=which))
        spool.views.find(Filter(result=which, to="ai"))


def test_every_statement_goes_by_an_index(settings: SpoolSettings) -> None:
    asked: dict[str, Any] = {}

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE", "DELETE", "WITH"):
            asked[statement] = parameters

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    try:
        spool = open_spool(settings)
        everything(spool)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
    spool.close()
    spool = open_spool(settings)
    ours = {text: values for text, values in asked.items() if any(table in text for table in LARGE)}
    assert len(ours) > 25
    for statement, parameters in ours.items():
        for line in spool.database.ask(partial(plan_of, statement=statement, parameters=parameters)):
            assert not any(scan in line for scan in scans()), (statement, line)
    spool.close()


def filled(spool: Spool, count: int) -> None:
    """Records of the past, delivered, their blobs removed. And as much that waits for a destination that is down."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    which = "substr('000000000000000000000000' || i, length('' || i)) || 'abcdef'"
    instances = (
        "INSERT INTO instance (id, received_at, calling_ae, called_ae, peer, sop_class, sop_instance, transfer_syntax, "
        "\"offset\", size, digest, state, finished_at) {} SELECT '{}' || {}, 1e9, 'X', 'Y', '10.0.0.9', '1.2', "
        "'1.9.{}.' || i, '1.2', 0, 1, '0', '{}', 1e12 FROM n"
    )
    deliveries = (
        "INSERT INTO delivery (instance_id, destination, state, owed_since, ready_at, tries) "
        "{} SELECT '{}' || {}, '{}', '{}', 1e9, 1e12, 0 FROM n"
    )

    def fill(connection: sa.Connection) -> None:
        for kind, state in (("0", InstanceState.GONE), ("a", InstanceState.DECIDED)):
            connection.exec_driver_sql(instances.format(numbers, kind, which, kind, state))
        for kind, to, owed in (
            ("0", "ai", DeliveryState.DONE),
            ("0", "other", DeliveryState.DONE),
            ("a", "down", DeliveryState.OPEN),
        ):
            connection.exec_driver_sql(deliveries.format(numbers, kind, which, to, owed))
        connection.exec_driver_sql(
            f"INSERT INTO event (at, kind, instance_id) {numbers} SELECT 1e12, 'same UID again', '0' || {which} FROM n"
        )

    spool.database.run(fill)


def steps(spool: Spool) -> Counter[str]:
    """The largest number of steps of SQLite's machine for each statement that `everything` makes."""
    found: Counter[str] = Counter()
    running = [0]

    def begin(connection: Any, _cursor: Any, _statement: str, *_: Any) -> None:
        running[0] = 0
        connection.connection.driver_connection.set_progress_handler(count, 10)

    def count() -> int:
        running[0] += 10
        return 0

    def end(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found[statement] = max(found[statement], running[0])

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", begin)
    sa.event.listen(sa.engine.Engine, "after_cursor_execute", end)
    try:
        everything(spool)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", begin)
        sa.event.remove(sa.engine.Engine, "after_cursor_execute", end)
    return found


SUMS = ("count(*) AS n", "coalesce(sum(")
"""What is counted for `/metrics`, and at a start: by its index, all that waits or is kept."""


def test_no_statement_looks_at_more_rows_because_there_are_more(tmp_path: Path) -> None:
    """Nothing that happens to one instance may cost more after a year."""
    counted = []
    for count in (1, 1500):
        spool = open_spool(settings_of(tmp_path / str(count)))
        filled(spool, count)
        counted.append(steps(spool))
        spool.close()
    empty, large = counted
    assert len(empty) > 30
    grown = {
        text: (empty[text], large[text])
        for text in large
        if large[text] > 2 * empty[text] + 2000 and not any(sums in text for sums in SUMS)
    }
    assert grown == {}


@pytest.mark.postgresql
def test_on_postgresql_neither(postgresql: Callable[[], str], tmp_path: Path) -> None:
    """What it looks at by its own statistics: rows read, also those that a filter drops."""
    spool = open_spool(settings_of(tmp_path / "spool", postgresql()))
    filled(spool, 5000)
    spool.database.run(lambda c: c.execute(sa.text("ANALYZE")))
    asked: dict[str, Any] = {}

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.split()[0] in ("SELECT", "WITH") and any(table in statement for table in LARGE):
            asked[statement] = parameters

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    try:
        everything(spool)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
    assert len(asked) > 15
    read = {
        text: spool.database.run(partial(rows_read, statement=text, parameters=values))
        for text, values in asked.items()
    }
    assert {
        text: rows for text, rows in read.items() if rows > 700 and not any(sums in text for sums in SUMS)
    } == {}  # a page has at most 500
    spool.close()


@pytest.mark.postgresql
def test_a_state_that_no_delivery_has_costs_no_scan_of_the_others(
    postgresql: Callable[[], str], tmp_path: Path
) -> None:
    """PostgreSQL counts no entries of an index that it passes over, so its pages are counted."""
    url = postgresql()
    spool = open_spool(settings_of(tmp_path / "spool", url))
    filled(spool, 5000)
    spool.close()
    ids = HasDelivery("down", DeliveryState.SKIPPED.value).latest(Span("", BEHIND_ALL), 100)
    text = str(ids.compile(dialect=postgresql_dialect(), compile_kwargs={"literal_binds": True}))  # type: ignore[no-untyped-call]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        (explained,) = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}").fetchone() or ([],)
    plan = explained[0]["Plan"]
    assert plan["Actual Rows"] == 0
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 10


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "wanted",
    [
        InColumn(instance.c["class"], "spine"), InColumn(instance.c.rule, "chest"), InState("decided"),
        HasDelivery("", "open"), HasDelivery("down", "open"), HasDelivery("down", ""),
    ],
    ids=lambda one: f"{type(one).__name__}-{getattr(one, 'to', '')}",
)  # fmt: skip
def test_the_begin_of_a_span_costs_no_look_at_what_came_before(
    wanted: AnyFilter, postgresql: Callable[[], str], tmp_path: Path
) -> None:
    """As above, by pages: of what came in the last hour there is nothing, of what came before there is much."""
    url = postgresql()
    spool = open_spool(settings_of(tmp_path / "spool", url))
    filled(spool, 5000)
    spool.close()
    ids = wanted.latest(Span("b", BEHIND_ALL), 100)  # all ids are less
    text = str(ids.compile(dialect=postgresql_dialect(), compile_kwargs={"literal_binds": True}))  # type: ignore[no-untyped-call]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE instance SET class = 'spine', rule = 'chest', ready_at = 0")
        connection.execute("VACUUM FULL ANALYZE")
        connection.execute("VACUUM")
        (explained,) = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}").fetchone() or ([],)
    plan = explained[0]["Plan"]
    assert plan["Actual Rows"] == 0
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 30


@pytest.mark.parametrize(
    ("question", "index"), [(queries.counts, "delivery_waits"), (queries.bytes_of_blobs, "instance_present")]
)
def test_sums_read_an_index_that_holds_nothing_else(settings: SpoolSettings, question: Any, index: str) -> None:
    """So their cost grows with what waits, or lies on the disk, and not with the records."""
    spool = open_spool(settings)
    filled(spool, 500)
    if settings.database != "sqlite":
        with psycopg.connect(settings.database, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    try:
        spool.database.ask(question)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
    statement, parameters = next(one for one in asked if "sum(" in one[0] or "GROUP BY" in one[0])
    plan = spool.database.ask(partial(plan_of, statement=statement, parameters=parameters))
    assert any(index in line and ("Only" in line or "COVERING" in line) for line in plan), plan
    spool.close()


def test_a_start_does_not_look_at_all_that_waits(settings: SpoolSettings) -> None:
    """It ends the claims of earlier starts, which are few however much waits."""
    spool = open_spool(settings)
    filled(spool, 500)
    if settings.database != "sqlite":
        with psycopg.connect(settings.database, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    asked: dict[str, Any] = {}

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("UPDATE instance", "UPDATE delivery")):
            asked[statement] = parameters

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    try:
        spool.database.run(partial(claims.free_all, now=0.0))
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
    assert len(asked) == 2
    for statement, parameters in asked.items():
        plan = spool.database.run(partial(plan_of, statement=statement, parameters=parameters))
        assert any("_claimed" in line for line in plan), plan
    spool.close()


TOGETHER_NONE = (
    Filter(class_name="spine", rule="chest"),
    Filter(class_name="spine", to="ai", state=State.DONE, calling_ae="X", peer="10.0.0.9"),
    Filter(rule="chest", to="down", state=State.WAITING),
    Filter(rule="chest", state=State.WAITING),
    Filter(class_name="spine", state=State.DONE),
)


@pytest.mark.slow
def test_a_look_of_find_is_bounded(settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each filter matches many rows and all together none; the planner knows how many rows there are."""
    monkeypatch.setattr("router.spool.find.FEW", 50)
    spool = open_spool(settings)
    filled(spool, 4000)
    for state, values in ((InstanceState.DECIDED, {"class": "spine"}), (InstanceState.GONE, {"rule": "chest"})):
        change = instance.update().where(instance.c.state == state).values(values)
        spool.database.run(partial(sa.Connection.execute, statement=change))
    spool.database.run(lambda c: c.execute(sa.text("ANALYZE")))
    asked: dict[str, Any] = {}

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked[statement] = parameters

    for wanted in TOGETHER_NONE:
        asked.clear()
        sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
        try:
            page = spool.views.find_page(wanted)
        finally:
            sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)
        assert not page.found
        assert page.go_on, wanted
        for text, parameters in asked.items():
            if spool.database.is_sqlite:
                effort = spool.database.ask(partial(steps_of, statement=text, parameters=parameters)) / 40
            else:
                effort = spool.database.run(partial(rows_read, statement=text, parameters=parameters))
            assert effort < 800, (wanted, text, effort)
    spool.close()


def steps_of(connection: sa.Connection, statement: str, parameters: Any) -> int:
    """Steps of SQLite's machine; a row takes some tens."""
    steps = [0]

    def count() -> int:
        steps[0] += 10
        return 0

    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(count, 10)
    connection.exec_driver_sql(statement, parameters).all()
    driver.set_progress_handler(None, 0)
    return steps[0]


def rows_read(connection: sa.Connection, statement: str, parameters: Any) -> int:
    explained = connection.exec_driver_sql("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters).scalar_one()

    def total(node: dict[str, Any]) -> int:
        here = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        return int(here * node["Actual Loops"]) + sum(total(inner) for inner in node.get("Plans", ()))

    return total(explained[0]["Plan"])


def plan_of(connection: sa.Connection, statement: str, parameters: Any) -> list[str]:
    if connection.dialect.name == "sqlite":
        return [row.detail for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)]
    connection.exec_driver_sql("SET LOCAL enable_seqscan TO off")  # else a small table is always read whole
    connection.exec_driver_sql("SET TRANSACTION READ WRITE")
    return [row[0] for row in connection.exec_driver_sql("EXPLAIN " + statement, parameters)]


def scans() -> list[str]:
    return [f"{words} {table}" for words in ("SCAN", "Seq Scan on") for table in LARGE]


def test_a_statement_without_an_index_would_be_noticed(spool: Spool) -> None:
    line = spool.database.ask(lambda c: plan_of(c, "SELECT * FROM instance WHERE called_ae = 'x'", ()))[0]
    assert any(scan in line for scan in scans())


def test_migrations_make_what_the_tables_say(spool: Spool) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    assert spool.database.run(differences) == []


def test_what_inference_saw_is_kept_and_no_header_value(spool: Spool, settings: SpoolSettings) -> None:
    accept(spool)
    (claim,) = spool.decisions.claim(1)
    seen = Seen(
        "decoded", {0x00100020: ("SECRET-ID",)},
        Prediction((0.1, 0.6, 0.1, 0.1, 0.1), "adult_chest", 0.6, 0.2, False, "uncertain", "abc"),
        PictureFacts("MONOCHROME2", 10, 20, 1, (0.0, 255.0), None, "pillow"),
    )  # fmt: skip
    assert spool.decisions.record(claim, seen, decision("ai"), {}).result()
    row = spool.views.instance(claim.instance.id)
    assert row is not None
    assert (row.top, row.class_name, row.confidence, row.novel) == ("adult_chest", "uncertain", 0.6, False)
    assert row.probabilities == [0.1, 0.6, 0.1, 0.1, 0.1]
    assert row.facts["photometric"] == "MONOCHROME2"
    assert (row.rule, row.destinations) == ("a rule", ["ai"])
    spool.close()
    stored = b"".join(path.read_bytes() for path in settings.path.rglob("*") if path.is_file())
    assert b"SECRET-ID" not in stored


@pytest.mark.parametrize(("row", "table"), [(DeliveryRow, delivery), (InstanceRow, instance), (EventRow, event)])
def test_what_people_see_of_a_row_is_all_of_it_in_its_order(row: Any, table: sa.Table) -> None:
    columns = ["class" if one.name == "class_name" else one.name for one in fields(row)]
    assert columns == [column.name for column in table.columns]


def test_a_word_that_is_no_state_hides_no_row(spool: Spool) -> None:
    one = accept(spool).instance_id
    decide(spool, "ai")
    spool.database.run(lambda c: c.execute(instance.update().values(state="dec1ded")) and None)
    spool.database.run(lambda c: c.execute(delivery.update().values(state="0pen")) and None)
    assert [row.state for row in spool.views.instances()] == [InstanceState.DAMAGED]
    assert [row.state for row in spool.views.deliveries(instance_id=one)] == [DeliveryState.DAMAGED]


def test_digests_that_a_destination_has_under_a_uid(spool: Spool) -> None:
    for data in (b"one", b"two"):
        accept(spool, data, "1.1")
        decide(spool, "ai", "other")
    for owed in spool.deliveries.claim("ai", 2):
        spool.deliveries.close(owed, DeliveryState.DONE).result()
    assert len(spool.deliveries.known_digests("ai", "1.1")) == 2
    assert spool.deliveries.known_digests("other", "1.1") == frozenset()
    assert spool.deliveries.known_digests("ai", "1.2") == frozenset()


def test_work_is_signalled_after_it_can_be_claimed(spool: Spool) -> None:
    def grew(topic: str, before: int) -> bool:
        spool.signals.of(topic).wait(before, 60)
        return spool.signals.of(topic).version > before

    before = spool.signals.of(INSTANCES).version
    accept(spool)
    assert grew(INSTANCES, before)
    before = spool.signals.of("ai").version
    decide(spool, "ai")
    assert grew("ai", before)
    (owed,) = spool.deliveries.claim("ai", 1)
    spool.deliveries.close(owed, DeliveryState.BURIED).result()
    before = spool.signals.of("ai").version
    spool.orders.retry_now([owed.id], "a person")
    assert grew("ai", before)
    spool.signals.of("ai").wait(spool.signals.of("ai").version, 0)


def test_blobs_go_after_keep_and_records_after_theirs(settings: SpoolSettings) -> None:
    with turned_by_hand() as clock:
        spool = open_spool(settings)
        done, open_still = accept(spool, uid="1.1").instance_id, accept(spool, uid="1.2").instance_id
        first, second = spool.decisions.claim(2)
        spool.decisions.record(first, SEEN, decision(), {}).result()
        spool.decisions.record(second, SEEN, decision("ai"), {}).result()
        clock.turn(100)
        assert spool.retention.sweep() == 0
        clock.turn(1)
        assert spool.retention.sweep() == 1
        assert files(settings.path) == {open_still + ".dcm"}
        assert spool.views.instance(done) is not None
        spool.event("kept for a while")
        assert not spool.orders.redecide(done, "a person")
        clock.turn(900)
        assert spool.retention.sweep() == 1
        assert spool.views.instance(done) is None
        clock.turn(101)
        assert spool.retention.sweep() > 0  # events
        assert spool.views.events() == []
        clock.turn(1e9)
        spool.retention.sweep()
        assert files(settings.path) == {open_still + ".dcm"}
        assert spool.views.counts().open == {"ai": 1}
        spool.close()


def test_a_long_list_is_read_in_pages(spool: Spool) -> None:
    ids = [accept(spool, uid=f"1.{number}").instance_id for number in range(5)]
    for claim in spool.decisions.claim(5):
        spool.decisions.record(claim, SEEN, decision("ai"), {}).result()
    latest = spool.views.instances(limit=2)
    older = spool.views.instances(before=latest[-1].id, limit=9)
    assert [row.id for row in (*latest, *older)] == ids[::-1]
    page = spool.views.deliveries(limit=2)
    rest = spool.views.deliveries(after=page[-1].id)
    assert [row.instance_id for row in (*page, *rest)] == ids


def test_the_latest_events_and_those_after_one(spool: Spool) -> None:
    for number in range(5):
        spool.event(f"event {number}")
    spool.database.run(lambda _: None)
    latest = spool.views.events(limit=2)
    assert [row.kind for row in latest] == ["event 3", "event 4"]
    assert [row.kind for row in spool.views.events(after=latest[0].id)] == ["event 4"]
    assert [row.kind for row in spool.views.events(after=0, limit=2)] == ["event 0", "event 1"]
    assert [row.kind for row in spool.views.events(kind="event 1")] == ["event 1"]


def test_the_oldest_that_is_owed(settings: SpoolSettings) -> None:
    with turned_by_hand() as clock:
        spool = open_spool(settings)
        begin = clock.at
        for number in range(2):
            accept(spool, uid=f"1.{number}")
            decide(spool, "ai")
            clock.turn(10)
        assert spool.views.counts().oldest == {"ai": begin}
        (owed,) = spool.deliveries.claim("ai", 1)
        spool.deliveries.close(owed, DeliveryState.DONE).result()
        assert spool.views.counts().oldest == {"ai": begin + 10}
        spool.close()


def test_the_oldest_without_a_decision(settings: SpoolSettings) -> None:
    spool = open_spool(settings)
    assert spool.views.counts().oldest_undecided == 0
    for number in range(1, 3):
        blob = sealed(spool, b"pixels")
        spool.intake.accept(blob, instance_for(blob, f"1.{number}", at=100.0 * number))
    counts = spool.views.counts()
    assert (counts.undecided, counts.oldest_undecided) == (2, 100.0)
    decide(spool, "ai")
    assert spool.views.counts().oldest_undecided == 200.0
    spool.close()
