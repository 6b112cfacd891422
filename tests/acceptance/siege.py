"""What besieges a node: malformed PDU streams, and meanwhile somebody who measures C-ECHO and memory."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from router.association.requestor import AssociationLostError, ConnectError, connect
from router.config.settings import DestinationSettings

HEADER = 6


@dataclass
class Played:
    """What a node answered to one stream, PDU types in order, and whether it closed in the end."""

    expected: str
    answers: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    closed: bool = False


def play(port: int, stream: Path, *, patience: float) -> Played:
    """Lines of a stream: S <hex> | S* <count> <hex> | R [seconds] | W seconds | C; then read until it closes."""
    lines = stream.read_text().splitlines()
    played = Played(lines[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        inbox = _Inbox(sock, played)
        for line in lines:
            word, *rest = line.split() or [""]
            try:
                if word == "S":
                    sock.settimeout(patience)
                    sock.sendall(bytes.fromhex(rest[0]))
                elif word == "S*":
                    sock.settimeout(patience)
                    for _ in range(int(rest[0])):
                        sock.sendall(bytes.fromhex(rest[1]))
                elif word == "W":
                    time.sleep(float(rest[0]))
                elif word == "C":
                    sock.shutdown(socket.SHUT_WR)
                elif word == "R":
                    inbox.one(float(rest[0]) if rest else 3.0)
            except OSError:  # it has closed on us: what it said before may still be there
                break
        deadline = time.monotonic() + patience
        while not played.closed and time.monotonic() < deadline:
            inbox.one(deadline - time.monotonic())
    return played


class _Inbox:
    """PDUs from a socket, one at a time."""

    def __init__(self, sock: socket.socket, played: Played) -> None:
        self._sock, self._played, self._buffer = sock, played, b""

    def one(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._take() and not self._played.closed:
            self._sock.settimeout(max(0.05, deadline - time.monotonic()))
            try:
                more = self._sock.recv(65536)
            except TimeoutError:
                return
            except OSError:
                more = b""
            self._buffer += more
            self._played.closed = not more

    def _take(self) -> bool:
        size = HEADER + int.from_bytes(self._buffer[2:6], "big")
        if len(self._buffer) < HEADER or len(self._buffer) < size:
            return False
        pdu, self._buffer = self._buffer[:size], self._buffer[size:]
        self._played.answers.append(pdu[0])
        at = pdu.find(b"\0\0\0\x09\2\0\0\0")  # (0000,0900) Status, of two bytes
        if pdu[0] == 4 and at > 0:
            self._played.statuses.append(int.from_bytes(pdu[at + 8 : at + 10], "little"))
        return True


class Watch(threading.Thread):
    """C-ECHO on a new association, over and over, and the memory of a process with all its children."""

    def __init__(self, destination: DestinationSettings, pid: int) -> None:
        super().__init__()
        self._destination, self._pid, self._over = destination, pid, threading.Event()
        self.echoes = 0
        self.slowest = 0.0
        self.failures: list[str] = []
        self.most_memory = 0

    def run(self) -> None:
        while not self._over.wait(0.1):
            start = time.monotonic()
            try:
                association = connect(self._destination, "ECHO", (), echo=True)
                status = association.echo()
                association.release()
                if status:
                    self.failures.append(f"status {status:04x}")
            except (ConnectError, AssociationLostError) as error:
                self.failures.append(str(error))
            self.echoes += 1
            self.slowest = max(self.slowest, time.monotonic() - start)
            self.most_memory = max(self.most_memory, proportional_memory(self._pid))

    def stop(self) -> None:
        self._over.set()
        self.join()


def proportional_memory(pid: int) -> int:
    """Bytes of PSS of a process and its descendants; one that has just ended counts nothing."""
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(proportional_memory(int(child)) for child in (task / "children").read_text().split())
    return total
