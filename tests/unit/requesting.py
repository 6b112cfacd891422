"""What the tests of the requestor share: a blob, an association with a peer, and the refusal of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.association.requestor import ConnectError, Requestor, connect
from router.flow import StoredFile
from tests.unit.peer import DX, EXPLICIT, UID, Peer

WANTED = [(DX, EXPLICIT)]
PREAMBLE = 132


def blob(folder: Path, size: int) -> tuple[Path, bytes]:
    """A file with `size` bytes of data set after a preamble."""
    data = bytes((i * 7 + (i >> 8)) & 255 for i in range(min(size, 65536))) * (size // 65536 + 1)
    path = folder / "blob.dcm"
    path.write_bytes(b"\xee" * PREAMBLE + data[:size])
    return path, data[:size]


def store(association: Requestor, path: Path, size: int | None = None, syntax: str = EXPLICIT) -> int:
    size = path.stat().st_size - PREAMBLE if size is None else size
    return association.store(StoredFile(path, PREAMBLE, size, DX, UID, syntax))


@contextmanager
def associated(peer: Peer, **changes: object) -> Iterator[Requestor]:
    association = connect(peer.destination(**changes), "US", WANTED)
    try:
        yield association
    finally:
        association.release()


def refused(peer: Peer, **changes: object) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        connect(peer.destination(**changes), "US", WANTED)
    return caught.value
