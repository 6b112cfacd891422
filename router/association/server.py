"""Listens, and gives each connection a thread and an `Acceptor`. Limits how many there are, in all and from one peer.

A connection counts as unspoken until its request is accepted. Then it counts as an association. It holds its place
until its socket is closed. So the number of threads is limited, however many peers connect.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from router.association.acceptor import Acceptor, End
from router.association.lacks import THREADS, own_limit
from router.association.messages import StoreHandler
from router.association.pdu import Stream
from router.association.refusing import Refusal, beyond_a_limit
from router.association.services import Service
from router.association.tls import Certificates, tls_words
from router.config.settings import NodeSettings, ServerTls, Settings
from router.listening import bind, listen
from router.observe import log, where
from router.observe.metrics import ASSOCIATIONS

PORT, TLS_PORT = "node.port", "node.tls.port"
BACKLOG = 1024
"""The most connections that wait for the accept loop. Linux drops further ones; the callers try after a second."""
TOO_MANY_UNSPOKEN = beyond_a_limit("node.unspoken_connections are open that asked for no association yet")
LAST_WORD = 0.2
"""Seconds that the accept loop spends on refusing a caller when descriptors have run out."""
TURNED_AWAY = 64
"""The most sockets kept open after a refusal, so that no reset overtakes it."""
TAKE_WAITING = 0.5
"""The most seconds in which connections that wait are taken before the ports are closed."""
LATE_SECONDS = 0.5
"""Seconds to wait, in all, for the threads of connections that were cut at the deadline. They are daemons."""


class Places:
    """Who holds which of the limited places."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unspoken: Counter[str] = Counter()
        self._associations: Counter[str] = Counter()

    def enter(self, peer: str, node: NodeSettings) -> bool:
        """Take a place among the unspoken. One peer gets at most half of them, so it cannot shut out the others."""
        with self._lock:
            full = self._unspoken.total() >= node.unspoken_connections
            if full or self._unspoken[peer] >= max(1, node.unspoken_connections // 2):
                return False
            self._unspoken[peer] += 1
            return True

    def admit(self, peer: str, node: NodeSettings) -> bool:
        """Change an unspoken place into the place of an association, if one is free."""
        with self._lock:
            full = self._associations.total() >= node.associations
            if full or self._associations[peer] >= node.associations_per_peer:
                return False
            _take_one(self._unspoken, peer)
            self._associations[peer] += 1
            return True

    def leave(self, peer: str, admitted: bool) -> None:
        with self._lock:
            _take_one(self._associations if admitted else self._unspoken, peer)

    @property
    def associations(self) -> int:
        with self._lock:
            return self._associations.total()


class AssociationServer:
    """The node's listening sockets. Each connection reads `settings` anew, so a reload counts from the next one."""

    def __init__(
        self, settings: Callable[[], Settings], handler: StoreHandler, services: Sequence[Service] = ()
    ) -> None:
        self._settings = settings
        self._handler = handler
        self._services = services
        self._places = Places()
        self._certificates = Certificates()
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, tuple[socket.socket, Acceptor | None]] = {}
        self._listeners: list[tuple[socket.socket, ServerTls | None]] = []
        self._accepting: list[threading.Thread] = []
        self._turned_away: deque[socket.socket] = deque()
        self._reserve = _Reserve()
        self._closing = threading.Event()
        """Set before the ports are closed."""
        self._stopping = threading.Event()
        """Set when associations must end."""
        self.tls_port: int | None = None

    @property
    def associations(self) -> int:
        """How many associations are open now."""
        return self._places.associations

    @property
    def is_open(self) -> bool:
        """Whether connections to every port are taken."""
        listening = bool(self._accepting) and len(self._accepting) == len(self._listeners)
        return listening and not self._closing.is_set() and all(thread.is_alive() for thread in self._accepting)

    def bind(self) -> None:
        """Take the addresses, and answer no caller yet. Raises OSError (certificate), AddressError."""
        node = self._settings().node
        if node.tls:
            self._certificates.context(node.tls)
        self._listeners.append((bind(node.address, node.port, PORT), None))
        if node.tls:
            self._listeners.append((bind(node.address, node.tls.port, TLS_PORT), node.tls))
            self.tls_port = self._listeners[1][0].getsockname()[1]

    def start(self) -> int:
        """Listen, and take connections from now on. Returns the port without TLS. Raises as `bind`."""
        if not self._listeners:
            self.bind()
        for listener, tls in self._listeners:
            listen(listener, BACKLOG, TLS_PORT if tls else PORT)
            thread = threading.Thread(target=self._accept, args=(listener, tls), name="accept", daemon=True)
            self._accepting.append(thread)
            thread.start()
        port: int = self._listeners[0][0].getsockname()[1]
        return port

    def drain(self, deadline: float) -> None:
        """Stop listening, and let the open associations go on until they end or until `deadline` (time.monotonic).

        A connection that the system has taken already is open: its caller knows of no refusal.
        """
        until = min(deadline, time.monotonic() + TAKE_WAITING)
        while time.monotonic() < until and select.select([one for one, _ in self._listeners], [], [], 0)[0]:
            time.sleep(0.001)  # the accept loops take them
        self._close_ports()
        while (left := deadline - time.monotonic()) > 0:
            with self._lock:
                thread = next(iter(self._connections), None)
            if thread is None:
                return
            thread.join(left)

    def _close_ports(self) -> None:
        self._closing.set()
        for listener, _ in self._listeners:
            _shutdown(listener)
        for thread in self._accepting:
            thread.join()
        for listener, _ in self._listeners:
            listener.close()

    def stop(self, deadline: float) -> None:
        """Stop listening and end idle associations. Messages under way may finish until `deadline` (time.monotonic)."""
        self._stopping.set()
        self._close_ports()
        while self._turned_away:
            self._turned_away.popleft().close()
        self._reserve.close()
        with self._lock:
            connections = dict(self._connections)
        for sock, acceptor in connections.values():
            if acceptor is None:
                _shutdown(sock)
            else:
                acceptor.stop()
        for thread in connections:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            late = dict(self._connections)
        for sock, _ in late.values():
            _shutdown(sock)
        end = time.monotonic() + LATE_SECONDS
        for thread in late:
            thread.join(max(0.0, end - time.monotonic()))

    def _accept(self, listener: socket.socket, tls: ServerTls | None) -> None:
        """`tls`: how the listener was opened. A reload may change its files. Only a restart can turn TLS off."""
        while not self._closing.is_set():
            try:
                sock, address = listener.accept()
            except OSError as error:
                if not self._closing.is_set():
                    self._turn_away_for_want(listener, error, is_tls=tls is not None)
                continue
            node, peer = self._settings().node, _peer(address[0])
            if not self._places.enter(peer, node):
                self._turn_away(sock, peer, TOO_MANY_UNSPOKEN, is_tls=tls is not None)
                continue
            tls = tls and (node.tls or tls)
            context = self._certificates.context(tls) if tls else None
            arguments = (sock, peer, node, context, time.monotonic() + node.artim)
            thread = threading.Thread(target=self._serve, args=arguments, name="association", daemon=True)
            with self._lock:
                self._connections[thread] = (sock, None)
            try:
                thread.start()
            except RuntimeError:
                self._places.leave(peer, admitted=False)
                with self._lock:
                    self._connections.pop(thread)
                self._turn_away(sock, peer, _for_want(THREADS), is_tls=tls is not None)

    def _serve(
        self, sock: socket.socket, peer: str, node: NodeSettings, tls: ssl.SSLContext | None, deadline: float
    ) -> None:
        """The thread of one connection: TLS handshake, association, close."""
        admitted = False

        def admit() -> bool:
            nonlocal admitted
            admitted = self._places.admit(peer, node)
            return admitted

        try:
            if tls is not None:
                sock.settimeout(node.artim)
                sock = self._handshake(sock, tls)
            acceptor = Acceptor(Stream(sock), peer, node, self._handler, admit, self._services)
            with self._lock:
                self._connections[threading.current_thread()] = (sock, acceptor)
            if self._stopping.is_set():
                acceptor.stop()
            how = acceptor.run(deadline)
            ASSOCIATIONS.labels(how).inc()
            if admitted:
                log.info("association ended", peer=peer, how=how)
        except OSError as error:
            words = own_limit(error) or (tls_words(error) if tls else "the connection broke")
            log.warning("connection failed", peer=peer, why=words)
            self._handler.refused(peer, words)
        except Exception as error:
            log.error("association failed", peer=peer, error=where(error))
        finally:
            sock.close()
            with self._lock:
                self._connections.pop(threading.current_thread(), None)
            self._places.leave(peer, admitted)

    def _handshake(self, sock: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
        """TLS handshake within the socket's time limit. `stop` knows the socket before the handshake begins."""
        secure = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections[threading.current_thread()] = (secure, None)
        if self._stopping.is_set():  # `stop` may have run just before, and then it knew only the plain socket
            _shutdown(secure)
        try:
            secure.do_handshake()
        except OSError:
            secure.close()
            raise
        return secure

    def _turn_away_for_want(self, listener: socket.socket, error: OSError, *, is_tls: bool) -> None:
        """There is no descriptor for a caller. Use the one in reserve to refuse it for now."""
        lacking = own_limit(error)
        log.error("accept failed", errno=error.errno, reason=lacking)
        while self._turned_away:
            self._turned_away.popleft().close()
        try:
            with self._reserve.lent():
                listener.settimeout(LAST_WORD)
                sock, address = listener.accept()
                with sock:
                    self._turn_away(sock, _peer(address[0]), _for_want(lacking), is_tls=is_tls, at_once=True)
        except OSError:
            self._stopping.wait(LAST_WORD)  # meanwhile associations end and free some
        finally:
            listener.settimeout(None)

    def _turn_away(
        self, sock: socket.socket, peer: str, refusal: Refusal, *, is_tls: bool, at_once: bool = False
    ) -> None:
        """Refuse for now. This reads nothing, needs no thread, and waits only with `at_once`."""
        log.warning("association refused", peer=peer, why=refusal.why)
        self._handler.refused(peer, refusal.why)
        ASSOCIATIONS.labels(End.REFUSED).inc()
        if at_once:
            if not is_tls:
                _last_word(sock, refusal.pdu)
            return
        try:
            sock.setblocking(False)
            if not is_tls:
                sock.send(refusal.pdu)
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._turned_away.append(sock)
        while len(self._turned_away) > TURNED_AWAY:
            self._turned_away.popleft().close()


class _Reserve:
    """A spare descriptor, for the moment when there is no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1
        self._take_back()

    @contextmanager
    def lent(self) -> Iterator[None]:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            try:
                yield
            finally:
                self._take_back()

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _take_back(self) -> None:
        with suppress(OSError):
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _for_want(lacking: str) -> Refusal:
    return beyond_a_limit(lacking or "the system gives no connection")


def _last_word(sock: socket.socket, last: bytes) -> None:
    """Send the refusal, and wait for the peer to close. Read what it sent, so that no reset overtakes the refusal."""
    with suppress(OSError):
        sock.settimeout(LAST_WORD)
        sock.sendall(last)
        sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LAST_WORD
        while time.monotonic() < deadline and sock.recv(1 << 16):
            pass


def _peer(address: str) -> str:
    """An address without the IPv6 scope. An IPv4 address that a dual socket shows as IPv6 becomes IPv4 again."""
    return address.partition("%")[0].removeprefix("::ffff:")


def _take_one(counter: Counter[str], peer: str) -> None:
    counter[peer] -= 1
    if counter[peer] <= 0:
        del counter[peer]


def _shutdown(sock: socket.socket) -> None:
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass
