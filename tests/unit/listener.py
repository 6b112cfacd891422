"""What listens for the peers of tests: it takes one connection after another, and runs a script on each."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

from router.association.pdu import PeerClosedError

T = TypeVar("T")


@dataclass
class Listener(ABC, Generic[T]):
    """Listens on a free port; each connection gets the next of `scripts`, then `script` for ever."""

    script: Callable[[T], None]
    scripts: list[Callable[[T], None]] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    errors: list[BaseException] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    """A free one, unless one is named."""

    @abstractmethod
    def talk(self, sock: socket.socket) -> T:
        """What a script gets: one connection, from this side."""

    def cut(self) -> None:
        """A connection has ended before its script."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=32)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen, daemon=True)]
        self._socks: list[socket.socket] = []
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in [self._listener, *self._socks]:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()
        assert not self.errors, self.errors

    def _listen(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            script = self.scripts.pop(0) if self.scripts else self.script
            thread = threading.Thread(target=self._serve, args=(sock, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, script: Callable[[T], None]) -> None:
        try:
            if self.tls is not None:
                sock.settimeout(5)
                sock = self.tls.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
            script(self.talk(sock))
        except (OSError, EOFError, PeerClosedError):
            self.cut()
        except BaseException as error:
            self.errors.append(error)
        finally:
            sock.close()
