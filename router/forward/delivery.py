"""One attempt at one delivery: check the blob, choose the presentation context, send, and return the outcome."""

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
"""Bytes read at a time. The buffer fits into the processor's cache, and the C library maps no new memory for it."""
Transcode = Callable[[Instance, Path, str], StoredFile]
"""Makes a lossless copy from an instance, its blob and a native transfer syntax (OWN_SYNTAX: only padded).
Raises ValueError, and OSError if there is no room for a copy."""


def came_from(delivery: Delivery, destination: DestinationSettings) -> bool:
    """Whether a delivery would go back to the sender of its instance (same AE title, same address)."""
    caller = delivery.instance.caller
    if not destination.ae_title or caller.calling_ae != destination.ae_title:
        return False
    with suppress(OSError, UnicodeError):
        return caller.peer in _addresses(destination.host, int(time.monotonic() // 60))
    return False


@lru_cache(maxsize=256)
def _addresses(host: str, minute: int) -> frozenset[str]:
    return frozenset(str(info[4][0]) for info in socket.getaddrinfo(host, None))


def fault(path: Path, instance: Instance) -> str:
    """Why the data set on disk differs from the one that came. Empty if it is the same. Raises OSError.

    The file is read and not mapped. So a bad sector is an error of this instance, and no SIGBUS for the node.
    """
    digest, buffer = xxh3_128(), memoryview(bytearray(CHUNK))
    # Without waiting: a pipe may stand in the place of the blob.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        header = file.read(instance.offset)
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    if digest.hexdigest() != instance.digest:
        return "the blob has changed on disk since it was received (digest)"
    return "" if agrees(header, instance) else "the blob and its row contradict each other: one of them has changed"


GONE = (
    "the blob is gone (was an older database put back, or has the object store lost it? "
    "the destination may have it already)"
)


def attempt(
    delivery: Delivery,
    sender: Sender,
    transcode: Transcode,
    known_digests: Callable[[], frozenset[str]],
    bring_again: Callable[[Instance], bool] = lambda _: False,
) -> Outcome:
    """Send one data set. `bring_again` gets another copy of a blob that is wrong. Raises OwnLimitError, SpoolError."""
    instance = delivery.instance
    try:
        reason = fault(delivery.path, instance)
        if reason and bring_again(instance):
            reason = fault(delivery.path, instance)
        if reason:
            return Outcome(Fate.BURY, reason, sign=Sign.OURS)
    except FileNotFoundError as error:
        if delivery.path.parent.is_dir():
            return Outcome(Fate.BURY, GONE, sign=Sign.OURS)
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror})", sign=Sign.OURS)
    except OSError as error:
        raise_own_limit(error)
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror})", sign=Sign.OURS)
    outcome, used, notes = _stored(delivery, sender, transcode)
    if used and outcome.fate is not Fate.DONE and not sender.closed:
        taken = sender.syntax_for(instance.sop_class, instance.transfer_syntax)
        if taken not in (None, used):  # only now the destination has said that it does not take the one used
            outcome, _, notes = _stored(delivery, sender, transcode)
    if outcome.status == DUPLICATE and known_digests() - {instance.digest}:
        return Outcome(Fate.BURY, "the destination holds another version under the same UID", outcome.status)
    return with_notes(outcome, notes)


def with_notes(outcome: Outcome, notes: tuple[str, ...]) -> Outcome:
    """A success that says what was done to the data set."""
    if outcome.fate is Fate.DONE:
        return replace(outcome, reason="; ".join(filter(None, [outcome.reason, *notes])))
    return outcome


def _stored(delivery: Delivery, sender: Sender, transcode: Transcode) -> tuple[Outcome, str | None, tuple[str, ...]]:
    """Send it as the sender takes it: the outcome, the transfer syntax if it was sent, and what was done to it."""
    made = sendable(delivery, sender, transcode)
    if isinstance(made, Outcome):
        return made, None, ()
    file, notes = made
    try:
        return sender.store(file), file.transfer_syntax, notes
    except OSError as error:
        # Part of a data set has been sent. The peer forgets it only if the association ends.
        sender.abort()
        raise_own_limit(error)
        outcome = Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror or error})", sign=Sign.OURS)
        return outcome, None, notes


def raise_own_limit(error: OSError) -> None:
    """Raise OwnLimitError if this machine lacks a resource. Then this does not count as a try."""
    if lacking := own_limit(error):
        raise OwnLimitError(lacking) from error


def sendable(delivery: Delivery, sender: Sender, transcode: Transcode) -> tuple[StoredFile, tuple[str, ...]] | Outcome:
    """The data set to send, and what was done to it; or the outcome, if nothing can be sent. It goes as it came if the
    peer takes that. Else a native copy goes if the peer refuses its syntax, and a padded copy if its length is odd:
    no fragment may be odd (PS3.8 annex E)."""
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
            raise_own_limit(error)
            return Outcome(Fate.LATER, error.strerror or "a native copy cannot be made", sign=Sign.OURS)
        notes = (f"transcoded without loss to {taken}",)
    elif (
        file.size % 2 and sender.pads and syntax != DEFLATED
    ):  # a deflated stream gets its padding behind its end (PS3.5 §A.5)
        try:
            file, notes = transcode(instance, delivery.path, OWN_SYNTAX), ("values of odd length padded",)
        except ValueError:
            pass  # we cannot find its odd values
        except OSError as error:
            raise_own_limit(error)
            return Outcome(Fate.LATER, error.strerror or "a padded copy cannot be made", sign=Sign.OURS)
    padded = ("one NUL added behind a data set of odd length",) if file.size % 2 and sender.pads else ()
    return file, notes + padded
