"""One attempt at one delivery: check the blob, choose the presentation context, send, and say what came of it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from xxhash import xxh3_128

from router.association.lacks import OwnLimitError, own_limit
from router.config.settings import DestinationSettings
from router.dicom.uids import DEFLATED, OWN_SYNTAX
from router.flow import Delivery, Instance, StoredFile
from router.forward.outcomes import DUPLICATE, Fate, Outcome, Sign
from router.forward.sender import Sender
from router.spool import agrees

CHUNK = 128 * 1024
"""Bytes read at a time: a buffer that the processor's cache holds, and that the C library has at hand."""
Transcode = Callable[[Instance, Path, str], StoredFile]
"""Instance, its blob and a native transfer syntax (or OWN_SYNTAX: padded) to a lossless copy.
Raises ValueError, and OSError where there is no room for one."""


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
    """Why the data set on disk is not the one that came, byte for byte; empty where it is. Raises OSError.

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


def attempt(
    delivery: Delivery,
    sender: Sender,
    transcode: Transcode,
    known_digests: Callable[[], frozenset[str]],
) -> Outcome:
    """Send one data set. Raises OwnLimitError."""
    instance = delivery.instance
    try:
        if reason := fault(delivery.path, instance):
            return Outcome(Fate.BURY, reason, sign=Sign.OURS)
    except FileNotFoundError as error:
        if delivery.path.parent.is_dir():
            return Outcome(Fate.BURY, GONE, sign=Sign.OURS)
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror})", sign=Sign.OURS)
    except OSError as error:
        _raise_own_limit(error)
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror})", sign=Sign.OURS)
    sendable = _sendable(delivery, sender, transcode)
    if isinstance(sendable, Outcome):
        return sendable
    file, notes = sendable
    try:
        outcome = sender.store(file)
    except OSError as error:
        # Part of a data set is on the wire; only an end of the association makes the peer forget it.
        sender.abort()
        _raise_own_limit(error)
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror or error})", sign=Sign.OURS)
    if outcome.status == DUPLICATE and known_digests() - {instance.digest}:
        return Outcome(Fate.BURY, "the destination holds another version under the same UID", outcome.status)
    if outcome.fate is Fate.DONE:
        return replace(outcome, reason="; ".join(filter(None, [outcome.reason, *notes])))
    return outcome


def _raise_own_limit(error: OSError) -> None:
    """Raise OwnLimitError if this machine lacks a resource: then this was no try."""
    if lacking := own_limit(error):
        raise OwnLimitError(lacking) from error


def _sendable(delivery: Delivery, sender: Sender, transcode: Transcode) -> tuple[StoredFile, tuple[str, ...]] | Outcome:
    """The data set that is sent and what was done to it: as it came; a native copy where the peer refuses its syntax; a
    padded one where its length is odd, for no fragment may be odd (PS3.8 annex E). Without any of these the outcome."""
    instance, syntax = delivery.instance, delivery.instance.transfer_syntax
    file = StoredFile(delivery.path, instance.offset, instance.size, instance.sop_class, instance.sop_instance, syntax)
    notes: tuple[str, ...] = ()
    taken = sender.syntax_for(instance.sop_class, syntax)
    if taken is None:
        return Outcome(Fate.FEW, f"no acceptable presentation context for {instance.sop_class} in {syntax}")
    if taken != syntax:
        try:
            file = transcode(instance, delivery.path, taken)
        except ValueError as error:
            refused = f"only {taken} was accepted and not {syntax}; transcoding is not possible: {error}"
            return Outcome(Fate.FEW, refused, sign=Sign.OURS)
        except OSError as error:
            _raise_own_limit(error)
            return Outcome(Fate.LATER, error.strerror or "a native copy cannot be made", sign=Sign.OURS)
        notes = (f"transcoded without loss to {taken}",)
    elif file.size % 2 and syntax != DEFLATED:  # a deflated stream is padded behind its end (PS3.5 §A.5)
        try:
            file, notes = transcode(instance, delivery.path, OWN_SYNTAX), ("values of odd length padded",)
        except ValueError:
            pass  # its odd values cannot be found
        except OSError as error:
            _raise_own_limit(error)
            return Outcome(Fate.LATER, error.strerror or "a padded copy cannot be made", sign=Sign.OURS)
    padded = ("one NUL added behind a data set of odd length",) if file.size % 2 else ()
    return file, notes + padded
