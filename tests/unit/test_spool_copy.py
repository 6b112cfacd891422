"""A spool copied from SQLite to PostgreSQL and back: every row, whatever kills the copy, and never two that work."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from router.cli import app
from router.commands.copy_spool import CopyError, copy_spool, undo_copy
from router.config.settings import SpoolSettings
from router.spool import InstanceState, Spool, SpoolError, copy_marks, engine, moving, open_spool, read_spool
from router.spool.find import Filter, State
from router.spool.node_rows import shared_key
from router.spool.schema import delivery, instance, owner
from tests.unit.spooling import CALLERS, SEEN, accept, decide, decision, files, settings_of
from tests.unit.test_spool_queries import everything

pytestmark = pytest.mark.postgresql
CONFIG = """
node: {{ae_title: ROUTER}}
spool: {{path: {path}, reserve: 1 kB, database: "{database}"}}
destinations:
  ai: {{ae_title: AI, host: 127.0.0.1, port: 104}}
rules: []
otherwise: {{send: ai}}
"""
FILTERS = (Filter(), Filter(to="ai"), Filter(state=State.BURIED), Filter(state=State.WAITING), Filter(peer="10.0.0.2"))


def quiet(_what: str, _done: int, _all: int) -> None:
    pass


@pytest.fixture(params=["to PostgreSQL", "to SQLite"])
def way(request: pytest.FixtureRequest, tmp_path: Path, postgresql: Callable[[], str]) -> tuple[SpoolSettings, str]:
    """A spool, and where it is copied to."""
    ends = ("sqlite", postgresql())
    source, target = ends if request.param == "to PostgreSQL" else ends[::-1]
    return settings_of(tmp_path / "spool", source), target


def made_up(table: sa.Table, number: int) -> dict[str, Any]:
    """A row with a value in every column, some of them strange."""
    chance = random.Random(f"{table.name} {number}")
    row: dict[str, Any] = {}
    for column in table.columns:
        if column.foreign_keys:
            row[column.name] = number if isinstance(column.type, sa.Integer) else f"Röntgen {number}"
        elif isinstance(column.type, sa.Boolean):
            row[column.name] = chance.random() < 0.5
        elif isinstance(column.type, sa.Integer):
            row[column.name] = number if column.primary_key else chance.choice((0, -1, 2**31 - 1))
        elif isinstance(column.type, sa.Double):
            row[column.name] = chance.choice((0.1 + 0.2, 1e18, -0.0, 5e-324, chance.random()))
        elif column.nullable and chance.random() < 0.3:
            row[column.name] = None
        else:
            row[column.name] = (
                f"Röntgen {number}" if column.primary_key else chance.choice(("", "a\tb\\N\n", "日本'\""))
            )
    return row


def filled(settings: SpoolSettings, more: int = 12) -> None:
    """Everything that a node does, twice; work in all states; and rows in the tables that are empty still."""
    spool = open_spool(settings)
    for _ in range(2):
        everything(spool)
    for number in range(more):
        accept(spool, b"%d" % number, f"1.9.{number}", CALLERS[number % 2])
    for _ in range(more // 3):
        decide(spool, "ai", "other")
    spool.deliveries.claim("ai", 2)
    spool.decisions.claim(1)

    def fill(connection: sa.Connection) -> None:
        for table in moving.tables():
            if table is shared_key:  # the nodes write it, and compare it with their file
                continue
            if connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0:
                connection.execute(table.insert(), [made_up(table, number) for number in range(1, 4)])

    spool.database.run(fill)
    spool.close()


def seen(settings: SpoolSettings) -> list[Any]:
    """What a person finds, with every delivery; and all rows but those of a start."""
    with closing(read_spool(settings)) as spool:
        found: list[Any] = [spool.views.find(wanted, limit=1000) for wanted in FILTERS]
        for table in moving.tables():
            query = sa.select(table).order_by(*table.primary_key.columns)
            rows = spool.database.ask(lambda c, query=query: [tuple(row) for row in c.execute(query)])  # type: ignore[misc]
            found.append((table.name, sorted(rows, key=repr)))
    return found


def startable(settings: SpoolSettings) -> bool:
    """Whether a node would start on it. It is asked without a start, which would be one."""
    with _engine(settings) as one:
        try:
            copy_marks.refuse_marked(one)
        except SpoolError:
            return False
        except sa.exc.SQLAlchemyError:  # no tables yet
            return False
        with one.begin() as connection:
            return not moving.is_empty(connection)


@contextmanager
def _engine(settings: SpoolSettings) -> Iterator[sa.Engine]:
    if settings.database == "sqlite":
        (settings.path / "node.db").touch()
    one = engine.writing(settings.path, settings.database)
    yield one
    one.dispose()


@pytest.mark.slow
def test_every_row_arrives_and_is_found_again(way: tuple[SpoolSettings, str]) -> None:
    settings, to = way
    filled(settings)
    before, blobs = seen(settings), files(settings.path)
    done = copy_spool(settings, to, quiet)
    assert {name for name, (rows, _) in done.tables.items() if not rows} <= {shared_key.name}
    new = settings_of(settings.path, to)
    assert copying_of(seen(new)) == copying_of(before)
    assert seen(settings) == before
    assert files(settings.path) == blobs
    with closing(open_spool(new)) as spool:
        numbers = {row.id for row in spool.views.deliveries(limit=1000)}
        claimed = {claim.instance.id for claim in spool.decisions.claim(1000)}
        kept = accept(spool, uid="1.77").instance_id
        (claim,) = spool.decisions.claim(1)
        assert claim.instance.id == kept
        assert claimed == undecided(before)
        assert spool.decisions.record(claim, SEEN, decision("ai"), {}).result()
        assert max(row.id for row in spool.views.deliveries(instance_id=kept)) > max(numbers)
    with pytest.raises(SpoolError, match="was copied from"):
        open_spool(settings)


def copying_of(found: list[Any]) -> list[Any]:
    """Without what a copy changes: nothing is claimed in the new database."""
    claims = {"instance": (12, 13), "delivery": (4, 5), "commitment": (6, 7), "commitment_reference": (7,)}
    assert [column.name for column in instance.columns][12:14] == ["ready_at", "token"]
    assert [column.name for column in delivery.columns][4:6] == ["ready_at", "token"]
    tables = dict(found[len(FILTERS) :])
    plain = {
        name: sorted((tuple(v for k, v in enumerate(row) if k not in claims.get(name, ())) for row in rows), key=repr)
        for name, rows in tables.items()
    }
    return [*found[: len(FILTERS)], plain]


def undecided(found: list[Any]) -> set[str]:
    return {row[0] for row in dict(found[len(FILTERS) :])["instance"] if row[11] == InstanceState.NEW}


class Killed(BaseException):
    pass


@contextmanager
def killed_when_a_mark_changes(one: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction; after the commit that puts, removes or replaces a mark the process is gone."""
    with engine.begun(one) as connection:
        before = copy_marks.read(connection)
        yield connection
        after = copy_marks.read(connection)
    if (before and before.state) != (after and after.state):
        raise Killed


def test_a_copy_that_is_killed_at_its_last_steps_never_leaves_two_that_work(
    way: tuple[SpoolSettings, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, to = way
    filled(settings, 0)
    new = settings_of(settings.path, to)
    with monkeypatch.context() as patch:
        patch.setattr("router.commands.copy_spool.begun", killed_when_a_mark_changes)
        for expected in ((True, False), (False, False), (False, True)):
            with pytest.raises(Killed):
                copy_spool(settings, to, quiet)
            assert (startable(settings), startable(new)) == expected
    with pytest.raises(CopyError, match=r"is in .* already"):
        copy_spool(settings, to, quiet)


@pytest.mark.slow
def test_a_copy_that_is_killed_after_any_commit_goes_on(
    tmp_path: Path, postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at no moment could a node start on both databases, or on half of one."""
    monkeypatch.setattr(moving, "PAGE", 20)
    settings = settings_of(tmp_path / "spool", postgresql())
    filled(settings, 0)
    before = seen(settings)
    new = settings_of(settings.path, "sqlite")

    killed, last = 0, 0
    while True:
        commits = 0
        last += 7

        def count(_: sa.Connection) -> None:
            nonlocal commits
            commits += 1
            if commits == last:  # noqa: B023 - of this round
                raise Killed

        sa.event.listen(sa.engine.Engine, "commit", count)
        try:
            copy_spool(settings, "sqlite", quiet)
        except Killed:
            killed += 1
        else:
            break
        finally:
            sa.event.remove(sa.engine.Engine, "commit", count)
        assert (startable(settings), startable(new)) in ((True, False), (False, False))
    assert killed > 5
    assert (startable(settings), startable(new)) == (False, True)
    assert copying_of(seen(new)) == copying_of(before)


def test_a_node_that_worked_meanwhile_makes_it_begin_again(way: tuple[SpoolSettings, str]) -> None:
    settings, to = way
    filled(settings, 0)

    def stop(what: str, _done: int, _all: int) -> None:
        if what.startswith("checking"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_spool(settings, to, stop)
    with pytest.raises(SpoolError, match="holds a part of the spool"):
        open_spool(settings_of(settings.path, to))
    with closing(open_spool(settings)) as spool:
        spool.orders.redecide(spool.views.instances(limit=1)[0].id, "a person")
        later = accept(spool, uid="1.55").instance_id
    before = seen(settings)
    copy_spool(settings, to, quiet)
    assert copying_of(seen(settings_of(settings.path, to))) == copying_of(before)
    with closing(open_spool(settings_of(settings.path, to))) as spool:
        assert spool.views.instance(later) is not None
        assert spool.database.ask(lambda c: c.execute(sa.select(sa.func.count()).select_from(owner)).scalar()) == 3


@pytest.mark.slow
def test_kill_minus_nine(tmp_path: Path, postgresql: Callable[[], str]) -> None:
    settings = settings_of(tmp_path / "spool")
    filled(settings, 60)
    config, to = tmp_path / "routing.yaml", postgresql()
    config.write_text(CONFIG.format(path=settings.path, database="sqlite"))
    script = (
        "import sys; from router.spool import moving; from router.cli import main\n"
        "moving.PAGE, put = 25, moving._put\n"
        "def slowly(c, table, rows):\n"
        "    put(c, table, rows)\n"
        "    if table.name == 'instance' and len(rows) == 25: print('some', flush=True); input()\n"
        "moving._put = slowly; sys.argv[1:] = sys.argv[1:]; main()"
    )
    command = [sys.executable, "-c", script, "spool", "copy", "--to", to, "--config", str(config), "--json"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"some\n"
        assert "another node" in str(CliRunner().invoke(app, command[3:]).exception)
        one.send_signal(signal.SIGKILL)
    before = seen(settings)
    done = CliRunner().invoke(app, command[3:])
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)
    assert said["tables"]["instance"]["rows"] == len(dict(before[len(FILTERS) :])["instance"])
    assert copying_of(seen(settings_of(settings.path, to))) == copying_of(before)
    assert said["left_bytes"] > 0


def test_a_row_that_was_changed_on_its_way_is_noticed(way: tuple[SpoolSettings, str]) -> None:
    settings, to = way
    filled(settings, 0)
    put = moving._put

    def altered(connection: sa.Connection, table: sa.Table, rows: Any) -> None:
        put(connection, table, rows)
        if table is delivery:
            connection.execute(delivery.update().where(delivery.c.id == 1).values(tries=99))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving, "_put", altered)
        with pytest.raises(CopyError, match=r"delivery: .* the old database goes on"):
            copy_spool(settings, to, quiet)
    with pytest.raises(SpoolError, match="holds a part"):
        open_spool(settings_of(settings.path, to))
    open_spool(settings).close()


def test_there_and_back_again(way: tuple[SpoolSettings, str]) -> None:
    """By `--undo` as long as no node has worked on the new one; then only what came since is looked for in blobs."""
    settings, to = way
    filled(settings, 0)
    copy_spool(settings, to, quiet)
    undo_copy(settings, to, abandon=False)
    new = settings_of(settings.path, to)
    with pytest.raises(SpoolError, match="was copied from"):
        open_spool(new)
    with closing(open_spool(settings)) as spool:
        kept = accept(spool, uid="1.42").instance_id
    with pytest.raises(CopyError, match="holds a spool that was copied away"):
        copy_spool(settings, to, quiet)
    with pytest.raises(CopyError, match="was not copied"):
        undo_copy(settings, to, abandon=False)
    assert kept


def test_undo_is_refused_once_a_node_has_worked(way: tuple[SpoolSettings, str]) -> None:
    settings, to = way
    filled(settings, 0)
    copy_spool(settings, to, quiet)
    open_spool(settings_of(settings.path, to)).close()
    with pytest.raises(CopyError, match="a node has worked on"):
        undo_copy(settings, to, abandon=False)
    assert not startable(settings)
    undo_copy(settings, to, abandon=True)
    open_spool(settings).close()


def test_what_cannot_be_copied(way: tuple[SpoolSettings, str], postgresql: Callable[[], str]) -> None:
    settings, to = way
    with pytest.raises(SpoolError):
        copy_spool(settings, to, quiet)
    with closing(open_spool(settings)), pytest.raises(SpoolError, match="another node"):
        copy_spool(settings, to, quiet)
    with pytest.raises(CopyError, match="in already"):
        copy_spool(settings, settings.database, quiet)
    other = postgresql()
    open_spool(settings_of(settings.path.parent / "other", other)).close()
    with pytest.raises(CopyError, match="holds a spool already"):
        copy_spool(settings, other, quiet)
    config = settings.path.parent / "routing.yaml"
    config.write_text(CONFIG.format(path=settings.path, database=settings.database))
    for where, words in ((str(config.parent), "the blobs stay in"), ("postgresql://a@b@c/d", "PostgreSQL URL")):
        done = CliRunner().invoke(app, ["spool", "copy", "--to", where, "--config", str(config)])
        assert (done.exit_code, words in done.stderr) == (2, True), done.stderr


def test_nodes_on_other_machines_are_seen(tmp_path: Path, postgresql: Callable[[], str]) -> None:
    """They have another folder, so the lock of this one does not show them."""
    settings = settings_of(tmp_path / "spool", postgresql())
    with closing(open_spool(settings)):
        (tmp_path / "here").mkdir()
        shutil.copy(settings.path / "spool-id", tmp_path / "here")
        with pytest.raises(CopyError, match="stop all nodes first"):
            copy_spool(settings_of(tmp_path / "here", settings.database), "sqlite", quiet)
    assert not (tmp_path / "here" / "node.db").exists()


@pytest.mark.parametrize("stays", [True, False])
def test_a_node_that_starts_on_another_machine_meanwhile_is_seen(
    tmp_path: Path, postgresql: Callable[[], str], stays: bool
) -> None:
    """Else what it acknowledged would be in the old database alone, on which no node starts any more."""
    settings = settings_of(tmp_path / "spool", postgresql())
    filled(settings, 0)
    (tmp_path / "there").mkdir()
    shutil.copy(settings.path / "spool-id", tmp_path / "there")
    nodes: list[Spool] = []

    def start(what: str, _done: int, _all: int) -> None:
        if what.startswith("checking") and not nodes:
            nodes.append(open_spool(settings_of(tmp_path / "there", settings.database)))
            accept(nodes[0])
            if not stays:
                nodes[0].close()

    with pytest.raises(CopyError, match="stop all nodes"):
        copy_spool(settings, "sqlite", start)
    nodes[0].close()
    assert (startable(settings), startable(settings_of(settings.path, "sqlite"))) == (True, False)
