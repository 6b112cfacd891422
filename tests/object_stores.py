"""Object stores for the tests alone, as processes: moto and rclone, which nobody here wrote and which differ; and a
line to them that fails as it is told."""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import boto3

from router.config.settings import ObjectStore
from tests.peers import free_port, process

RCLONE = Path(sys.executable).with_name("rclone")
KEY, SECRET = "ROUTERKEY", "routersecret"
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Server:
    port: int
    folder: Path
    pid: int

    @property
    def credentials(self) -> Path:
        return self.folder / "credentials.ini"

    def bucket(self) -> ObjectStore:
        """A new bucket, and how to reach it."""
        name, endpoint = f"images{next(NUMBERS)}-{os.getpid()}", f"http://127.0.0.1:{self.port}"
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
        )
        client.create_bucket(Bucket=name)
        client.close()
        return ObjectStore(name, "router", endpoint, "us-east-1", self.credentials, allow_http=True)


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """Keeps its objects as files in `folder/data`."""
    (folder / "data").mkdir()
    port = free_port()
    command = [
        RCLONE, "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}",
        "--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off", folder / "data",
    ]  # fmt: skip
    with process(command, port, folder / "rclone.log") as child:
        yield _served(port, folder, child.pid)


@contextmanager
def moto(folder: Path) -> Iterator[Server]:
    """Keeps its objects in memory."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    with process(command, port, folder / "moto.log") as child:
        yield _served(port, folder, child.pid)


def _served(port: int, folder: Path, pid: int) -> Server:
    server = Server(port, folder, pid)
    write_credentials(server.credentials)
    return server


def write_credentials(path: Path, secret: str = SECRET) -> None:
    path.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {secret}\n")


def url(store: ObjectStore) -> str:
    """As `spool.blobs` is written."""
    assert store.credentials is not None
    assert store.endpoint is not None
    return (
        f"{store.name}?endpoint={quote(store.endpoint)}&region={store.region}&allow_http=true"
        f"&credentials={quote(str(store.credentials))}"
    )


Fault = Callable[["Line", socket.socket], None]


@dataclass
class Line:
    """A line to a store. `fault` says what becomes of connections; None: they go through.

    `cut_after` ends each connection after so many bytes to the store, and `flip` changes a byte of each long answer.
    """

    to: int
    fault: Fault | None = None
    cut_after: int | None = None
    flip: bool = False
    tap: Callable[[bool, bytes], None] = lambda _is_answer, _data: None
    """Called with what is about to be passed on."""
    connections: int = 0
    requests: list[str] = field(default_factory=list)
    _socks: list[socket.socket] = field(default_factory=list)

    def through(self, store: ObjectStore) -> ObjectStore:
        return replace(store, endpoint=f"http://127.0.0.1:{self.port}")

    def __enter__(self) -> Line:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            socket.socket.shutdown(self._listener, socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()

    def break_all(self) -> None:
        """What is connected ends, so that kept connections do not go round a new fault."""
        socks, self._socks = self._socks, []
        for sock in socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def become(self, fault: Fault | None) -> None:
        self.fault = fault
        self.break_all()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            if self.fault is not None:
                self.fault(self, client)
            else:
                self._connect(client)
        self._close(client)

    def _connect(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.to))
        self._socks.append(server)
        answers = threading.Thread(target=self._pump, args=(server, client, None), daemon=True)
        answers.start()
        self._pump(client, server, self.cut_after)
        answers.join()
        self._close(server)

    def _close(self, sock: socket.socket) -> None:
        """Many thousand connections pass through one process."""
        sock.close()
        with suppress(ValueError):  # it was ended together with the others
            self._socks.remove(sock)

    def _pump(self, source: socket.socket, target: socket.socket, cut_after: int | None) -> None:
        with suppress(OSError):
            passed, is_answer = 0, cut_after is None and source.getpeername()[1] == self.to
            while data := source.recv(1 << 16):
                if not is_answer and (head := re.match(rb"([A-Z]+) ([^ ]*) HTTP", data)):
                    self.requests.append(f"{head[1].decode()} {head[2].decode()}")
                if is_answer and self.flip and len(data) > 1000:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                passed += len(data)
                if cut_after is not None and passed > cut_after:
                    break
                self.tap(is_answer, data)
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def silent(line: Line, client: socket.socket) -> None:
    """Takes everything, and says nothing."""
    while client.recv(1 << 16):
        pass


def deaf(line: Line, client: socket.socket) -> None:
    """Not even takes what is sent."""
    threading.Event().wait(60)


def hangs_up(line: Line, client: socket.socket) -> None:
    client.close()


def overloaded(line: Line, client: socket.socket) -> None:
    """Answers each request with 503."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = client.recv(1 << 16)
        if not more:
            return
        head += more
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    left = int(length[1]) - len(head.partition(b"\r\n\r\n")[2]) if length else 0
    while left > 0 and (more := client.recv(1 << 16)):
        left -= len(more)
    body = b"<Error><Code>SlowDown</Code><Message>secret of the server</Message></Error>"
    client.sendall(b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    client.close()
