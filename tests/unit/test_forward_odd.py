"""A data set of odd length reaches its destination in even fragments, and the delivery says what was done to it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from router.dicom.uids import DEFLATED, OWN_SYNTAX
from router.flow import Instance, StoredFile
from tests.unit.forwarding import copied, forwarding, no_transcoder, quick
from tests.unit.peer import Peer

ODD, PADDED = b"of odd length", b"padded, and even"


def padding(instance: Instance, blob: Path, syntax: str) -> StoredFile:
    assert syntax == OWN_SYNTAX
    copy = blob.with_suffix(".even.native")
    copy.write_bytes(b"head" + PADDED)
    return copied(instance, copy, 4, len(PADDED), syntax)


def unreadable(*_: object) -> StoredFile:
    raise ValueError("the data set ends within an element")


@pytest.mark.parametrize(
    ("transcode", "syntax", "sent", "reason"),
    [
        (padding, None, PADDED, "values of odd length padded"),
        (unreadable, None, ODD + b"\0", "one NUL added behind a data set of odd length"),
        (no_transcoder, DEFLATED, ODD + b"\0", "one NUL added behind a data set of odd length"),
    ],
)
def test_it_is_sent_evenly_and_said_so(tmp_path: Path, transcode, syntax, sent: bytes, reason: str) -> None:  # type: ignore[no-untyped-def]
    changes = {"transfer_syntax": syntax} if syntax else {}
    with Peer() as peer, forwarding(tmp_path, peer, transcode=transcode) as stage:
        stage.owe("dest", data=ODD, **changes)
        (row,) = stage.until("done")
        assert row.reason == reason
        assert [one.data for one in peer.stored] == [sent]


def test_an_even_one_is_sent_as_it_came(tmp_path: Path) -> None:
    with Peer() as peer, forwarding(tmp_path, peer) as stage:
        stage.owe("dest", data=ODD + ODD)
        (row,) = stage.until("done")
        assert row.reason == ""
        assert [one.data for one in peer.stored] == [ODD + ODD]


def test_without_room_for_a_padded_copy_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    full = [True]

    def transcode(instance: Instance, blob: Path, syntax: str) -> StoredFile:
        if full:
            full.pop()
            raise OSError(errno.ENOSPC, "no room")
        return padding(instance, blob, syntax)

    with Peer() as peer, forwarding(tmp_path, peer, transcode=transcode) as stage:
        stage.owe("dest", data=ODD)
        (row,) = stage.until("done")
        assert row.tries == 2
        assert [one.data for one in peer.stored] == [PADDED]
