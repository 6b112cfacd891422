"""Why an address cannot be had, with the fix that fits; and what `check` says of the node's own ports."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router.cli import check
from router.config import Settings, load, shipped
from router.config.settings import SpoolSettings
from router.listening import AddressError, bind, listeners
from router.node.api import application
from router.node.local_socket import ControlServer
from tests.peers import free_port


@pytest.mark.parametrize(
    ("port", "why", "fix", "in_use"),
    [
        (104, errno.EACCES, "ports below 1024 need rights: AmbientCapabilities=CAP_NET_BIND_SERVICE", False),
        (11112, errno.EADDRINUSE, "end what listens there, or set another node.port", True),
        (11112, errno.EADDRNOTAVAIL, "this machine has no such address; set another node.address", False),
        (11112, errno.EACCES, "set another node.port", False),
    ],
)
def test_each_cause_has_its_own_fix(
    monkeypatch: pytest.MonkeyPatch, port: int, why: int, fix: str, in_use: bool
) -> None:
    def refuse(_self: socket.socket, _address: Any) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(AddressError) as caught:
        bind("127.0.0.1", port, "node.port")
    assert str(caught.value).startswith(f"127.0.0.1:{port}: {os.strerror(why)} ({fix}")
    assert caught.value.in_use == in_use


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "spool").mkdir()
    settings = load(shipped(), {})
    return replace(
        settings, spool=SpoolSettings(tmp_path / "spool"),
        node=replace(settings.node, address="127.0.0.1", port=free_port()),
        web=replace(settings.web, address="127.0.0.1", port=free_port()),
    )  # fmt: skip


def told(settings: Settings) -> dict[str, tuple[str, str]]:
    return {what: (state, text) for what, state, text in check._ports(settings)}


def test_free_ports_are_fine_and_one_in_use_fails(settings: Settings) -> None:
    assert {state for state, _ in told(settings).values()} == {"ok"}
    with socket.create_server(("127.0.0.1", settings.web.port)):
        assert told(settings) == {
            "node.port": ("ok", f"127.0.0.1:{settings.node.port} is free"),
            "web.port": (
                "failed",
                f"127.0.0.1:{settings.web.port}: Address already in use (end what listens there, or set another "
                "web.port)",
            ),
        }


def test_ports_that_the_running_node_of_the_spool_holds_are_no_mistake(settings: Settings) -> None:
    """Only those that it took when it started: another port of the file may be held by something else."""
    held = [list(one) for one in listeners(settings) if one[0] == "node.port"]
    server = ControlServer(
        settings.spool.path, application(lambda _order, _who: {}, {"status": lambda: {"listens": held}})
    )
    server.start()
    with (
        socket.create_server(("127.0.0.1", settings.node.port)),
        socket.create_server(("127.0.0.1", settings.web.port)),
    ):
        found = told(settings)
    server.stop()
    assert found["node.port"] == ("ok", f"127.0.0.1:{settings.node.port} is held by the running node of this spool")
    assert found["web.port"][0] == "failed"
