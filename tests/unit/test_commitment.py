"""Storage commitment between pynetdicom's modality and archive: nothing is committed but by the archive's word."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import UID

from router.config.settings import ReportTo
from router.spool import DeliveryState
from tests.unit.committing import (
    COMMITMENT,
    IMPLICIT,
    LOOPBACK,
    Archive,
    Modality,
    ask,
    call_with_report,
    commits,
    committing,
    dataset,
    failures,
    quick,
    references,
    refuses,
    says_nothing,
)
from tests.unit.peer import CT, DX, EXPLICIT, Peer, Talk, wait_for

TRANSACTION = "1.2.3.4.5"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


@pytest.fixture
def modality() -> Iterator[Modality]:
    with Modality().listening() as listening:
        yield listening


@pytest.fixture
def archive() -> Iterator[Archive]:
    with Archive().running() as running:
        yield running


def there(modality: Modality) -> ReportTo:
    return ReportTo(LOOPBACK, modality.own_port)


# -- the whole way


@pytest.mark.parametrize("how", ["same association", "its own", "its own, without role selection"])
def test_the_archives_word_is_passed_on(modality: Modality, archive: Archive, tmp_path: Path, how: str) -> None:
    with committing(tmp_path, archive, there(modality)) as node:
        archive.port = 0 if how == "same association" else node.port
        archive.role = "without" not in how
        node.instance("1.1", "pacs")
        node.instance("1.2", "pacs", "ai")
        assert modality.ask(node.port, TRANSACTION, "1.1", "1.2") == 0
        event_type, information, _ = modality.report()
    assert (event_type, information.TransactionUID) == (1, TRANSACTION)
    assert references(information) == [(DX, "1.1"), (DX, "1.2")]
    assert "FailedSOPSequence" not in information
    ((ours, asked),) = archive.asked
    assert (ours != TRANSACTION, asked) == (True, [(DX, "1.1"), (DX, "1.2")])
    assert archive.statuses == [0]
    assert len(modality.reports) == 1


def test_a_caller_without_an_address_is_told_on_the_association_on_which_it_asked(
    archive: Archive, tmp_path: Path
) -> None:
    modality = Modality()
    with committing(tmp_path, archive, ReportTo()) as node:
        node.instance("1.1", "pacs")
        with modality.associated(node.port) as association:
            for number in range(3):
                assert ask(association, f"1.2.{number}", "1.1") == 0
            wait_for(lambda: len(modality.reports) == 3)
            assert association.send_n_action(dataset("1.9", [(DX, "1.1")]), 1, COMMITMENT, "1.2")[0].Status == 0x0112
    assert {information.TransactionUID for _, information, _ in modality.reports} == {"1.2.0", "1.2.1", "1.2.2"}


def test_a_caller_that_has_gone_with_its_association_is_given_up_visibly(tmp_path: Path) -> None:
    modality = Modality()
    with Archive().running() as archive, committing(tmp_path, archive, ReportTo(), start=False) as node:
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        node.start()
        wait_for(lambda: "commitment given up" in node.events())
    assert modality.reports == []


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_peer_that_knows_one_syntax_is_reported_to_in_it(archive: Archive, tmp_path: Path, syntax: str) -> None:
    with Modality(syntaxes=(syntax,)).listening() as modality, committing(tmp_path, archive, there(modality)) as node:
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        assert (failures(modality.report()[1]), modality.report()[2]) == ({"1.1": 0x0112}, syntax)


# -- off


def refused(port: int) -> bool:
    with Modality().associated(port) as association:
        return not association.is_established and len(association.rejected_contexts) == 1


def test_off_without_an_archive_and_for_whom_no_line_names(
    modality: Modality, archive: Archive, tmp_path: Path
) -> None:
    with committing(tmp_path, archive, there(modality)) as node:
        assert not refused(node.port)
        on = node.current
        pacs = on.destinations["pacs"]
        for changed in (replace(pacs, archive=False), replace(pacs, enabled=False)):
            node.current = replace(on, destinations={"pacs": changed})
            assert refused(node.port), changed
        for accept in (None, (replace(on.node.accept[0], commitment=None),)):  # type: ignore[index]
            node.current = replace(on, node=replace(on.node, accept=accept))
            assert refused(node.port), accept


def test_what_was_allowed_and_is_no_more_is_not_done(modality: Modality, archive: Archive, tmp_path: Path) -> None:
    with committing(tmp_path, archive, there(modality)) as node, modality.associated(node.port) as association:
        node.current = replace(node.current, destinations={"ai": node.current.destinations["ai"]})
        assert ask(association, TRANSACTION, "1.1") == 0x0124


# -- failures


def test_failures_without_asking(modality: Modality, archive: Archive, tmp_path: Path) -> None:
    with committing(tmp_path, archive, there(modality)) as node:
        node.instance("1.1", "ai")
        node.instance("1.2", "pacs", state=DeliveryState.BURIED)
        node.instance("1.3", "pacs")
        node.instance("1.4", "pacs", data=b"one")
        node.instance("1.4", "pacs", data=b"other")
        node.instance("1.5", "pacs", "ai", state=DeliveryState.BURIED)
        with modality.associated(node.port) as association:
            asked = [(DX, f"1.{n}") for n in (0, 1, 2, 4, 5)] + [(CT, "1.3")]
            assert (
                association.send_n_action(dataset(TRANSACTION, asked), 1, COMMITMENT, f"{COMMITMENT}.1")[0].Status == 0
            )
        event_type, information, _ = modality.report()
    assert (event_type, references(information), archive.asked) == (2, [], [])
    assert failures(information) == {
        "1.0": 0x0112, "1.1": 0x0112, "1.2": 0x0110, "1.3": 0x0119, "1.4": 0x0110, "1.5": 0x0110,
    }  # fmt: skip


def test_what_others_sent_under_a_uid_does_not_stand_for_the_callers(
    modality: Modality, archive: Archive, tmp_path: Path
) -> None:
    with committing(tmp_path, archive, there(modality)) as node:
        node.instance("1.1", "ai", data=b"the caller's")
        node.instance("1.1", "pacs", data=b"another's", calling_ae="XRAY_2")
        node.instance("1.2", "pacs", calling_ae="XRAY_1_STORE")
        assert modality.ask(node.port, TRANSACTION, "1.1", "1.2") == 0
        _, information, _ = modality.report()
    assert (failures(information), references(information)) == ({"1.1": 0x0112}, [(DX, "1.2")])


def test_an_archives_failure_is_passed_on(modality: Modality, archive: Archive, tmp_path: Path) -> None:
    archive.answer = refuses
    with committing(tmp_path, archive, there(modality)) as node:
        node.instance("1.1", "pacs")
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        event_type, information, _ = modality.report()
    assert (event_type, failures(information), references(information)) == (2, {"1.1": 0x0112}, [])


def test_what_an_archives_answer_leaves_out_it_has_not_committed(
    modality: Modality, archive: Archive, tmp_path: Path
) -> None:
    archive.answer = lambda transaction, asked: commits(transaction, [asked[0], (CT, asked[1][1])])
    with committing(tmp_path, archive, there(modality)) as node:
        for uid in ("1.1", "1.2"):
            node.instance(uid, "pacs")
        assert modality.ask(node.port, TRANSACTION, "1.1", "1.2") == 0
        _, information, _ = modality.report()
    assert (failures(information), references(information)) == ({"1.2": 0x0110}, [(DX, "1.1")])


def test_an_archive_that_does_not_know_the_service_is_a_failure(
    modality: Modality, archive: Archive, tmp_path: Path
) -> None:
    archive.status = 0x0122
    with committing(tmp_path, archive, there(modality)) as node:
        node.instance("1.1", "pacs")
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        assert failures(modality.report()[1]) == {"1.1": 0x0110}
    assert len(archive.asked) == 1


def test_an_archive_that_is_busy_is_asked_again_under_another_uid(
    modality: Modality, archive: Archive, tmp_path: Path
) -> None:
    archive.status = 0x0213
    with committing(tmp_path, archive, there(modality)) as node:
        node.instance("1.1", "pacs")
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        wait_for(lambda: len(archive.asked) >= 2)
        archive.status = 0
        assert references(modality.report()[1]) == [(DX, "1.1")]
    assert len({transaction for transaction, _ in archive.asked}) == len(archive.asked)


@pytest.mark.parametrize("trouble", ["silent", "gone", "on its way"])
def test_after_the_deadline_it_is_a_failure(modality: Modality, archive: Archive, tmp_path: Path, trouble: str) -> None:
    archive.answer = says_nothing
    if trouble == "gone":
        archive.own_port = 1
    with committing(tmp_path, archive, there(modality), deadline=0.6) as node:
        node.instance("1.1", "pacs", state=None if trouble == "on its way" else DeliveryState.DONE)
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        event_type, information, _ = modality.report()
    assert (event_type, failures(information), references(information)) == (2, {"1.1": 0x0110}, [])
    assert len(archive.asked) == (1 if trouble == "silent" else 0)


def test_what_is_on_its_way_is_waited_for(modality: Modality, archive: Archive, tmp_path: Path) -> None:
    with committing(tmp_path, archive, there(modality)) as node:
        node.instance("1.1", "pacs", state=None)
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        wait_for(lambda: node.tries("XRAY_1") > 1)
        assert (archive.asked, modality.reports) == ([], [])
        node.deliver(DeliveryState.DONE, "pacs")
        assert references(modality.report()[1]) == [(DX, "1.1")]


# -- reports


def test_a_report_that_is_not_taken_is_owed_again(archive: Archive, tmp_path: Path) -> None:
    with Modality(refuse=2).listening() as modality, committing(tmp_path, archive, there(modality)) as node:
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        wait_for(lambda: len(modality.reports) == 3)
        wait_for(lambda: node.spool.commitments.next_due(()) is None)
    assert len(modality.reports) == 3


def test_a_caller_that_never_takes_its_report_is_given_up_visibly(archive: Archive, tmp_path: Path) -> None:
    modality = Modality()
    with committing(tmp_path, archive, ReportTo(LOOPBACK, 1), deadline=0.3) as node:
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        wait_for(lambda: "commitment given up" in node.events())
        assert node.spool.commitments.next_due(()) is None


def test_a_silent_caller_delays_nobody_else(archive: Archive, tmp_path: Path) -> None:
    """Its report hangs; another caller's does not wait for it."""
    heard, go_on = threading.Event(), threading.Event()

    def hang(talk: Talk) -> None:
        talk.read()
        heard.set()
        go_on.wait(60)

    with (
        Peer(hang) as silent,
        Modality("XRAY_2").listening() as other,
        committing(tmp_path, archive, ReportTo(LOOPBACK, silent.port)) as node,
    ):
        lines = node.current.node.accept or ()
        more = replace(lines[0], ae_title="XRAY_2", commitment=there(other))
        node.current = replace(node.current, node=replace(node.current.node, accept=(*lines, more)))
        assert Modality().ask(node.port, TRANSACTION, "1.1") == 0
        assert heard.wait(20)
        assert other.ask(node.port, TRANSACTION, "1.1") == 0
        other.report()
        assert node.tries("XRAY_1") == 0
        go_on.set()


def test_the_same_request_again_is_one_request_while_it_is_open(
    modality: Modality, archive: Archive, tmp_path: Path
) -> None:
    with committing(tmp_path, archive, there(modality), start=False) as node:
        for _ in range(3):
            assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        node.start()
        modality.report()
        wait_for(lambda: node.spool.commitments.next_due(()) is None)
        assert len(modality.reports) == 1
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        wait_for(lambda: len(modality.reports) == 2)


@pytest.mark.parametrize("when", ["asked", "answered"])
def test_a_restart_loses_no_request(modality: Modality, archive: Archive, tmp_path: Path, when: str) -> None:
    """The node goes away between N-ACTION and report, once with a claim that nobody gives back."""
    with committing(tmp_path, archive, there(modality), start=False) as node:
        node.instance("1.1", "pacs")
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        due = node.spool.commitments.claim(())
        assert due is not None
        if when == "answered":
            (row,) = node.spool.commitments.pending(due)
            node.spool.commitments.asked([row.id], "pacs", "2.25.1")
            assert node.spool.commitments.answer(["pacs"], "2.25.1", [(DX, "1.1")], {}, 0x0110)
    assert modality.reports == []
    with committing(tmp_path, archive, there(modality)):
        assert references(modality.report()[1]) == [(DX, "1.1")]
    assert len(archive.asked) == (1 if when == "asked" else 0)


# -- hostile callers


def test_only_the_archive_that_was_asked_is_believed(modality: Modality, archive: Archive, tmp_path: Path) -> None:
    archive.answer = says_nothing
    with committing(tmp_path, archive, there(modality)) as node:
        node.instance("1.1", "pacs")
        assert modality.ask(node.port, TRANSACTION, "1.1") == 0
        wait_for(lambda: archive.asked)
        ((ours, asked),) = archive.asked
        good = dataset(ours, asked)
        assert call_with_report(node.port, "STRANGER", 1, good, role=False) is None
        assert call_with_report(node.port, "XRAY_1", 1, good, role=False) == 0x0124
        assert call_with_report(node.port, "ARCHIVE", 1, dataset("2.25.7", asked)) == 0x0115
        assert call_with_report(node.port, "ARCHIVE", 3, good) == 0x0113
        assert modality.reports == []
        assert call_with_report(node.port, "ARCHIVE", 1, good) == 0
        modality.report()


def test_an_archive_may_not_ask(modality: Modality, archive: Archive, tmp_path: Path) -> None:
    with committing(tmp_path, archive, there(modality)) as node:
        assert Modality("ARCHIVE").ask(node.port, TRANSACTION, "1.1") == 0x0124


@pytest.mark.slow
def test_requests_that_are_none(modality: Modality, archive: Archive, tmp_path: Path) -> None:
    nothing, no_uid = dataset(TRANSACTION, []), dataset(TRANSACTION, [(DX, "1.1")])
    del no_uid.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    no_transaction = dataset(TRANSACTION, [(DX, "1.1")])
    del no_transaction.TransactionUID
    many = dataset(TRANSACTION, [(DX, f"1.{n}") for n in range(10_001)])
    with committing(tmp_path, archive, there(modality)) as node, modality.associated(node.port) as association:
        for information in (nothing, no_uid, no_transaction, many):
            status: Dataset = association.send_n_action(information, 1, COMMITMENT, f"{COMMITMENT}.1")[0]
            assert status.Status == 0x0115
        assert ask(association, TRANSACTION, "1.1", action=2) == 0x0123
        assert ask(association, TRANSACTION, "1.1", instance="1.2") == 0x0112
        assert node.spool.commitments.next_due(()) is None


def test_there_is_a_limit_to_open_requests(
    modality: Modality, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.spool.commitment_rows.MOST_OPEN", 2)
    monkeypatch.setattr("router.association.services.MOST_BYTES", 2000)
    with (
        committing(tmp_path, archive, there(modality), start=False) as node,
        modality.associated(node.port) as association,
    ):
        assert [ask(association, f"1.{n}", "1.1") for n in range(3)] == [0, 0, 0x0213]
        assert ask(association, "1.1", *(f"1.{n}" for n in range(100))) == 0x0213


def test_an_instance_cannot_be_stored_as_a_commitment(modality: Modality, archive: Archive, tmp_path: Path) -> None:
    with committing(tmp_path, archive, there(modality)) as node, modality.associated(node.port) as association:
        instance = Dataset()
        instance.SOPClassUID, instance.SOPInstanceUID = COMMITMENT, "1.2"
        instance.file_meta = Dataset()  # type: ignore[assignment]
        instance.file_meta.TransferSyntaxUID = UID(IMPLICIT)
        instance.ensure_file_meta()
        assert association.send_c_store(instance).Status == 0x0122
