"""Several instances in one STOW-RS request: what goes together, and that no answer loses or buries a wrong one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom.part10 import file_meta
from router.flow import Decision, Instance, Seen, StoredFile
from router.forward.http import Answer, _Wire
from router.forward.outcomes import Fate, Outcome, Sign
from router.forward.store_answers import stored_of_answer
from router.forward.stow import PIECE, StowSender
from router.forward.together import MOST, MOST_BYTES, Habit
from router.spool.keyed import STUDY
from tests.unit.forwarding import Stage, no_transcoder, quick, slow
from tests.unit.peer import DX, EXPLICIT, J2K, wait_for
from tests.unit.test_stow import DATA, natively
from tests.unit.webpeer import JSON, Request, Talk, WebPeer, answering, element, failed, stored

POISON = b"poison"


@contextlib.contextmanager
def waiting(folder: Path, peer: WebPeer, transcode: Any = no_transcoder, **changes: Any) -> Iterator[Stage]:
    """A stage that has not started, so that deliveries can wait for it together."""
    found = Stage(folder / "spool", {"dest": peer.destination(**changes)}, transcode)
    found.open()
    try:
        yield found
    finally:
        if hasattr(found, "forwarder"):
            found.stop()
        found.spool.close()


def serving(say: Callable[[Request], tuple[int, Any]]) -> Callable[[Talk], None]:
    def script(talk: Talk) -> None:
        while True:
            status, body = say(talk.request())
            talk.answer(status, body)

    return script


def counts(peer: WebPeer) -> list[int]:
    return [len(one.instances) for one in peer.posted]


def refuses_poison(status: int) -> Callable[[Talk], None]:
    return serving(lambda got: (status, b"") if POISON in got.body else (200, stored(*got.instances)))


def test_a_backlog_goes_in_requests_with_several(tmp_path: Path) -> None:
    with WebPeer() as peer, waiting(tmp_path, peer) as made:
        owed = [one for n in range(MOST + 3) for one in made.owe("dest", data=b"data set %d." % n)]
        made.start()
        made.until("done", MOST + 3)
    assert counts(peer) == [MOST, 3]
    assert peer.connections == 1
    sent = [file for request in peer.posted for file in request.files]
    assert sent == [file_meta(DX, one.sop_instance, EXPLICIT, None) + b"data set %d." % n for n, one in enumerate(owed)]


def test_what_is_large_goes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.forward.together.MOST_BYTES", 25)
    with WebPeer() as peer, waiting(tmp_path, peer) as made:
        for size in (10, 10, 10, 30, 30, 10, 10):
            made.owe("dest", data=bytes(size))
        made.start()
        made.until("done", 7)
    assert counts(peer) == [2, 1, 1, 1, 2]
    assert MOST_BYTES == 8 * 1024**2


def test_a_gathered_study_goes_together(tmp_path: Path) -> None:
    """Of two studies that came mixed, each has its requests."""
    with WebPeer() as peer, waiting(tmp_path, peer, gather=0.2, gather_limit=60.0) as made:
        owed: dict[str, set[str]] = {"1.8": set(), "1.9": set()}
        for number in range(6):
            study = "1.8" if number % 2 else "1.9"
            made._receive(b"data", {})
            (claim,) = made.spool.decisions.claim(1)
            seen = Seen("none", {STUDY: (study,)}, reason="no pixel data")
            decided = Decision("rule", ("dest",), "because")
            assert made.spool.decisions.record(claim, seen, decided, {}, gathers={"dest": (0.2, 60.0)}).result(10)
            owed[study].add(claim.instance.sop_instance)
        made.start()
        made.until("done", 6)
    assert sorted(map(sorted, (one.instances for one in peer.posted))) == sorted(map(sorted, owed.values()))


@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_one_poisoned_instance_does_not_bury_the_others(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    with WebPeer(refuses_poison(status)) as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=3)
        (bad,) = made.owe("dest", data=POISON)
        made.owe("dest", count=3)
        made.start()
        made.until("done", 6)
        (left,) = [row for row in made.rows() if row.state == "open"]
        assert left.instance_id == bad.id
        assert str(left.reason).startswith(f"answered {status}")
    assert counts(peer)[0] == 7
    assert counts(peer)[1:] == [1] * 7, "each alone"
    assert bad.sop_instance in peer.posted[4].instances


def test_a_poisoned_instance_is_buried_in_the_end_and_the_circuit_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    with WebPeer(refuses_poison(400)) as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=3)
        (bad,) = made.owe("dest", data=POISON)
        made.start()
        (row,) = made.until("buried")
        made.until("done", 3)
        assert row.instance_id == bad.id
        assert made.events("circuit opened") == []


def test_what_the_server_names_as_failed_is_asked_again_alone_and_the_rest_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)

    def say(got: Request) -> tuple[int, Any]:
        good = [uid for uid, file in zip(got.instances, got.files, strict=True) if POISON not in file]
        bad = [uid for uid in got.instances if uid not in good]
        return (202 if good else 409), stored(*good) | (failed(bad[0], 0xA900) if bad else {})

    with WebPeer(serving(say)) as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=2)
        made.owe("dest", data=POISON)
        made.owe("dest", count=2)
        made.start()
        made.until("done", 4)
        wait_for(lambda: "open" in [row.state for row in made.rows() if row.reason])
        (left,) = [row for row in made.rows() if row.state == "open"]
    assert (left.status, left.reason) == (0xA900, "answered 0xA900 (the data set does not match its SOP class)")
    assert counts(peer) == [5, 1]


@pytest.mark.parametrize(
    "answer",
    [
        lambda got: (200, b""), lambda got: (202, b""), lambda got: (409, stored(*got.instances)),
        lambda got: (200, stored("9.9.9")), lambda got: (200, {}), lambda got: (200, b"{"),
        lambda got: (200, stored(*got.instances) | failed(None, 0xA700)),
        lambda got: (204, b""),
    ],
)  # fmt: skip
def test_what_is_not_named_as_stored_is_not_known_to_have_arrived(answer: Any, tmp_path: Path) -> None:
    def say(got: Request) -> tuple[int, Any]:
        return answer(got) if len(got.instances) > 1 else (200, stored(*got.instances))

    with WebPeer(serving(say)) as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=4)
        made.start()
        made.until("done", 4)
        assert counts(peer) == [4, 1, 1, 1, 1]
        made.owe("dest", count=3)
        made.until("done", 7)
        assert counts(peer)[5:] == [1, 1, 1], "a server that cannot take several is not sent several for a while"


def test_what_an_answer_leaves_out_is_asked_again_alone(tmp_path: Path) -> None:
    def say(got: Request) -> tuple[int, Any]:
        return 200, stored(*got.instances[:2]) if len(got.instances) > 2 else stored(*got.instances)

    with WebPeer(serving(say)) as peer, waiting(tmp_path, peer) as made:
        owed = made.owe("dest", count=4)
        made.start()
        made.until("done", 4)
        assert [one.instances for one in peer.posted[1:]] == [[owed[2].sop_instance], [owed[3].sop_instance]]


def test_a_cut_in_the_middle_of_several_loses_none(tmp_path: Path) -> None:
    def cuts(talk: Talk) -> None:
        talk.head()

    with WebPeer(scripts=[cuts]) as peer, waiting(tmp_path, peer) as made:
        owed = made.owe("dest", count=5)
        made.start()
        made.until("done", 5)
        assert made.events("circuit opened") == []
    assert sorted(uid for one in peer.posted for uid in one.instances) == sorted(one.sop_instance for one in owed)


def test_two_versions_of_one_instance_never_go_together(tmp_path: Path) -> None:
    with WebPeer() as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", data=b"one.", sop_instance="1.2.3.4")
        made.owe("dest", data=b"two.", sop_instance="1.2.3.4")
        made.owe("dest")
        made.start()
        made.until("done", 3)
    assert counts(peer) == [1, 2]


def test_what_has_failed_before_goes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with WebPeer() as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=3)
        (first, *rest) = made.spool.deliveries.claim("dest", 3)
        for one in (first, *rest):
            made.spool.deliveries.retry(one, 0.0, "failed", tried=one is first).result(10)
        made.start()
        made.until("done", 3)
    assert counts(peer) == [1, 2]


def test_a_blob_that_has_changed_is_buried_and_the_others_go_together(tmp_path: Path) -> None:
    with WebPeer() as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=2)
        (bad,) = made.owe("dest")
        made.owe("dest", count=2)
        path = next(path for path in (tmp_path / "spool").rglob(f"{bad.id}*"))
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        made.start()
        (row,) = made.until("buried")
        made.until("done", 4)
    assert row.reason == "the blob has changed on disk since it was received (digest)"
    assert counts(peer) == [4]


def test_a_refused_transfer_syntax_is_transcoded_alone(tmp_path: Path) -> None:
    transcoded: list[Instance] = []
    script = serving(lambda got: (415, b"") if J2K.encode() in got.body else (200, stored(*got.instances)))
    with WebPeer(script) as peer, waiting(tmp_path, peer, natively(transcoded, tmp_path / "copy")) as made:
        made.owe("dest", count=2)
        made.owe("dest", transfer_syntax=J2K)
        made.start()
        rows = made.until("done", 3)
    assert sorted(str(row.reason) for row in rows) == ["", "", f"transcoded without loss to {EXPLICIT}"]
    assert len(transcoded) == 1


def test_a_warning_is_kept_with_each(tmp_path: Path) -> None:
    script = serving(lambda got: (202, stored(*got.instances, warning=0xB007)))
    with WebPeer(script) as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=3)
        made.start()
        rows = made.until("done", 3)
    assert {row.status for row in rows} == {0xB007}
    assert counts(peer) == [3]


def test_a_server_that_does_not_accept_the_credentials_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    with WebPeer(answering(401)) as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=5)
        made.start()
        wait_for(made.is_open)
        assert counts(peer) == [5]
        assert made.states() == ["open"] * 5


def test_an_unforeseen_failure_is_that_of_one_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> list[Outcome]:
        raise AssertionError

    monkeypatch.setattr(StowSender, "store_together", fails)
    with WebPeer() as peer, waiting(tmp_path, peer) as made:
        made.owe("dest", count=3)
        made.start()
        made.until("done", 3)
    assert counts(peer) == [1, 1, 1]


def test_files_are_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[int] = []

    def sent(self: _Wire, data: bytes) -> None:
        pieces.append(len(data))
        real(self, data)

    real = _Wire.sendall
    monkeypatch.setattr("router.forward.http._Wire.sendall", sent)
    path = tmp_path / "blob.dcm"
    path.write_bytes(b"head" + DATA + bytes(3 * PIECE))
    files = [StoredFile(path, 4, path.stat().st_size - 4, DX, f"1.2.{n}", EXPLICIT) for n in range(4)]
    with WebPeer() as peer:
        sender = StowSender(peer.destination())
        assert [one and one.fate for one in sender.store_together(files)] == [Fate.DONE] * 4
        sender.release()
    assert {file[-3 * PIECE - len(DATA) :] for file in peer.posted[0].files} == {DATA + bytes(3 * PIECE)}
    assert max(pieces) == PIECE


def test_a_habit_is_changed_only_if_alone_it_goes() -> None:
    habit = Habit()
    habit.went(0)
    habit.went_alone(arrived=False)
    habit.went_alone(arrived=True)
    assert not habit.alone(), "the server was at fault, and not the request"
    habit.went(2)
    habit.went_alone(arrived=True)
    assert not habit.alone()
    habit.went(0)
    habit.went_alone(arrived=True)
    assert habit.alone()


def told(status: int, body: Any, *uids: str, **more: Any) -> list[Outcome | None]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return stored_of_answer(Answer(status, more.pop("media_type", JSON), text, **more), uids)


def test_each_answer_in_an_answer_counts_for_its_own_instance() -> None:
    done = Outcome(Fate.DONE, status=0)
    assert told(200, stored("1.2", "1.3"), "1.2", "1.3") == [done, done]
    assert told(200, [stored("1.3")], "1.2", "1.3") == [None, done]
    assert told(202, stored("1.2") | failed("1.3", 0xA700), "1.2", "1.3") == [done, None]
    assert told(200, stored("1.2", "1.3") | failed("1.3", 0xA700), "1.2", "1.3") == [done, None]
    assert told(200, stored("1.2", "1.3") | failed(None, 0xA700), "1.2", "1.3") == [None, None]
    assert told(200, stored("1.2", "1.3") | failed("1.2", 1, "0008119A"), "1.2", "1.3") == [None, done]
    assert told(200, {"00081199": element("SQ", {"00081155": element("UI", ["1.2"])})}, "1.2", "1.3") == [None, None]
    assert told(200, stored("1.2"), "1.2", "1.3", is_early=True) == [None, None]
    assert told(200, stored("1.2"), "1.2", "1.3", is_too_long=True) == [None, None]
    assert told(200, stored("1.2"), "1.2", "1.3", media_type="text/html") == [None, None]
    first, second = told(503, b"", "1.2", "1.3", retry_after="7")
    assert (first and first.fate, first and first.after, second) == (Fate.LATER, 7.0, None)
    first, second = told(401, b"", "1.2", "1.3")
    assert (first and first.sign, second) == (Sign.REFUSED, None)


UIDS = ("1.2", "1.3", "1.4")
ITEM = st.sampled_from([*UIDS, *UIDS, *UIDS, "9", None]).map(lambda uid: {"00081155": element("UI", uid)})
BODY = st.dictionaries(
    st.sampled_from(["00081199", "00081198", "0008119A"]),
    st.lists(ITEM, max_size=4).map(lambda items: {"vr": "SQ", "Value": items}),
)


@given(status=st.sampled_from([200, 200, 202, 409, 503]), body=BODY)
def test_nothing_is_done_that_the_answer_does_not_name(status: int, body: dict[str, Any]) -> None:
    def named(*tags: str) -> set[Any]:
        items = [item for tag in tags for item in body.get(tag, {"Value": []})["Value"]]
        uids = [item.get("00081155") for item in items]
        return {uid["Value"][0] if isinstance(uid, dict) else None for uid in uids}

    done = {uid for uid, one in zip(UIDS, told(status, body, *UIDS), strict=True) if one and one.fate is Fate.DONE}
    bad = named("00081198", "0008119A")
    assert done == (named("00081199") & {*UIDS} - bad if status in (200, 202) and not bad & {None, ""} else set())
