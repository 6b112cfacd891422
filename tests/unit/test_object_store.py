"""The same contract for blobs in a folder and in object stores of two kinds; and an object store that fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from router.classify import Classifier
from router.cli import app
from router.commands.backup import back_up
from router.commands.orphans import look, take_in_orphans
from router.config import load as load_settings
from router.config import shipped
from router.config.settings import ObjectStore, Settings, SpoolSettings
from router.flow import Instance, Seen
from router.forward.delivery import fault
from router.spool import (
    ChangedError,
    Spool,
    SpoolError,
    StoreError,
    engine,
    gate,
    object_orphans,
    objects,
    open_spool,
    taking_in,
)
from router.spool.probe import examine
from router.spool.remote_blobs import RemoteBlobs, key_of
from tests.object_stores import Line, Server, deaf, hangs_up, overloaded, silent, url, write_credentials
from tests.unit.forwarding import Stage as ForwardStage
from tests.unit.peer import Peer, wait_for
from tests.unit.spooling import accept, decide, instance_for, received, sealed, settings_of, stored
from tests.unit.test_classify import Oracle
from tests.unit.test_classify import Stage as ClassifyStage

pytestmark = [pytest.mark.postgresql, pytest.mark.objects]
KINDS = ["folder", "moto", "rclone"]
TICK = 0.05
LIMIT = 8.0
"""Seconds for what has two."""


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest, tmp_path: Path, postgresql: Callable[[], str]) -> SpoolSettings:
    store = None if request.param == "folder" else request.getfixturevalue(request.param).bucket()
    return replace(settings_of(tmp_path / "spool", postgresql()), blobs=store)


def of_another_node(settings: SpoolSettings) -> SpoolSettings:
    """The same database and the same blobs."""
    return replace(settings, path=settings.path.with_name("other")) if settings.blobs else settings


@contextmanager
def opened(settings: SpoolSettings) -> Iterator[Spool]:
    spool = open_spool(settings)
    try:
        yield spool
    finally:
        spool.close(20)


def remote(spool: Spool) -> RemoteBlobs:
    assert isinstance(spool._blobs, RemoteBlobs)
    return spool._blobs


def keys(spool: Spool) -> set[str]:
    """The ids of all objects."""

    async def look() -> set[str]:
        found = remote(spool).objects
        return {key.rpartition("/")[2].partition(".")[0] async for page in found.pages("blobs/") for key, *_ in page}

    return remote(spool).objects.begin(look()).result()


def there(spool: Spool, one: Instance) -> bool:
    """Whether the blob is kept, wherever."""
    return one.id in keys(spool) if spool.settings.blobs else spool.blob(one.id).exists()


def empty_cache(spool: Spool) -> None:
    if spool.settings.blobs:
        while remote(spool).make_room():
            pass


# -- the contract


def test_what_was_stored_is_given_out_unchanged_to_every_node(settings: SpoolSettings) -> None:
    with opened(settings) as spool, opened(of_another_node(settings)) as other:
        one = stored(spool)
        for each in (spool, other):
            with each.local(one) as path:
                assert fault(path, one) == ""
        empty_cache(spool)
        with spool.local(one) as path:
            assert fault(path, one) == ""
        (claim,) = other.decisions.claim(1)
        assert claim.instance == one
        assert other.bring(one).result()
        assert fault(claim.path, one) == ""


def test_equal_bytes_with_open_work_are_merged_on_every_node(settings: SpoolSettings) -> None:
    with opened(settings) as spool, opened(of_another_node(settings)) as other:
        first = accept(spool, b"the same")
        again = accept(other, b"the same")
        assert (again.merged, again.instance_id) == (True, first.instance_id)
        assert not accept(other, b"another").merged
        assert other.views.counts().undecided == 2
        if settings.blobs:
            wait_for(lambda: len(keys(spool)) == 2)


def test_what_has_gone_is_said_to_be_gone(settings: SpoolSettings) -> None:
    with opened(settings) as spool:
        one = stored(spool)
        spool._blobs.remove(one.id)
        assert not there(spool, one)
        with spool.local(one) as path:
            assert not path.exists()


def test_retention_removes_blobs_everywhere(settings: SpoolSettings) -> None:
    with opened(settings) as spool:
        finished, owed = stored(spool, "1.2"), stored(spool, "1.3")
        for to in ((), ("ai",)):
            decide(spool, *to)
        assert spool.retention.remove_all() == 1
        assert (there(spool, finished), there(spool, owed)) == (False, True)
        assert not spool.blob(finished.id).exists()
        assert spool.views.bytes_held() == owed.size


def test_what_was_refused_leaves_nothing(settings: SpoolSettings) -> None:
    with opened(settings) as spool:
        blob = sealed(spool, b"data")
        one = instance_for(blob)
        blob.discard()
        wait_for(lambda: not there(spool, one))
        assert not spool.blob(one.id).exists()


def test_a_blob_that_has_changed_is_never_given_out_as_right(settings: SpoolSettings) -> None:
    with opened(settings) as spool:
        one = stored(spool)
        whole = spool.blob(one.id).read_bytes()
        wrong = whole[:-1] + bytes([whole[-1] ^ 1])
        if settings.blobs:
            found = remote(spool).objects
            found.begin(found.write(key_of(one.id), wrong)).result()
            empty_cache(spool)
            with pytest.raises(ChangedError), spool.local(one):
                pass
            assert there(spool, one)
            assert not spool.blob(one.id).exists()
        else:
            spool.blob(one.id).write_bytes(wrong)
            assert "digest" in fault(spool.blob(one.id), one)


def test_the_next_start_finds_all_work_and_its_blobs(settings: SpoolSettings) -> None:
    with opened(settings) as spool:
        one = stored(spool)
        spool.blob(one.id).with_suffix(".part").write_bytes(b"half")
    with opened(settings) as spool:
        assert spool.views.counts().undecided == 1
        assert not spool.blob(one.id).with_suffix(".part").exists()
        with spool.local(one) as path:
            assert fault(path, one) == ""


# -- of object stores alone


@pytest.fixture
def line(rclone: Server) -> Iterator[Line]:
    with Line(rclone.port) as made:
        yield made


@dataclass(frozen=True)
class Remote:
    settings: SpoolSettings
    store: ObjectStore


@pytest.fixture
def far(
    rclone: Server, line: Line, tmp_path: Path, postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> Remote:
    """A spool whose store is reached by `line`, with short limits."""
    for name, seconds in {"PATIENCE": 2.0, "SMALL": 2.0, "RETRY_WITHIN": 0.2}.items():
        monkeypatch.setattr(objects, name, seconds)
    monkeypatch.setattr(gate, "ASK_EVERY", TICK)
    store = rclone.bucket()
    settings = replace(settings_of(tmp_path / "spool", postgresql()), blobs=line.through(store))
    return Remote(settings, store)


def fetched(line: Line) -> int:
    return sum(request.startswith("GET ") and ".dcm" in request for request in line.requests)


def test_no_byte_is_read_twice_from_the_store(far: Remote, line: Line) -> None:
    with opened(far.settings) as spool, opened(of_another_node(far.settings)) as other:
        one = stored(spool)
        for _ in range(3):
            with spool.local(one):
                pass
        assert fetched(line) == 0
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda _: other.bring(one).result(), range(8)))
        assert fetched(line) == 1
    with opened(of_another_node(far.settings)) as other, other.local(one) as path:
        assert fault(path, one) == ""
        assert fetched(line) == 1


@pytest.mark.parametrize("content", [b"", b"short", None])
def test_what_a_crash_left_in_the_cache_is_believed_only_if_it_is_right(far: Remote, content: bytes | None) -> None:
    with opened(far.settings) as spool:
        one = stored(spool)
    path = spool.blob(one.id)
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)) if content is None else content)
    with opened(far.settings) as spool, spool.local(one) as path:
        assert path.read_bytes() == whole


def test_a_cached_file_that_changes_is_fetched_again(far: Remote) -> None:
    with opened(far.settings) as spool:
        one = stored(spool)
        spool.blob(one.id).write_bytes(b"wrong")
        with spool.local(one) as path:
            assert fault(path, one) != ""
            assert spool.bring_again(one)
            assert fault(path, one) == ""
            empty_cache(spool)
            assert path.exists()
        empty_cache(spool)
        assert not path.exists()


def test_the_cache_is_bounded_and_keeps_what_is_used(far: Remote) -> None:
    settings = replace(far.settings, cache=1000)
    with opened(settings) as spool:
        used = stored(spool, "1.1")
        with spool.local(used) as path:
            others = [stored(spool, f"1.2.{number}") for number in range(5)]
            assert path.exists()
            assert sum(spool.blob(one.id).exists() for one in others) <= 1
        for one in others:
            with spool.local(one) as path:
                assert fault(path, one) == ""


def test_a_full_disk_removes_no_objects(far: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished ones are kept for `spool.keep`. To remove them would make no room on this machine."""
    with opened(far.settings) as spool:
        one = stored(spool)
        decide(spool)  # nowhere: it is finished
        monkeypatch.setattr(spool.space, "lack", lambda more=0: "disk: it is full")
        assert not spool.intake.room()
        assert spool.space.sweep_disk() == 0
        assert keys(spool) == {one.id}
        assert not spool.blob(one.id).exists()


def test_a_server_that_refuses_changes_costs_no_finished_blob(
    settings: SpoolSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows would still promise the blob, to a person or to a study that stays together."""
    with opened(settings) as spool:
        one = stored(spool)
        decide(spool)

        def refused(*_: object) -> int:
            raise SpoolError("read-only")

        monkeypatch.setattr(spool.retention, "remove_finished", refused)
        with pytest.raises(SpoolError, match="read-only"):
            spool.retention.sweep_early()
        assert there(spool, one)


def test_what_another_node_removed_leaves_this_cache_too(far: Remote) -> None:
    with opened(far.settings) as spool, opened(of_another_node(far.settings)) as other:
        finished, owed = stored(spool, "1.2"), stored(spool, "1.3")
        for one in (finished, owed):
            with other.local(one):
                pass
        decide(spool)
        assert spool.retention.remove_all() == 1
        assert other.blob(finished.id).exists()
        other.tidy_up()
        assert (other.blob(finished.id).exists(), other.blob(owed.id).exists()) == (False, True)


FAULTS: dict[str, Callable[[Line], None]] = {
    "silent": lambda line: line.become(silent),
    "deaf": lambda line: line.become(deaf),
    "hangs up": lambda line: line.become(hangs_up),
    "overloaded": lambda line: line.become(overloaded),
    "cut": lambda line: setattr(line, "cut_after", 20_000) or line.break_all(),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_store_that_fails_refuses_in_time_and_loses_nothing(far: Remote, line: Line, name: str) -> None:
    with opened(far.settings) as spool:
        before = stored(spool, "1.1")
        FAULTS[name](line)
        begin = time.monotonic()
        with pytest.raises(StoreError) as caught:
            accept(spool, bytes(200_000), "1.2")
        assert time.monotonic() - begin < LIMIT
        assert "secret" not in str(caught.value)
        assert spool.views.counts().undecided == 1
        wait_for(lambda: bool(spool.trouble_with_blobs))
        with spool.local(before) as path:  # what lies here goes on
            assert fault(path, before) == ""
        line.cut_after = None
        line.become(None)
        wait_for(lambda: not spool.trouble_with_blobs, 10)
        assert not accept(spool, bytes(200_000), "1.2").merged
        spool.tidy_up()


@pytest.mark.slow
def test_a_store_that_takes_only_small_objects_is_told_of(far: Remote, line: Line) -> None:
    """So it is with a quota that is almost used: the node's own small request works, and each instance is refused."""
    with opened(far.settings) as spool:
        line.cut_after = 20_000
        line.break_all()
        for doubted in (False, True):
            with pytest.raises(StoreError):
                accept(spool, bytes(200_000), "1.2")
            wait_for(lambda: not spool.trouble_with_blobs, 10)
            assert bool(spool.doubt_about_blobs) is doubted
        line.cut_after = None
        line.break_all()
        accept(spool, bytes(200_000), "1.2")
        assert spool.doubt_about_blobs == ""


def test_while_the_store_is_known_to_fail_nobody_waits(far: Remote, line: Line) -> None:
    with opened(far.settings) as spool:
        line.become(silent)
        with pytest.raises(StoreError):
            accept(spool, b"first")
        asked = line.connections
        for _ in range(50):
            with pytest.raises(StoreError):
                spool.intake.begin(b"header")
        assert line.connections - asked <= 3


def test_a_store_that_does_not_read_is_no_fault_of_an_instance(far: Remote, line: Line) -> None:
    with opened(far.settings) as spool:
        one = stored(spool)
        empty_cache(spool)
        line.become(silent)
        with pytest.raises(StoreError), spool.local(one):
            pass
        line.become(None)
        wait_for(lambda: not spool.trouble_with_blobs, 10)
        with spool.local(one) as path:
            assert fault(path, one) == ""


def test_bytes_that_change_on_the_way_are_noticed(far: Remote, line: Line) -> None:
    with opened(far.settings) as spool:
        blob = sealed(spool, bytes(100_000))
        one = instance_for(blob)
        spool.intake.accept(blob, one)
        empty_cache(spool)
        line.flip = True
        with pytest.raises(ChangedError), spool.local(one):
            pass
        line.flip = False
        with spool.local(one) as path:
            assert fault(path, one) == ""


def test_wrong_credentials_are_said_in_one_line_and_mended_while_it_runs(
    far: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "CREDENTIALS_FOR", 0.0)
    credentials = tmp_path / "s3.ini"
    write_credentials(credentials)
    settings = replace(far.settings, blobs=replace(far.store, credentials=credentials))
    with opened(settings) as spool:
        write_credentials(credentials, "anotherone")
        with pytest.raises(StoreError, match="credentials are wrong") as caught:
            accept(spool)
        assert "anotherone" not in str(caught.value)
        write_credentials(credentials)
        wait_for(lambda: not spool.trouble_with_blobs, 10)
        assert not accept(spool).merged


def test_a_missing_bucket_is_said_at_the_start(far: Remote) -> None:
    with pytest.raises(StoreError, match="the bucket does not exist"):
        open_spool(replace(far.settings, blobs=replace(far.store, bucket="no-such-bucket")))


def test_a_bucket_of_another_database_is_refused(far: Remote, postgresql: Callable[[], str]) -> None:
    with opened(far.settings) as spool:
        stored(spool)
    with pytest.raises(SpoolError, match="its database is empty or another's"):
        open_spool(replace(far.settings, database=postgresql()))
    with pytest.raises(SpoolError, match="not the place that belongs to"):
        open_spool(replace(far.settings, blobs=replace(far.store, prefix="elsewhere")))


def test_a_bucket_that_is_suddenly_empty_is_no_lost_instance(far: Remote) -> None:
    with opened(far.settings) as spool:
        one = stored(spool)
        empty_cache(spool)
        found = remote(spool).objects
        found.begin(found.delete(["spool-id", key_of(one.id)])).result()
        with pytest.raises(StoreError, match="right bucket"), spool.local(one):
            pass


def test_objects_that_cannot_be_removed_are_removed_later(far: Remote, line: Line) -> None:
    with opened(far.settings) as spool:
        one = stored(spool)
        decide(spool)
        line.become(hangs_up)
        assert spool.retention.remove_all() == 1
        assert remote(spool).unwanted == 1
        spool.tidy_up()
        assert remote(spool).unwanted == 1
        line.become(None)
        wait_for(lambda: not remote(spool)._removing.why, 10)
        spool.tidy_up()
        assert remote(spool).unwanted == 0
        assert not there(spool, one)


def test_an_answer_that_was_lost_is_no_failure(moto: Server, tmp_path: Path, postgresql: Callable[[], str]) -> None:
    """The store has the object from the first try, and refuses to overwrite it at the second."""
    settings = replace(settings_of(tmp_path / "spool", postgresql()), blobs=moto.bucket())
    with opened(settings) as spool:
        blob = sealed(spool, b"data")
        remote(spool).put(blob)
        assert not spool.intake.accept(blob, instance_for(blob)).merged


def test_one_node_for_each_folder(far: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 0.1)
    with opened(far.settings), pytest.raises(SpoolError, match="another node"):
        open_spool(far.settings)


# -- objects without a row


def test_orphans_are_said_kept_and_taken_in_when_a_person_orders_it(far: Remote) -> None:
    with opened(far.settings) as spool:
        known = stored(spool, "1.1")
        orphan, changed = received(spool, "1.2"), received(spool, "1.3")
        found = remote(spool).objects
        found.begin(found.write(key_of(changed.id), b"not a blob")).result()
        found.begin(found.write("blobs/aa/of-somebody-else", b"")).result()
        assert look(far.settings).count == 0  # their rows may still come
        looked = look(far.settings, young=0.0)
        assert {one.instance_id for one in looked.orphans} == {orphan.id, changed.id}
        assert (looked.foreign, looked.missing) == (1, ())
        done = take_in_orphans(far.settings, looked)
        assert done.taken_in == (orphan.id,)
        assert set(done.refused) == {changed.id}
        assert keys(spool) == {known.id, orphan.id, changed.id, "of-somebody-else"}
        assert {claim.instance for claim in spool.decisions.claim(9)} == {known, orphan}
        assert look(far.settings, young=0.0).count == 1


def test_orphans_that_two_take_in_at_once_get_one_row(far: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(far.settings) as spool:
        orphan = received(spool, "1.2")
        looked, results = look(far.settings, young=0.0), []
        take_in_again = taking_in.take_in_again

        def later(connection: sa.Connection, new: list[Instance]) -> None:
            """Somebody else takes it in between the question and the answer."""
            monkeypatch.setattr(object_orphans, "take_in_again", take_in_again)
            results.append(take_in_orphans(far.settings, looked))
            take_in_again(connection, new)

        monkeypatch.setattr(object_orphans, "take_in_again", later)
        results.append(take_in_orphans(far.settings, looked))
        assert [one.taken_in for one in results] == [(orphan.id,), ()]
        assert [claim.instance for claim in spool.decisions.claim(9)] == [orphan]


def test_rows_without_an_object_are_said(far: Remote) -> None:
    with opened(far.settings) as spool:
        one = stored(spool)
        old = f"{0:016x}{one.id[16:]}"
        with psycopg.connect(far.settings.database) as connection:
            connection.execute("UPDATE instance SET id = %s", (old,))
        assert look(far.settings, young=0.0).missing == (old,)


def test_an_object_that_outlived_its_time_is_removed_by_its_row(far: Remote) -> None:
    with opened(far.settings) as spool:
        one = stored(spool)
        with psycopg.connect(far.settings.database) as connection:
            connection.execute("UPDATE instance SET state = 'gone'")
        spool.tidy_up()
        wait_for(lambda: spool.orphans == 0)
        assert not there(spool, one)


def test_a_node_counts_its_orphans(far: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_orphans.look_through, "__kwdefaults__", {"young": 0.0, "also_rows": False})
    with opened(far.settings) as spool:
        received(spool)
        assert spool.orphans is None
        spool.tidy_up()
        wait_for(lambda: spool.orphans == 1)


# -- before a node starts


def test_check_tries_the_store_and_leaves_nothing(far: Remote, rclone: Server) -> None:
    assert [state for state, _ in examine(far.store)] == ["ok", "warning"]
    assert not [path for path in (rclone.folder / "data" / far.store.bucket).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"bucket": "no-such-bucket"}, "cannot be written to: the object store s3://no-such-bucket/router: the bucket"),
        ({"endpoint": "http://127.0.0.1:9"}, "it cannot be reached"),
    ],
)
def test_check_says_what_is_wrong_in_one_line(far: Remote, wrong: dict[str, str], words: str) -> None:
    ((state, text),) = examine(replace(far.store, **wrong))  # type: ignore[arg-type]
    assert state == "failed"
    assert words in text
    assert "\n" not in text


def test_check_knows_wrong_credentials_and_keeps_them_to_itself(far: Remote, tmp_path: Path) -> None:
    write_credentials(tmp_path / "s3.ini", "somethingelse")
    ((state, text),) = examine(replace(far.store, credentials=tmp_path / "s3.ini"))
    assert (state, "credentials are wrong" in text, "somethingelse" in text) == ("failed", True, False)
    (tmp_path / "s3.ini").write_text("aws_access_key_id = a\n")
    ((state, text),) = examine(replace(far.store, credentials=tmp_path / "s3.ini"))
    assert (state, "write a section [default]" in text) == ("failed", True)


def test_a_backup_says_that_it_lacks_the_images(far: Remote, tmp_path: Path) -> None:
    with opened(far.settings) as spool:
        stored(spool)
        file = tmp_path / "routing.yaml"
        file.write_text("")
        settings = Settings(file, None, far.settings, None, None, {}, None)  # type: ignore[arg-type]
        result = back_up(settings, tmp_path / "backup", lambda _: None)
    assert (result.store, result.blobs, result.missing, result.undecided) == (far.store.name, 0, (), 1)
    assert not (tmp_path / "backup" / "cache").exists()


# -- stages that need a blob


def test_a_delivery_waits_for_the_store_and_others_go_on(
    far: Remote, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.forward.worker.STORE_AGAIN", 0.2)
    with Peer() as peer, opened(far.settings) as spool:
        stage = ForwardStage(tmp_path, {"dest": peer.destination(name="dest")})
        stage.spool = spool
        (away,) = stage.owe("dest")
        (here,) = stage.owe("dest")
        remote(spool)._cache.drop(away.id)
        line.become(silent)
        stage.start()
        (done,) = stage.until("done")
        assert done.instance_id == here.id
        wait_for(lambda: bool(spool.trouble_with_blobs))
        (waits,) = (row for row in stage.rows() if row.instance_id == away.id)
        assert (waits.state, waits.tries, stage.is_open()) == ("open", 0, False)
        line.become(None)
        stage.until("done", 2)
        assert [one.data for one in peer.stored] == [b"data set"] * 2
        stage.stop()


def test_a_decision_waits_for_the_store_and_others_go_on(
    far: Remote, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.classify.classifier.STORE_AGAIN", 0.2)
    with opened(far.settings) as spool:
        stage = object.__new__(ClassifyStage)
        stage.spool, stage.oracle, stage.settings = spool, Oracle(), load_settings(shipped(), {})
        stage.classifier = Classifier(spool, stage.oracle, lambda: stage.settings)  # type: ignore[arg-type]
        away, here = stage.receive(b"away", Seen("none")), stage.receive(b"here", Seen("none"))
        remote(spool)._cache.drop(away)
        line.become(silent)
        stage.classifier.start()
        assert stage.decided(here).pixels == "none"
        wait_for(lambda: bool(spool.trouble_with_blobs))
        line.become(None)
        assert stage.decided(away).pixels == "none"
        assert stage.oracle.asked == [b"here", b"away"]
        stage.classifier.stop(time.monotonic() + 5)


def test_a_changed_object_is_decided_without_a_prediction_and_buried(far: Remote, tmp_path: Path) -> None:
    with Peer() as peer, opened(far.settings) as spool:
        stage = ForwardStage(tmp_path, {"dest": peer.destination(name="dest")})
        stage.spool = spool
        (one,) = stage.owe("dest")
        found = remote(spool).objects
        found.begin(found.write(key_of(one.id), bytes(one.offset + one.size))).result()
        remote(spool)._cache.drop(one.id)
        stage.start()
        (row,) = stage.until("buried")
        assert row.reason == "the blob has changed in the object store since it was received (digest)"
        assert peer.stored == []
        assert there(spool, one)
        stage.stop()


def test_the_command_lists_orphans_and_takes_them_in(
    far: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.commands.orphans.look.__kwdefaults__", {"young": 0.0})
    file = tmp_path / "routing.yaml"
    file.write_text(
        f"spool: {{path: {far.settings.path}, database: '{far.settings.database}', blobs: '{url(far.store)}'}}\n"
        "destinations: {ai: {ae_title: AI, host: 127.0.0.1, port: 104}}\nrules: []\notherwise: {send: ai}\n"
    )
    with opened(far.settings) as spool:
        stored(spool, "1.1")
        orphan = received(spool, "1.2")

        def called(*options: str) -> tuple[int, str]:
            done = CliRunner().invoke(app, ["spool", "orphans", "--config", str(file), *options])
            return done.exit_code, done.output

        code, text = called()
        assert code == 0
        assert text.startswith("2 objects, 1 of them without a row\n" + orphan.id)
        assert called("--take-in", "--json")[0] == 2  # nobody was asked
        code, text = called("--take-in", "--json", "--yes")
        said = json.loads(text)
        assert (code, said["orphans"], said["taken_in"], said["refused"]) == (0, 1, [orphan.id], {})
        assert spool.views.counts().undecided == 2
        assert called()[1] == "2 objects, 0 of them without a row\n"


def test_the_command_says_so_where_there_is_no_object_store(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text("destinations: {ai: {ae_title: AI, host: h, port: 104}}\nrules: []\notherwise: {send: ai}\n")
    done = CliRunner().invoke(app, ["spool", "orphans", "--config", str(file)])
    assert (done.exit_code, "each start takes in" in done.output) == (0, True)
