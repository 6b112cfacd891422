"""Send files on disk by C-STORE or STOW-RS as the node does: no spool, decision or retry; each data set as it is."""

from __future__ import annotations

import io
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from router.association.requestor import AssociationLostError, ConnectError, Requestor, connect
from router.commands.walking import Found
from router.config.settings import DestinationSettings
from router.dicom.elements import UnparseableError
from router.dicom.first_elements import MOST, UnreadableError, sop_uids
from router.dicom.part10 import (
    MEDIA_SOP_CLASS,
    MEDIA_SOP_INSTANCE,
    PREAMBLE,
    TRANSFER_SYNTAX,
    file_meta_elements,
    has_preamble,
    meta_text,
)
from router.dicom.uids import is_uid
from router.errors import RouterError
from router.flow import StoredFile
from router.forward.outcomes import Fate, outcome_of

if TYPE_CHECKING:
    from router.forward.stow import StowSender

GROUP = 64
"""Files whose presentation contexts are proposed together."""
PAUSES = (1.0, 4.0, 15.0, 60.0)
"""Seconds to wait before the next group when the peer gave no association for one. After the last, give up."""


class NobodyThereError(RouterError):
    """The peer gives no association, time after time."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one file; `error` is empty where it arrived."""

    path: Path
    status: int | None = None
    error: str = ""

    @property
    def arrived(self) -> bool:
        return not self.error


def send_files(
    found: Iterable[Found], destination: DestinationSettings, calling_ae: str, associations: int = 1
) -> Iterator[Sent]:
    """Send each file; a refused or broken one does not keep the others. One association sends them in order.

    Raises NobodyThereError when the peer gives no association for group after group.
    """
    groups = _Groups(found)
    senders: list[_Sender | _WebSender] = [
        _WebSender(groups, destination)
        if destination.stow
        else _Sender(groups, destination, calling_ae, alone=associations == 1)
        for _ in range(associations)
    ]
    if associations == 1:
        yield from senders[0].run()
    else:
        yield from _side_by_side(groups, [sender.run() for sender in senders])


class _Groups:
    """The files in groups, for whichever association is free; and how the peer's last refusals went."""

    def __init__(self, found: Iterable[Found]) -> None:
        self._found = iter(found)
        self._lock = threading.Lock()
        self._failures = 0
        self._associations = 0
        self.stopping = threading.Event()

    def next(self) -> list[Found]:
        """Empty at the end."""
        with self._lock:
            return [] if self.stopping.is_set() else list(islice(self._found, GROUP))

    def connected(self, change: int) -> None:
        """One association more, or one less."""
        with self._lock:
            self._associations += change
            self._failures = 0

    def has_others(self) -> bool:
        """Whether the peer has taken associations already. One that it refuses may then be one too many."""
        return self._associations > 0

    def not_connected(self, reason: str) -> None:
        """Wait before the next group. Raises NobodyThereError."""
        failures = self._failures
        self._failures += 1
        if failures >= len(PAUSES):
            raise NobodyThereError(f"given up, no association in {failures + 1} tries: {reason}")
        self.stopping.wait(PAUSES[failures])


class _Sender:
    """One association after another, each for as many groups as it serves."""

    def __init__(self, groups: _Groups, destination: DestinationSettings, calling_ae: str, *, alone: bool) -> None:
        self._groups, self._destination, self._calling_ae = groups, destination, calling_ae
        # Beside others: one of them may have been the reason, and may have ended since.
        self._tries = 1 if alone else 2
        self._association: Requestor | None = None

    def run(self) -> Iterator[Sent]:
        try:
            group = self._groups.next()
            while group:
                reason = ""
                for one in self._send(group):
                    reason = one.error if isinstance(one, _NotConnected) else ""
                    yield one
                if (group := self._groups.next()) and reason:
                    self._groups.not_connected(reason)
        finally:
            if self._association is not None:
                self._close(self._association.release)

    def _send(self, group: list[Found]) -> Iterator[Sent]:
        read = [_try_to_read(found) for found in group]
        wanted = [(one.sop_class, one.transfer_syntax) for one in read if isinstance(one, StoredFile)]
        away = ""
        for one in read:
            if isinstance(one, Sent):
                yield one
                continue
            try:
                if away:
                    yield _NotConnected(one.path, error=away)
                else:
                    yield _store(one, self._connected(wanted))
            except ConnectError as error:
                away = error.reason
                yield _NotConnected(one.path, error=away)
            except OSError as error:
                self._lose()  # it waits for the rest of a file that cannot be read
                yield Sent(one.path, error=error.strerror or str(error))
            except AssociationLostError as error:
                self._lose()
                yield Sent(one.path, error=str(error))

    def _connected(self, wanted: list[tuple[str, str]]) -> Requestor:
        """An association that serves the group as well as a new one would. Raises ConnectError."""
        if (association := self._association) is not None:
            if association.lost():
                self._close(association.abort)
            elif not association.proposed >= {*wanted}:
                self._close(association.release)
        refused = 0
        while self._association is None:
            try:
                self._association = connect(self._destination, self._calling_ae, wanted)
            except ConnectError:
                refused = 0 if self._groups.has_others() else refused + 1
                if refused >= self._tries or self._groups.stopping.wait(PAUSES[0]):
                    raise
            else:
                self._groups.connected(1)
        return self._association

    def _close(self, how: Callable[[], None]) -> None:
        self._association = None
        self._groups.connected(-1)
        how()

    def _lose(self) -> None:
        if self._association is not None:
            self._close(self._association.abort)


class _WebSender:
    """The same for STOW-RS: one connection after another."""

    def __init__(self, groups: _Groups, destination: DestinationSettings) -> None:
        self._groups, self._destination = groups, destination
        self._open: StowSender | None = None

    def run(self) -> Iterator[Sent]:
        try:
            while group := self._groups.next():
                away = ""
                for found in group:
                    read = _try_to_read(found)
                    if isinstance(read, Sent):
                        yield read
                        continue
                    try:
                        sent = self._store(read)
                        away = ""
                    except ConnectError as error:
                        away = error.reason
                        sent = _NotConnected(read.path, error=away)
                    yield sent
                if away:
                    self._groups.not_connected(away)
        finally:
            if self._open is not None:
                self._open.release()

    def _store(self, file: StoredFile) -> Sent:
        """Raises ConnectError."""
        from router.forward.stow import StowSender

        if self._open is not None and (self._open.closed or not self._open.serves(())):
            self._open.release()
            self._open = None
        self._open = self._open or StowSender(self._destination)
        try:
            outcome = self._open.store(file)
        except OSError as error:
            return Sent(file.path, error=error.strerror or str(error))
        return Sent(file.path, outcome.status, "" if outcome.fate is Fate.DONE else outcome.reason)


class _NotConnected(Sent):
    """A file for which there was no association."""


def _side_by_side(groups: _Groups, senders: list[Iterator[Sent]]) -> Iterator[Sent]:
    """What several senders give, each in a thread of its own. The first error of one of them ends all."""
    given: queue.Queue[Sent | Exception | None] = queue.Queue(len(senders))

    def run(sender: Iterator[Sent]) -> None:
        try:
            for one in sender:
                given.put(one)
            given.put(None)
        except Exception as error:  # told where the results are told
            given.put(error)

    threads = [threading.Thread(target=run, args=(sender,), name="send", daemon=True) for sender in senders]
    for thread in threads:
        thread.start()
    failure: Exception | None = None
    running = len(threads)
    try:
        while running:
            one = given.get()
            if isinstance(one, Sent):
                yield one
                continue
            running -= 1
            if one is not None:
                failure = failure or one
                groups.stopping.set()
    finally:
        groups.stopping.set()
    if failure:
        raise failure


def _store(one: StoredFile, association: Requestor) -> Sent:
    if not association.accepts(one.sop_class, one.transfer_syntax):
        return Sent(one.path, error="the peer accepts no presentation context for its SOP class and transfer syntax")
    status = association.store(one)
    outcome = outcome_of(status)
    return Sent(one.path, status, "" if outcome.fate is Fate.DONE else outcome.reason)


def _try_to_read(found: Found) -> StoredFile | Sent:
    path = found.path
    if found.error:
        return Sent(path, error=found.error)
    try:
        return read_meta(path)
    except OSError as error:
        return Sent(path, error=error.strerror or type(error).__name__)
    except ValueError as error:
        return Sent(path, error=str(error))


def read_meta(path: Path) -> StoredFile:
    """What a C-STORE of a Part 10 file needs to know. Raises ValueError (not one, or unreadable) and OSError.

    The UIDs are the data set's own: some archives give copies a new identity there and forget the meta information.
    """
    # Without waiting: a pipe in a file's place would be waited for until somebody writes into it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if not has_preamble(file.read(PREAMBLE)):
            raise ValueError("not a DICOM file (Part 10)")
        try:
            meta = file_meta_elements(file, PREAMBLE, size)
        except UnparseableError as error:
            raise ValueError(f"its file meta information cannot be read: {error}") from None
        syntax, sop_class, instance = (
            meta_text(file, meta, tag) for tag in (TRANSFER_SYNTAX, MEDIA_SOP_CLASS, MEDIA_SOP_INSTANCE)
        )
        offset = min(size, max((element.end for element in meta.values()), default=PREAMBLE))
        file.seek(offset)
        try:
            uids = sop_uids(file.read(MOST), syntax)
            sop_class, instance = uids.sop_class, uids.sop_instance
        except UnreadableError:
            if MEDIA_SOP_CLASS not in meta or MEDIA_SOP_INSTANCE not in meta:
                raise ValueError("its SOP class or SOP Instance UID is absent") from None
    if not (is_uid(sop_class) and is_uid(syntax) and instance.isascii()):
        raise ValueError("its SOP class, transfer syntax or SOP Instance UID is not a UID")
    return StoredFile(path, offset, size - offset, sop_class, instance, syntax)
