"""What the node says to systemd, heard on a socket as systemd has one; and what its unit asks for."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from router.node.systemd import Systemd
from tests.peers import free_port

UNIT = Path(__file__).resolve().parents[2] / "packaging" / "dicom-router.service"


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(30)
        yield sock


def environ(heard: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": heard.getsockname(), **more}


def test_ready_fed_and_stopping(heard: socket.socket) -> None:
    given = environ(heard, WATCHDOG_USEC="40000")
    systemd = Systemd(given)
    assert "NOTIFY_SOCKET" not in given, "child processes must not speak for the node"
    systemd.ready(lambda: {"spool": True})
    assert [heard.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    systemd.stopping()
    said = b""
    while said != b"STOPPING=1":
        said = heard.recv(100)
        assert said in (b"WATCHDOG=1", b"STOPPING=1")


def test_an_unwell_node_does_not_feed_the_watchdog_and_says_so_once(heard: socket.socket) -> None:
    looks = threading.Semaphore(0)
    parts = {"spool": False, "classify": True}

    def health() -> dict[str, bool]:
        looks.release()
        return dict(parts)

    systemd = Systemd(environ(heard, WATCHDOG_USEC="40000"))
    with structlog.testing.capture_logs() as lines:
        systemd.ready(health)
        assert heard.recv(100) == b"READY=1"
        for _ in range(3):
            assert looks.acquire(timeout=30)
        heard.setblocking(False)
        with pytest.raises(BlockingIOError):
            heard.recv(100)
        heard.settimeout(30)
        parts["spool"] = True
        assert heard.recv(100) == b"WATCHDOG=1"
    systemd.stopping()
    assert [(line["event"], line["failed"]) for line in lines] == [("watchdog not fed", ["spool"])]


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}])
def test_without_a_watchdog_there_is_no_thread(heard: socket.socket, more: dict[str, str]) -> None:
    Systemd(environ(heard, **more)).ready(dict)
    assert heard.recv(100) == b"READY=1"
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_without_a_listener_nothing_happens(tmp_path: Path) -> None:
    for given in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"NOTIFY_SOCKET": "@nobody-listens-here"}):
        systemd = Systemd(given)
        systemd.ready(dict)
        systemd.stopping()


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"dicom-router-test-{os.getpid()}"
        sock.bind("\0" + name)
        sock.settimeout(30)
        Systemd({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert sock.recv(100) == b"STOPPING=1"


@pytest.mark.slow
def test_serve_says_when_it_serves_and_when_it_stops(heard: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text(
        f"node: {{address: 127.0.0.1, port: {free_port()}}}\nweb: {{port: {free_port()}}}\n"
        "destinations: {a: {ae_title: A, host: 127.0.0.1, port: 104}}\nrules: []\notherwise: {send: a}\n"
    )
    command = [sys.executable, "-m", "router", "serve", "--config", str(tmp_path / "routing.yaml")]
    env = os.environ | environ(heard, WATCHDOG_USEC="2000000")
    heard.settimeout(120)
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as node:
        assert [heard.recv(100) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]
        node.send_signal(signal.SIGTERM)
        while (said := heard.recv(100)) == b"WATCHDOG=1":
            pass
        assert said == b"STOPPING=1"
        assert node.wait(60) == 0


def test_the_unit_asks_for_what_the_node_says() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["TimeoutStartSec"] == "infinity", "blobs that are read again take a minute for ten GB"
    assert service["WatchdogSec"] == "5min", "longer than a restart of the database"
    assert "AF_UNIX" in service["RestrictAddressFamilies"]
