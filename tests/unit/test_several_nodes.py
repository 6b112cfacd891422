"""Several nodes on one PostgreSQL database: the list of them, and what they share."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from router.cli import app
from router.cli.options import ROLES
from router.config import ConfigError
from router.node.client import short_path, socket_name
from router.node.node import Node
from router.node.orders import Reload
from router.spool.node_rows import node as node_table
from router.spool.nodes import NodeRow
from router.spool.watch import PULSE
from tests.unit.peer import wait_for
from tests.unit.several import SHARED, Machine, machine

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

PAUSED = SHARED.replace("otherwise: {send: ai}", "otherwise: {send: archive}")


@pytest.fixture
def database(postgresql: Callable[[], str]) -> str:
    return postgresql()


@pytest.fixture
def two(tmp_path: Path, database: str) -> Iterator[tuple[Machine, Machine]]:
    """Two that run: one receives, one forwards."""
    one, other = (machine(tmp_path, database, name, role) for name, role in (("one", "receive"), ("two", "forward")))
    with one.running(), other.running():
        yield one, other


def node_of(one: Machine) -> Node:
    assert one.node is not None
    return one.node


def row(one: Machine, name: str) -> NodeRow:
    found = {each.name: each for each in node_of(one).spool.nodes.all()}
    return found[name]


def sends_to(one: Machine) -> tuple[str, ...]:
    return node_of(one).settings().rules.otherwise.send


# -- what each says of itself


def test_what_fails_where_one_sends_is_in_its_row(two: tuple[Machine, Machine]) -> None:
    one, other = two
    forwarder = node_of(other).view.forwarder
    assert forwarder is not None
    forwarder._circuits["ai"].failures.note("an instance", "status A700")
    (name, said) = wait_for(lambda: tuple(row(one, "two").state.about["failing"].items()))[0]
    assert (name, said["tries"], said["instances"], said["reason"]) == ("ai", 1, 1, "status A700")
    assert row(other, "one").state.about["failing"] == {}, "it does not send"


# -- settings


def test_a_reload_at_one_reaches_the_other(two: tuple[Machine, Machine]) -> None:
    one, other = two
    assert (row(one, "one").state.settings, row(one, "two").state.settings) == (1, 1)
    one.write(PAUSED)
    done = node_of(one).carry_out(Reload(), "ann")
    assert (done["version"], done["not_followed"]) == (2, [])
    assert (sends_to(one), sends_to(other)) == (("archive",), ("archive",))
    assert row(other, "two").state.settings == 2
    (published,) = node_of(other).spool.views.events(kind="settings published")[-1:]
    assert (published.detail["who"], published.detail["version"]) == ("ann", 2)


def test_a_file_that_says_the_same_is_no_new_version(two: tuple[Machine, Machine]) -> None:
    one, other = two
    other.write("# another comment\n" + SHARED, local=", associations: 7")
    done = node_of(other).carry_out(Reload(), "ann")
    assert (done["version"], done["changed"]) == (1, ["node"])
    assert node_of(other).settings().node.associations == 7
    assert node_of(one).settings().node.associations == 200, "what is of one machine alone stays there"


def test_who_cannot_follow_says_why_and_keeps_the_old(two: tuple[Machine, Machine]) -> None:
    """The certificate is only on the first machine."""
    one, other = two
    (one.folder / "ai.crt").write_text(CERTIFICATE)
    one.write(SHARED.replace("host: 127.0.0.1, port: 1}", "host: 127.0.0.1, port: 1, tls: {ca: ai.crt}}", 1))
    done = node_of(one).carry_out(Reload(), "ann")
    ((name, problem),) = ((each["node"], each["problem"]) for each in done["not_followed"])
    assert name == "two"
    assert problem.startswith("settings version 2:7: destination 'ai'.tls.ca: there is no file ")
    assert node_of(other).settings().destinations["ai"].tls is None
    assert row(one, "two").state.settings == 1
    shutil.copy(one.folder / "ai.crt", other.folder)
    wait_for(lambda: row(one, "two").state.settings == 2)
    assert row(one, "two").state.problem == ""


def test_a_start_follows_what_is_in_force_and_says_that_its_file_differs(
    tmp_path: Path, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = machine(tmp_path, database, "one"), machine(tmp_path, database, "two")
    other.write(PAUSED)
    with one.running(), other.running():
        assert sends_to(other) == ("ai",)
        wait_for(lambda: row(one, "two").state.about.get("file_differs"))
        said = capsys.readouterr()
        assert "differs from settings version 1 of one, which is in force on all nodes" in said.out + said.err
        assert node_of(other).carry_out(Reload(), "ann")["not_followed"] == []
        assert (sends_to(one), sends_to(other)) == (("archive",), ("archive",))
        wait_for(lambda: not row(one, "two").state.about["file_differs"])


def test_a_file_that_was_edited_while_no_node_ran_counts_and_an_old_one_does_not(tmp_path: Path, database: str) -> None:
    one, other = machine(tmp_path, database, "one"), machine(tmp_path, database, "two")
    with one.running():
        assert sends_to(one) == ("ai",)
    one.write(PAUSED)
    with one.running():
        assert sends_to(one) == ("archive",)
    with other.running():
        assert sends_to(other) == ("archive",), "the file says what was in force before"


def test_a_start_that_cannot_follow_is_refused(tmp_path: Path, database: str) -> None:
    one, other = machine(tmp_path, database, "one"), machine(tmp_path, database, "two")
    (one.folder / "ai.crt").write_text(CERTIFICATE)
    one.write(SHARED.replace("host: 127.0.0.1, port: 1}", "host: 127.0.0.1, port: 1, tls: {ca: ai.crt}}", 1))
    there_is_none = r"settings version 1:7: destination 'ai'\.tls\.ca: there is no file"
    with one.running():
        with pytest.raises(ConfigError, match=there_is_none):
            Node(other.settings())
        (said,) = checked(other)
        assert said["state"] == "failed"
        assert re.match(there_is_none, said["text"])


def test_check_looks_at_what_a_role_needs_and_at_the_settings_in_force(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROLES, "web")  # so that what the command leaves is put back
    monkeypatch.delenv(ROLES)
    one, other = machine(tmp_path, database, "one", "receive"), machine(tmp_path, database, "two", "web")
    assert checked(one) == []
    with one.running():
        assert [(said["state"], said["text"]) for said in checked(one)] == [("ok", "version 1, the same as this file")]
        other.write(PAUSED)
        (said,) = checked(other)
        assert said["state"] == "warning"
        assert "differs from settings version 1 of one" in said["text"]
    for roles, looked_at in (
        ("web", {"web.port"}), ("receive", {"node.port", "web.port"}),
        ("forward,web", {"web.port", "destination ai", "destination archive"}),
    ):  # fmt: skip
        found = {said["check"] for said in every_check(other, "--role", roles)}
        assert found & {"model", "node.port", "web.port", "destination ai", "destination archive"} == looked_at


def test_check_refuses_a_database_that_a_newer_program_has_changed(tmp_path: Path, database: str) -> None:
    one = machine(tmp_path, database, "one", "web")
    with one.running() as node:
        for statement in (
            "UPDATE alembic_version SET version_num = '9999'",
            "UPDATE compatibility SET oldest = '9998'",
        ):
            assert not [said for said in every_check(one) if said["state"] == "failed"]
            node.spool.database.run(partial(_do, statement))
        (failed,) = [said for said in every_check(one) if said["state"] == "failed"]
        assert "newer than this program" in failed["text"]


def _do(statement: str, connection: sa.Connection) -> None:
    connection.exec_driver_sql(statement)


def every_check(one: Machine, *arguments: str) -> list[dict[str, str]]:
    out = CliRunner().invoke(app, ["check", "--json", str(one.file), *arguments]).stdout
    return [said for said in map(json.loads, out.splitlines()) if "check" in said]


def checked(one: Machine) -> list[dict[str, str]]:
    """What `check` says of the settings that are in force."""
    return [said for said in every_check(one, "--offline") if said["check"] == "settings in force"]


def test_variables_are_replaced_on_each_machine(two: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published has no secret that the environment holds."""
    one, other = two
    monkeypatch.setenv("AI_HOST", "10.9.8.7")
    one.write(SHARED.replace("host: 127.0.0.1", "host: '${AI_HOST}'", 1))
    assert node_of(one).carry_out(Reload(), "ann")["not_followed"] == []
    assert node_of(other).settings().destinations["ai"].host == "10.9.8.7"
    published = node_of(one).spool.shared.settings()
    assert published is not None
    assert "${AI_HOST}" in published.text
    assert "10.9.8.7" not in published.text


# -- the list of nodes


def test_a_node_that_ends_leaves_the_list_and_a_killed_one_is_gone(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine(tmp_path, database, "one"), machine(tmp_path, database, "two", "receive")
    # As it is between two checks of the server
    monkeypatch.setattr("router.spool.watch.Watch.answers", lambda _, within: within > 1.5 * PULSE)
    with one.running() as node:
        with other.running():
            assert [(each.name, each.roles) for each in node.spool.nodes.all()] == [
                ("one", ("forward",)), ("two", ("receive",)),
            ]  # fmt: skip
        assert [each.name for each in node.spool.nodes.all()] == ["one"]
        monkeypatch.setattr("router.spool.nodes.GONE_AFTER", -1.0)
        assert [each.is_gone for each in node.spool.nodes.all()] == [True]


def test_a_killed_node_is_forgotten_when_one_starts_on_its_folder(tmp_path: Path, database: str) -> None:
    one, other = machine(tmp_path, database, "one"), machine(tmp_path, database, "two")
    with one.running() as node, socket.socket(socket.AF_UNIX) as still, socket.socket(socket.AF_UNIX) as killed:
        (mine,) = node.spool.nodes.all()
        for start, name, host, sock in (
            (7001, "killed", mine.host, killed), (7002, "still", mine.host, still), (7003, "far", "elsewhere", None),
        ):  # fmt: skip
            row = {"start": start, "name": name, "host": host, "roles": "forward", "version": "1", "began_at": 1.0}
            node.spool.database.run(partial(_insert, row | {"seen_at": mine.seen_at}))
            if sock is not None:
                with short_path(one.spool, socket_name(start)) as path:
                    sock.bind(path)
        still.listen()
        killed.close()
        with other.running():
            assert [each.name for each in node.spool.nodes.all()] == ["far", "one", "still", "two"]
            assert not (one.spool / socket_name(7001)).exists()


def _insert(row: dict[str, object], connection: sa.Connection) -> None:
    connection.execute(node_table.insert().values(**row))


def test_a_choice_that_cannot_be_read_is_said_and_the_node_is_still_seen(
    two: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two

    def damaged() -> None:
        raise ValueError("written by a newer program")

    monkeypatch.setattr("router.node.together.SEEN_EVERY", 0.0)
    monkeypatch.setattr(node_of(one)._models, "follow", damaged)
    wait_for(lambda: "ValueError" in row(other, "one").state.problem)
    before = row(other, "one").seen_at
    wait_for(lambda: row(other, "one").seen_at > before)


def test_without_a_name_each_gets_a_number(tmp_path: Path, database: str) -> None:
    machines = [machine(tmp_path, database, f"m{number}") for number in range(2)]
    for each in machines:
        each.local = each.local.replace(f"name: {each.folder.name}, ", "")
        each.write()
    with machines[0].running() as node, machines[1].running():
        first, second = (each.name for each in node.spool.nodes.all())
    assert first.endswith("-forward-1")
    assert second == first[:-1] + "2"


def test_a_clock_that_differs_is_shown_and_told_once(
    two: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = two
    monkeypatch.setattr("router.node.together.MOST_SKEW", -1.0)
    wait_for(lambda: "its clock is 0 s " in row(one, "one").state.problem)
    monkeypatch.setattr("router.node.together.SEEN_EVERY", 0.0)
    before = row(one, "one").seen_at
    wait_for(lambda: row(one, "one").seen_at > before)
    said = capsys.readouterr()
    assert (said.out + said.err).count("clocks differ") == 2, "by each node once"


CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUFGZKf4ZyU/9RZuqfE8EQfoROmoUwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMzAxMjU0NTNaGA8yMTI2MTEwNjEyNTQ1
M1owDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFG/
AKjZ6PfpWB3mY2Jc/oyCKBQb3rsf22+yQ1qaE+F+CrIk7IIpWB54egbiqX5Q8iiV
NIcn6v6xPBdrdO/IcyCjUzBRMB0GA1UdDgQWBBQHCqeSGO7SFmz7j93vSr9TulVj
ZDAfBgNVHSMEGDAWgBQHCqeSGO7SFmz7j93vSr9TulVjZDAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCIB9jeh2HyhUXL8EUX/pLN/G2+YB25semzD8u
+Fm8zVjEAiEAi27e78nWM6F0jtd7QzefLDyC6oVKgbm03FP45m2Te9w=
-----END CERTIFICATE-----
"""
