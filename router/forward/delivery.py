"""One attempt at one delivery: check the blob, choose the presentation context, send, and say what came of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from xxhash import xxh3_128

from router.association.own_limits import OwnLimitError, own_limit
from router.association.requestor import Requestor, connect
from router.config.settings import DestinationSettings
from router.dicom.uids import DEFLATED, OWN_SYNTAX
from router.flow import Delivery, Instance
from router.forward.outcomes import DUPLICATE, Fate, Outcome, outcome_of
from router.spool import agrees

CHUNK = 128 * 1024
"""Bytes read at a time: a buffer that the processor's cache holds, and that the C library has at hand."""
Transcode = Callable[[Instance, Path, str], tuple[Path, int, int]]
"""Instance, its blob and a native transfer syntax (or OWN_SYNTAX: padded) to (path, offset, size) of a lossless copy.
Raises ValueError, and OSError where there is no room for one."""


class Pool:
    """The one association of a worker, kept while there is work for it."""

    def __init__(self, hold: Callable[[int], None]) -> None:
        self._association: Requestor | None = None
        self._made_for: tuple[DestinationSettings, str] | None = None
        self._hold = hold

    @property
    def is_open(self) -> bool:
        return self._association is not None

    @property
    def idle_since(self) -> float:
        return self._association.idle_since if self._association else 0.0

    def get(self, destination: DestinationSettings, calling_ae: str, wanted: Sequence[tuple[str, str]]) -> Requestor:
        """An association as the settings are now, on which all of `wanted` was proposed. Raises ConnectError."""
        current = self._association
        if current is not None and (
            current.lost() or self._made_for != (destination, calling_ae) or not current.proposed.issuperset(wanted)
        ):
            self.release()
        if self._association is None:
            self._association = connect(destination, calling_ae, wanted)
            self._made_for = (destination, calling_ae)
            self._hold(1)
        return self._association

    def release(self) -> None:
        if association := self._take():
            association.release()

    def abort(self) -> None:
        if association := self._take():
            association.abort()

    def _take(self) -> Requestor | None:
        taken, self._association = self._association, None
        if taken is not None:
            self._hold(-1)
        return taken


def came_from(delivery: Delivery, destination: DestinationSettings) -> bool:
    """Whether a delivery would go back to where its instance came from (same AE title, same address)."""
    caller = delivery.instance.caller
    if caller.calling_ae != destination.ae_title:
        return False
    with suppress(OSError, UnicodeError):
        return caller.peer in _addresses(destination.host, int(time.monotonic() // 60))
    return False


@lru_cache(maxsize=256)
def _addresses(host: str, minute: int) -> frozenset[str]:
    return frozenset(str(info[4][0]) for info in socket.getaddrinfo(host, None))


def fault(path: Path, instance: Instance) -> str:
    """Why the data set on disk is not the one that came (DESIGN promise 3); empty where it is. Raises OSError.

    Read, not mapped: a bad sector is then an error of this instance, and not a SIGBUS for the node.
    """
    digest, buffer = xxh3_128(), memoryview(bytearray(CHUNK))
    # Not waited for: what stands in a blob's place may be a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        header = file.read(instance.offset)
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    if digest.hexdigest() != instance.digest:
        return "the blob has changed on disk since it was received (digest)"
    return "" if agrees(header, instance) else "the blob and its row contradict each other: one of them has changed"


GONE = "the blob is gone (was an older database put back? the destination may have it already)"


@dataclass(frozen=True, slots=True)
class _Sendable:
    """The data set that is sent for an instance: `size` bytes at `offset` of a file, and what was done to it."""

    path: Path
    offset: int
    size: int
    syntax: str
    notes: tuple[str, ...] = ()


def attempt(
    delivery: Delivery,
    association: Requestor,
    transcode: Transcode,
    known_digests: Callable[[], frozenset[str]],
) -> Outcome:
    """Send one data set. Raises AssociationLostError when what became of it is not known, and OwnLimitError."""
    instance = delivery.instance
    try:
        if reason := fault(delivery.path, instance):
            return Outcome(Fate.BURY, reason, sign="ours")
    except FileNotFoundError as error:
        if delivery.path.parent.is_dir():
            return Outcome(Fate.BURY, GONE, sign="ours")
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror})", sign="ours")
    except OSError as error:
        _raise_own_limit(error)
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror})", sign="ours")
    one = _sendable(delivery, association, transcode)
    if isinstance(one, Outcome):
        return one
    try:
        status = association.store(
            one.path, one.offset, one.size,
            sop_class=instance.sop_class, sop_instance=instance.sop_instance, transfer_syntax=one.syntax,
        )  # fmt: skip
    except OSError as error:
        # Part of a data set is on the wire; only an end of the association makes the peer forget it.
        association.abort()
        _raise_own_limit(error)
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror or error})", sign="ours")
    outcome = outcome_of(status)
    if status == DUPLICATE and known_digests() - {instance.digest}:
        return Outcome(Fate.BURY, "the destination holds another version under the same UID", status)
    if outcome.fate is Fate.DONE:
        return replace(outcome, reason="; ".join(filter(None, [outcome.reason, *one.notes])))
    return outcome


def _raise_own_limit(error: OSError) -> None:
    """Raise OwnLimitError if this machine lacks a resource: then this was no try."""
    if lacking := own_limit(error):
        raise OwnLimitError(lacking) from error


def _sendable(delivery: Delivery, association: Requestor, transcode: Transcode) -> _Sendable | Outcome:
    """The data set as it came; a native copy where the peer refuses its syntax; a padded one where its length is odd,
    for no fragment may be odd (PS3.8 annex E). Without any of these the outcome."""
    instance, syntax = delivery.instance, delivery.instance.transfer_syntax
    one = _Sendable(delivery.path, instance.offset, instance.size, syntax)
    if not association.accepts(instance.sop_class, syntax):
        native = association.fallback(instance.sop_class)
        if native is None:
            return Outcome(Fate.FEW, f"no acceptable presentation context for {instance.sop_class} in {syntax}")
        try:
            copy = transcode(instance, delivery.path, native)
        except ValueError as error:
            refused = f"only {native} was accepted and not {syntax}; transcoding is not possible: {error}"
            return Outcome(Fate.FEW, refused, sign="ours")
        except OSError as error:
            _raise_own_limit(error)
            return Outcome(Fate.LATER, error.strerror or "a native copy cannot be made", sign="ours")
        one = _Sendable(*copy, native, (f"transcoded without loss to {native}",))
    elif one.size % 2 and syntax != DEFLATED:  # a deflated stream is padded behind its end (PS3.5 §A.5)
        try:
            one = _Sendable(*transcode(instance, delivery.path, OWN_SYNTAX), syntax, ("values of odd length padded",))
        except ValueError:
            pass  # its odd values cannot be found
        except OSError as error:
            _raise_own_limit(error)
            return Outcome(Fate.LATER, error.strerror or "a padded copy cannot be made", sign="ours")
    padded = ("one NUL added behind a data set of odd length",) if one.size % 2 else ()
    return replace(one, notes=one.notes + padded)
