"""The data set of a C-STORE on its way from a file to the peer.

Sendfile sends it, and MSG_MORE puts each fragment's header before it. So its bytes do not pass through this program;
with TLS they pass through one buffer. A data set of odd length gets a NUL at its end: fragments must be even (PS3.8
annex E), and DCMTK and Orthanc refuse odd ones. A peer counts as silent if it takes no byte within its time to answer,
or falls below its least rate.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time

from router.association import pdu
from router.association.exchange import Exchange
from router.association.pdu import Pace
from router.flow import StoredFile

PAD = b"\0"
"""Is added to a data set of odd length."""


class Transfer:
    """Sends one data set to one peer. Raises as `Exchange`, and OSError if the file is shorter than its data set."""

    def __init__(self, exchange: Exchange, context_id: int, least_rate: int) -> None:
        self._exchange = exchange
        self._sock = exchange.stream.sock
        self._context_id = context_id
        self._pace = Pace(exchange.limit, least_rate)
        room = min(exchange.max_pdu, pdu.MAX_PDU) - pdu.PDV_HEADER.size
        self._fragment = max(1, room - room % 2)

    def send(self, fd: int, file: StoredFile) -> bool:
        """Send all fragments. Returns whether the peer spoke before it could have the last one."""
        send = self._copy_fragment if isinstance(self._sock, ssl.SSLSocket) else self._send_fragment
        offset, end, early = file.offset, file.offset + file.size, False
        while True:
            count = min(self._fragment, end - offset)
            last = offset + count == end
            early = last and self._exchange.lost()
            pad = PAD * (file.size % 2) if last and self._fragment > 1 else b""
            header = pdu.p_data_header(self._context_id, count + len(pad), command=False, last=last)
            send(fd, offset, count, header, pad)
            self._pace.received += count
            offset += count
            if last:
                return early

    def _send_fragment(self, fd: int, offset: int, count: int, header: bytes, pad: bytes) -> None:
        stop = offset + count
        self._sock.setblocking(False)
        self._exchange.inside_pdu = True
        self._send_bytes(header, socket.MSG_MORE if count else 0)
        while offset < stop:
            try:
                sent = os.sendfile(self._sock.fileno(), fd, offset, stop - offset)
            except BlockingIOError:
                self._wait_writable()
                continue
            if sent == 0:
                raise OSError(f"the blob is shorter than its row says (at byte {offset})")
            offset += sent
        self._send_bytes(pad)
        self._exchange.inside_pdu = False

    def _send_bytes(self, data: bytes, flags: int = 0) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view, flags) :]
            except BlockingIOError:
                self._wait_writable()

    def _copy_fragment(self, fd: int, offset: int, count: int, header: bytes, pad: bytes) -> None:
        data = bytearray(len(header) + count + len(pad))
        data[: len(header)] = header
        if os.preadv(fd, [memoryview(data)[len(header) : len(header) + count]], offset) != count:
            raise OSError(f"the blob is shorter than its row says (at byte {offset})")
        started = time.monotonic()
        self._exchange.send(data, self._patience())
        self._pace.waited += time.monotonic() - started

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        started = time.monotonic()
        if not poll.poll(self._patience() * 1000):
            raise TimeoutError
        self._pace.waited += time.monotonic() - started

    def _patience(self) -> float:
        """Seconds that the peer may let us wait now. Raises TimeoutError if none are left."""
        seconds = min(self._pace.left(), self._exchange.limit)
        if seconds <= 0:
            raise TimeoutError
        return seconds
