"""A destination for STOW-RS (PS3.18 §10.5): a connection to a web server as a `Sender`, and OPTIONS as its probe.

A request carries one instance, or several that wait together. Its answer is noted before the next request goes, so a
crash sends again what one request had, and no more.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection, Iterator, Sequence

from router.association.connecting import ConnectError, ConnectKind
from router.association.lacks import OwnLimitError
from router.association.proposing import NATIVE
from router.config.settings import DestinationSettings
from router.dicom.part10 import file_meta
from router.flow import StoredFile
from router.forward.credentials import authorization, target_of
from router.forward.http import Answer, Connection, NoAnswerError
from router.forward.outcomes import Fate, Outcome, Sign
from router.forward.store_answers import (
    is_busy,
    outcome_of_answer,
    refuses_syntax,
    stored_of_answer,
    trouble_of,
    trouble_of_nothing,
)

PIECE = 256 * 1024
"""Bytes of a file in memory at a time."""
UNAUTHORIZED = 401
NEW_LINE = "\r\n"


class StowSender:
    """A `Sender` on one connection. Raises ConnectError when it is made."""

    def __init__(self, destination: DestinationSettings) -> None:
        self._destination = destination
        self._authorization = authorization(destination)
        self._connection = _connection(destination)
        self._refused: set[tuple[str, str]] = set()
        self.idle_since = time.monotonic()
        self.closed = False

    @property
    def pads(self) -> bool:
        return False

    def serves(self, wanted: Collection[tuple[str, str]]) -> bool:
        return not self._connection.lost()

    def syntax_for(self, sop_class: str, transfer_syntax: str) -> str | None:
        allowed = self._destination.syntaxes
        if (allowed is None or transfer_syntax in allowed) and (sop_class, transfer_syntax) not in self._refused:
            return transfer_syntax
        return next((native for native in NATIVE if allowed is None or native in allowed), None)

    def store(self, file: StoredFile) -> Outcome:
        answer = self._asked([file])
        if isinstance(answer, Outcome):
            return answer
        outcome = outcome_of_answer(answer, file.sop_instance)
        if refuses_syntax(answer, outcome) and file.transfer_syntax not in NATIVE:
            self._refused.add((file.sop_class, file.transfer_syntax))
        return outcome

    def store_together(self, files: Sequence[StoredFile]) -> list[Outcome | None]:
        answer = self._asked(files)
        if isinstance(answer, Outcome):
            return [None] * len(files)
        return stored_of_answer(answer, [file.sop_instance for file in files])

    def release(self) -> None:
        self.abort()

    def abort(self) -> None:
        self.closed = True
        self._connection.close()

    def _asked(self, files: Sequence[StoredFile]) -> Answer | Outcome:
        """What the server answers; the outcome if it does not. Raises OSError, OwnLimitError."""
        try:
            answer = self._posted(files)
            if answer.status == UNAUTHORIZED and self._destination.auth is not None:
                before, self._authorization = self._authorization, authorization(self._destination, self._authorization)
                if self._authorization != before:
                    answer = self._posted(files)
        except NoAnswerError as error:
            self.abort()
            return Outcome(Fate.LATER, str(error), sign=error.sign)
        except ConnectError as error:
            self.abort()
            if error.kind is ConnectKind.OURS:
                raise OwnLimitError(error.reason) from error
            return Outcome(Fate.LATER, error.reason, sign=Sign.ENDED)
        self.idle_since = time.monotonic()
        return answer

    def _posted(self, files: Sequence[StoredFile]) -> Answer:
        if self._connection.closed:  # the server closed it together with its last answer
            self._connection = _connection(self._destination)
        boundary = secrets.token_hex(16)  # nobody can put it into a file beforehand
        parts = [(_head(file, boundary, is_first=file is files[0]), file) for file in files]
        tail = f"\r\n--{boundary}--\r\n".encode("ascii")
        headers = _headers(self._authorization) | {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}'
        }
        length = sum(len(head) + file.size for head, file in parts) + len(tail)
        target = target_of(self._destination.stow or "")
        return self._connection.request("POST", target, headers, _body(parts, tail), length)


def open_sender(destination: DestinationSettings) -> StowSender:
    """Raises ConnectError."""
    return StowSender(destination)


def trouble(destination: DestinationSettings) -> str:
    """Why a destination does not work; empty if it does. Nothing is stored, and nothing of a patient is asked for.

    Orthanc 1.10 answers 404 to OPTIONS at any address. A POST without an instance tells whether the address is right.
    """
    try:
        answer = _options(destination)
        if answer.status == 404:
            return trouble_of_nothing(_asked(destination, "POST"))
        return trouble_of(answer)
    except ConnectError as error:
        return error.reason


def answers(destination: DestinationSettings) -> bool:
    """Whether a destination works as far as OPTIONS tells. Raises ConnectError if it cannot be reached or is busy."""
    answer = _options(destination)
    words = trouble_of(answer)
    if is_busy(answer):
        raise ConnectError(ConnectKind.REJECTED, words)
    return not words


def _options(destination: DestinationSettings) -> Answer:
    return _asked(destination, "OPTIONS")


def _asked(destination: DestinationSettings, method: str) -> Answer:
    headers = _headers(authorization(destination))
    body = b""
    if method == "POST":  # the end of a message in parts, of which there are none
        boundary = secrets.token_hex(16)
        body = f"--{boundary}--\r\n".encode("ascii")
        headers["Content-Type"] = f'multipart/related; type="application/dicom"; boundary={boundary}'
    connection = _connection(destination)
    try:
        return connection.request(method, target_of(destination.stow or ""), headers, [body], len(body))
    except NoAnswerError as error:
        silent = error.sign is Sign.SILENT
        raise ConnectError(ConnectKind.SILENT if silent else ConnectKind.ABORTED, str(error)) from error
    except OwnLimitError as error:
        raise ConnectError(ConnectKind.OURS, str(error)) from error
    finally:
        connection.close()


def _connection(destination: DestinationSettings) -> Connection:
    return Connection(
        destination.host, destination.port, destination.tls, destination.connect_timeout, destination.response_timeout,
        destination.least_rate, destination.proxy,
    )  # fmt: skip


def _headers(authorization: str) -> dict[str, str]:
    return {"Accept": "application/dicom+json"} | ({"Authorization": authorization} if authorization else {})


def _head(file: StoredFile, boundary: str, *, is_first: bool) -> bytes:
    """What stands before a data set: the part's begin, and the head of its file."""
    begin = f"{'' if is_first else NEW_LINE}--{boundary}\r\nContent-Type: application/dicom\r\n\r\n"
    return begin.encode("ascii") + file_meta(file.sop_class, file.sop_instance, file.transfer_syntax, None)


def _body(parts: Sequence[tuple[bytes, StoredFile]], tail: bytes) -> Iterator[bytes]:
    """The pieces of a request. The tail is one of its own: nobody can have answered before it is sent."""
    for head, file in parts:
        with open(os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as opened:
            opened.seek(file.offset)
            yield head
            left = file.size
            while left and (piece := opened.read(min(PIECE, left))):
                left -= len(piece)
                yield piece
            if left:
                raise OSError(f"the blob is shorter than its row says (by {left} bytes)")
    yield tail
