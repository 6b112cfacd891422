"""Peers that nobody here wrote (DCMTK, Orthanc) and the node itself, as processes on loopback."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import pydicom

DCMTK = Path("/usr/bin")
ORTHANC = Path("/usr/sbin/Orthanc")
CLASS_TO_DESTINATION = {
    "abdominal": "abdominal-ai",
    "adult_chest": "adult-chest-ai",
    "pediatric_chest": "pediatric-chest-ai",
    "spine": "spine-ai",
    "others": "catch-all",
}


STUB = Path(__file__).with_name("chaos") / "stub"
"""On the PYTHONPATH of a node it takes the place of the model: a start costs a second of processor time, not three."""
PORTS = range(10_000, 32_000)
"""Below those that the kernel gives away by itself: nobody gets such a port between our look and its use."""
_given: set[int] = set()


def free_port() -> int:
    """A port that is free, that this process has not got before, and other tests beside it hardly ever get."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(0.05)


def listening(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def without_model() -> dict[str, str]:
    """Environment variables of a node whose model costs nothing and is sure of nothing."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(STUB), os.environ.get("PYTHONPATH", "")]))}


@contextmanager
def process(
    command: Sequence[object],
    port: int,
    log: Path,
    *,
    cwd: Path | None = None,
    seconds: float = 60,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it counts as started when its port answers. `environment` adds to this one."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            [str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, cwd=cwd, env=os.environ | environment
        )
    try:
        wait_for(lambda: listening(port) or child.poll() is not None, seconds, f"{command[0]} to listen")
        assert child.poll() is None, log.read_text(errors="replace")[-3000:]
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def storescp(folder: Path, port: int, *options: str, ae_title: str = "STORESCP") -> Iterator[Path]:
    """DCMTK's storescp, keeping data sets bit for bit in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        DCMTK / "storescp", "--bit-preserving", "--accept-all", "--aetitle", ae_title,
        "--output-directory", folder, *options, str(port),
    ]  # fmt: skip
    with process(command, port, folder.parent / f"{folder.name}.log"):
        yield folder


@contextmanager
def orthanc(folder: Path, dicom_port: int, http_port: int, **extra: object) -> Iterator[str]:
    """An Orthanc with its storage in `folder`; yields the base address of its REST API."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {
        "Name": "peer", "DicomAet": "ORTHANC", "DicomPort": dicom_port, "HttpPort": http_port,
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True,
        "UnknownSopClassAccepted": True, "Plugins": [], "StorageCompression": False,
    }  # fmt: skip
    settings.update(extra)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with process([ORTHANC, folder / "orthanc.json"], http_port, folder / "orthanc.log"):
        wait_for(lambda: listening(dicom_port), 20, "Orthanc's DICOM port")
        yield f"http://127.0.0.1:{http_port}"


def http(address: str, *, data: bytes | None = None, method: str | None = None) -> bytes:
    request = urllib.request.Request(address, data=data, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


def dcmsend(port: int, *paths: Path | str, called: str = "ROUTER", calling: str = "DCMSEND", check: bool = True) -> str:
    command = [
        str(DCMTK / "dcmsend"), "--verbose", "--aetitle", calling, "--call", called, "--no-uid-checks",
        "127.0.0.1", str(port), *map(str, paths),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def data_set(path: Path) -> bytes:
    """The data set of a Part 10 file as bytes, without preamble and meta information (PS3.10 section 7.1)."""
    content = path.read_bytes()
    assert content[128:132] == b"DICM"
    length = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    return content[132 + 12 + length :]


def received(folder: Path) -> dict[str, bytes]:
    """SOP Instance UID to data set for every file in a destination's folder; a UID twice is an error."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        uid = str(pydicom.filereader.read_file_meta_info(path).MediaStorageSOPInstanceUID)
        assert uid not in found, f"{uid} arrived twice"
        found[uid] = data_set(path)
    return found


class NodeUnderTest:
    """The node as a user runs it: `dicom-router serve`, one process to signal.

    `environment` adds to the variables of the tests.
    """

    def __init__(self, folder: Path, destinations: dict[str, int], *, rules: str = "", extra: str = "") -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}
        self.port, self.web_port = free_port(), free_port()
        self.config = folder / "routing.yaml"
        self.log = folder / "node.log"
        folder.mkdir(parents=True, exist_ok=True)
        nodes = "\n".join(
            f"  {name}: {{ae_title: {name.upper().replace('-', '_')[:16]}, host: 127.0.0.1, port: {port}}}"
            for name, port in destinations.items()
        )
        self.config.write_text(
            f"node: {{ae_title: ROUTER, address: 127.0.0.1, port: {self.port}}}\n"
            f"web: {{address: 127.0.0.1, port: {self.web_port}}}\n"
            f"spool: {{path: {folder / 'spool'}}}\n{extra}\n"
            f"destinations:\n{nodes}\n{rules}"
        )

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "router", "serve", "--config", self.config]
        with process(command, self.port, self.log, cwd=self.folder, seconds=120, environment=self.environment) as child:
            yield child

    def kill(self, child: subprocess.Popen[bytes]) -> None:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()

    def metrics(self) -> str:
        return http(f"http://127.0.0.1:{self.web_port}/metrics").decode()


def descendants(pid: int, what: str = "") -> list[int]:
    """The processes below one; those that run a module of ours, or have a name of ours (Linux: /proc)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            with suppress(OSError):
                names = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if not what or what.encode() in (*names, Path(f"/proc/{child}/comm").read_bytes().strip()):
                    found.append(child)
                found += descendants(child, what)
    return found
