"""Nothing phones home: no command looks up a name, speaks to another machine, or leaves an identity behind.

Each command runs traced, with an environment that no library takes for a test run: some report only outside of those.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from router.pixels.wrap import wrap_image
from tests.peers import free_port, listening, wait_for

pytestmark = pytest.mark.strace

ROOT = Path(__file__).resolve().parent.parent.parent
CALLS = "connect,sendto,sendmsg,sendmmsg"
TO = re.compile(r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"')
"""A socket address as strace writes it."""


def traced(folder: Path, *words: str) -> tuple[list[str], Path]:
    """The command line of `dicom-router WORDS` under strace, and where the calls will stand."""
    calls = folder / "calls"
    strace = shutil.which("strace") or "strace"
    command = [strace, "-f", "--seccomp-bpf", "-qq", "-o", str(calls), "-e", f"trace={CALLS}"]
    return [*command, sys.executable, "-m", "router", *words], calls


def environment(home: Path) -> dict[str, str]:
    """Nothing of what says that this is a test or an automatic build."""
    home.mkdir()
    return {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}


def elsewhere(calls: Path) -> list[str]:
    """Where a process spoke to: every address that is not this machine's own, and every look-up of a name."""
    found = []
    for port, address in TO.findall(calls.read_text()):
        host = ip_address(address)
        # Port 0: the C library asks the kernel which address it would use, and sends nothing.
        if int(port) == 53 or not (host.is_loopback or host.is_unspecified or int(port) == 0):
            found.append(f"{address}:{port}")
    return found


def must_be_quiet(calls: Path, home: Path) -> None:
    assert elsewhere(calls) == []
    assert [str(path) for path in home.rglob("*") if path.is_file()] == []


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "routing.yaml"
    path.write_text(
        f"node: {{address: 127.0.0.1, port: {free_port()}}}\nweb: {{address: 127.0.0.1, port: {free_port()}}}\n"
        "spool: {path: spool}\nmodel: {device: cpu, workers: 1}\n"
        f"destinations:\n  a: {{ae_title: A, host: 127.0.0.1, port: {free_port()}}}\nrules: []\n"
        "otherwise: {send: a}\n"
    )
    return path


@pytest.mark.parametrize(
    "words",
    ["--help", "--version", "init new", "check CONFIG", "conformance --config CONFIG", "model show --config CONFIG",
     "queue list --config CONFIG", "classify FILE --config CONFIG", "send FILE --to ROUTER@127.0.0.1:1",
     "evaluate --manifest MANIFEST", "demo FILE"],
)  # fmt: skip
def test_no_command_speaks_to_anybody_else(words: str, config: Path, tmp_path: Path) -> None:
    file = wrap_image(np.random.default_rng(1).integers(0, 4096, (64, 48), np.uint16), tmp_path / "x.dcm")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,label\nx.dcm,spine\n")
    named = {"CONFIG": str(config), "FILE": str(file), "MANIFEST": str(manifest)}
    command, calls = traced(tmp_path, *(named.get(word, word) for word in words.split()))
    home = tmp_path / "home"
    subprocess.run(command, env=environment(home), cwd=tmp_path, capture_output=True, timeout=180, check=False)
    must_be_quiet(calls, home)


def test_a_node_speaks_to_nobody_but_its_destinations(config: Path, tmp_path: Path) -> None:
    """Its inference process imports the fastest engine that is there."""
    command, calls = traced(tmp_path, "serve", "--config", str(config))
    home, port = tmp_path / "home", int(config.read_text().partition("port: ")[2].partition("}")[0])
    node = subprocess.Popen(command, env=environment(home), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert node.stderr is not None
    try:
        wait_for(lambda: listening(port), 180, "the node")
    finally:
        children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
        for child in children:
            subprocess.run(["/bin/kill", f"-{signal.SIGTERM.value}", child], check=False)
        text = node.communicate(timeout=60)[1]
    assert "inference ready" in text
    must_be_quiet(calls, home)


def test_a_library_that_reports_itself_is_seen(tmp_path: Path) -> None:
    """The trace sees what it must: a look-up and a connection."""
    calls, home = tmp_path / "calls", tmp_path / "home"
    program = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', ('192.0.2.1', 443)); s.sendto(b'x', ('127.0.0.1', 53))\n"
    )
    strace = shutil.which("strace") or "strace"
    subprocess.run(
        [strace, "-f", "--seccomp-bpf", "-qq", "-o", str(calls), "-e", f"trace={CALLS}", sys.executable, "-c", program],
        env=environment(home), check=False, capture_output=True,
    )  # fmt: skip
    assert elsewhere(calls) == ["192.0.2.1:443", "127.0.0.1:53"]
