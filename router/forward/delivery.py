"""One attempt at one delivery: check the blob, choose the presentation context, send, and say what came of it."""

from __future__ import annotations

import mmap
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from xxhash import xxh3_128

from router.association.requestor import AssociationLostError, Requestor, connect
from router.config.settings import DestinationSettings
from router.flow import Delivery, Instance
from router.forward.outcomes import DUPLICATE, Fate, Outcome, outcome_of

Transcode = Callable[[Instance, Path, str], tuple[Path, int, int]]
"""Instance, its blob and a native transfer syntax to (path, offset, size) of a lossless copy. Raises ValueError."""


class Pool:
    """The one association of a worker, kept while there is work for it."""

    def __init__(self) -> None:
        self._association: Requestor | None = None

    @property
    def is_open(self) -> bool:
        return self._association is not None

    @property
    def idle_since(self) -> float:
        return self._association.idle_since if self._association else 0.0

    def get(self, destination: DestinationSettings, calling_ae: str, wanted: Sequence[tuple[str, str]]) -> Requestor:
        """An association on which all of `wanted` was proposed. Raises ConnectError."""
        current = self._association
        if current is not None and (current.lost() or not set(wanted) <= current.proposed):
            self.release()
        if self._association is None:
            self._association = connect(destination, calling_ae, wanted)
        return self._association

    def release(self) -> None:
        if self._association is not None:
            self._association.release()
            self._association = None

    def abort(self) -> None:
        if self._association is not None:
            self._association.abort()
            self._association = None


def came_from(delivery: Delivery, destination: DestinationSettings) -> bool:
    """Whether a delivery would go back to where its instance came from (same AE title, same address)."""
    caller = delivery.instance.caller
    return caller.calling_ae == destination.ae_title and caller.peer in addresses(destination.host)


@lru_cache(maxsize=256)
def addresses(host: str) -> frozenset[str]:
    with suppress(OSError):
        return frozenset(str(info[4][0]) for info in socket.getaddrinfo(host, None))
    return frozenset()


def is_sound(path: Path, instance: Instance) -> bool:
    """Whether the data set on disk is still the one that came (DESIGN promise 3). Raises OSError."""
    if path.stat().st_size != instance.offset + instance.size:
        return False
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content,
        memoryview(content) as view,
        view[instance.offset :] as data,
    ):
        return bool(xxh3_128(data).hexdigest() == instance.digest)


def attempt(
    delivery: Delivery,
    association: Requestor,
    transcode: Transcode,
    known_digests: Callable[[], frozenset[str]],
) -> Outcome:
    """Send one data set. Raises AssociationLostError when what became of it is not known."""
    instance = delivery.instance
    path, offset, size, syntax = delivery.path, instance.offset, instance.size, instance.transfer_syntax
    try:
        if not is_sound(path, instance):
            return Outcome(Fate.FEW, CHANGED)
    except OSError as error:
        return Outcome(Fate.LATER, f"the blob cannot be read ({error.strerror})")
    if not association.accepts(instance.sop_class, syntax):
        native = association.fallback(instance.sop_class)
        if native is None:
            return Outcome(Fate.FEW, "no acceptable presentation context (SOP class or transfer syntax refused)")
        try:
            path, offset, size = transcode(instance, path, native)
        except ValueError as error:
            return Outcome(Fate.FEW, f"the transfer syntax was refused, and transcoding is not possible: {error}")
        syntax = native
    try:
        status = association.store(
            path, offset, size, sop_class=instance.sop_class, sop_instance=instance.sop_instance, transfer_syntax=syntax
        )
    except OSError as error:
        # Part of a data set is on the wire; only an end of the association makes the peer forget it.
        raise AssociationLostError(f"the blob cannot be read ({error.strerror or error})") from error
    outcome = outcome_of(status)
    if status == DUPLICATE and known_digests() - {instance.digest}:
        return Outcome(Fate.FEW, "the destination holds another version under the same UID", status)
    return outcome


CHANGED = "the blob has changed on disk since it was received (digest)"
