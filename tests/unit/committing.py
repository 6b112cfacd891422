"""What the tests of storage commitment share: a modality and an archive (pynetdicom), and a node's receiving side.

Deliveries are closed by hand, so that each test says itself what an archive has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from pydicom import Dataset
from pynetdicom import AE, build_role, evt

from router.commitment import Committer
from router.config.settings import Accept, DestinationSettings, NodeSettings, ReportTo, Settings, SpoolSettings
from router.flow import Caller, Decision, Instance, Seen
from router.receive import Receiver
from router.spool import DeliveryState, Spool, open_spool
from router.spool.commitment_rows import commitment
from tests.unit.peer import DX, EXPLICIT, wait_for
from tests.unit.receiving import settings

COMMITMENT, PUSH = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
IMPLICIT = "1.2.840.10008.1.2"
LOOPBACK = "127.0.0.1"
SENDER = Caller("XRAY_1", "ROUTER", LOOPBACK)
Answer = Callable[[str, list[tuple[str, str]]], tuple[int, Dataset] | None]


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of hundredths of a second."""
    for name, value in {"FIRST": 0.02, "LONGEST": 0.1, "AWAIT_REPORT": 0.4, "REPORT_TIMEOUT": 2.0}.items():
        monkeypatch.setattr(f"router.commitment.committer.{name}", value)


def dataset(transaction: str, good: list[tuple[str, str]], failed: dict[tuple[str, str], int] | None = None) -> Dataset:
    found = Dataset()
    found.TransactionUID = transaction
    if good:
        found.ReferencedSOPSequence = [_reference(*one) for one in good]
    if failed:
        found.FailedSOPSequence = [_reference(*one, reason) for one, reason in failed.items()]
    return found


def _reference(sop_class: str, uid: str, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    if reason is not None:
        item.FailureReason = reason
    return item


def references(information: Dataset) -> list[tuple[str, str]]:
    sequence = information.get("ReferencedSOPSequence", [])
    return [(str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in sequence]


def commits(transaction: str, asked: list[tuple[str, str]]) -> tuple[int, Dataset]:
    return 1, dataset(transaction, asked)


def refuses(transaction: str, asked: list[tuple[str, str]]) -> tuple[int, Dataset]:
    return 2, dataset(transaction, [], dict.fromkeys(asked, 0x0112))


def says_nothing(transaction: str, asked: list[tuple[str, str]]) -> None:
    return None


@dataclass
class Archive:
    """Answers N-ACTION with `status`, then reports what `answer` says, on the same association or by calling `port`."""

    answer: Answer = commits
    status: int = 0
    port: int = 0
    """Of the node, where it reports on an association of its own; 0: on the one on which it was asked."""
    role: bool = True
    asked: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    own_port: int = 0

    @contextmanager
    def running(self) -> Iterator[Archive]:
        entity = AE("ARCHIVE")
        entity.add_supported_context(COMMITMENT, [EXPLICIT, IMPLICIT])
        entity.add_supported_context(DX, [EXPLICIT, IMPLICIT])
        handlers: list[Any] = [(evt.EVT_N_ACTION, self._action), (evt.EVT_C_STORE, self._store)]
        server: Any = entity.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
        self.own_port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()

    def has(self, transaction: str, asked: list[tuple[str, str]]) -> tuple[int, Dataset]:
        """The answer of an archive that has what it was sent."""
        missing = {one: 0x0112 for one in asked if one[1] not in self.stored}
        return (2 if missing else 1), dataset(transaction, [one for one in asked if one not in missing], missing)

    def _store(self, event: Any) -> int:
        self.stored.add(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _action(self, event: Any) -> tuple[int, None]:
        information = event.action_information
        transaction, asked = str(information.TransactionUID), references(information)
        self.asked.append((transaction, asked))
        said = self.answer(transaction, asked)
        if said is not None and self.status == 0:
            target = self._call if self.port else self._report
            threading.Thread(target=target, args=(event.assoc, *said), daemon=True).start()
        return self.status, None

    def _report(self, association: Any, event_type: int, information: Dataset) -> None:
        time.sleep(0.05)  # pynetdicom must have sent its N-ACTION-RSP
        status, _ = association.send_n_event_report(information, event_type, COMMITMENT, PUSH)
        self.statuses.append(status.get("Status"))

    def _call(self, _: Any, event_type: int, information: Dataset) -> None:
        self.statuses.append(call_with_report(self.port, "ARCHIVE", event_type, information, role=self.role))


def call_with_report(
    port: int, calling_ae: str, event_type: int, information: Dataset, *, role: bool = True
) -> int | None:
    """An association of the archive's own, on which it is the SCP; None where the context is refused."""
    entity = AE(calling_ae)
    entity.add_requested_context(COMMITMENT, [IMPLICIT])
    roles = [build_role(COMMITMENT, scp_role=True)] if role else []
    association = entity.associate(LOOPBACK, port, ext_neg=[*roles], ae_title="ROUTER")
    if not association.is_established:
        return None
    if role:
        assert association.accepted_contexts[0].as_scp
    status, _ = association.send_n_event_report(information, event_type, COMMITMENT, PUSH)
    association.release()
    return cast("int | None", status.get("Status"))


@dataclass
class Modality:
    """Asks for commitment; what is reported to it, on its own port or on the association on which it asked."""

    name: str = "XRAY_1"
    refuse: int = 0
    """So many reports are answered with a failure first."""
    syntaxes: tuple[str, ...] = (EXPLICIT, IMPLICIT)
    reports: list[tuple[int, Dataset, str]] = field(default_factory=list)
    own_port: int = 0

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[Modality]:
        entity = AE(self.name)
        entity.add_supported_context(COMMITMENT, list(self.syntaxes), scu_role=False, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._reported)]
        server: Any = entity.start_server((LOOPBACK, port), block=False, evt_handlers=handlers)
        self.own_port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()

    def _reported(self, event: Any) -> tuple[int, None]:
        assert event.assoc.accepted_contexts[0].as_scu, "no role selection: who reports would be the SCU"
        self.reports.append((event.event_type, event.event_information, str(event.context.transfer_syntax)))
        if self.refuse:
            self.refuse -= 1
            return 0x0110, None
        return 0x0000, None

    @contextmanager
    def associated(self, port: int) -> Iterator[Any]:
        entity = AE(self.name)
        entity.add_requested_context(COMMITMENT)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._reported)]
        association = entity.associate(LOOPBACK, port, ae_title="ROUTER", evt_handlers=handlers)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def ask(self, port: int, transaction: str, *uids: str) -> int:
        with self.associated(port) as association:
            return ask(association, transaction, *uids)

    def report(self) -> tuple[int, Dataset, str]:
        wait_for(lambda: self.reports, 20)
        return self.reports[-1]


def ask(association: Any, transaction: str, *uids: str, action: int = 1, instance: str = PUSH) -> int:
    status, _ = association.send_n_action(
        dataset(transaction, [(DX, uid) for uid in uids]), action, COMMITMENT, instance
    )
    return int(status.Status)


def failures(information: Dataset) -> dict[str, int]:
    return {str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in information.get("FailedSOPSequence", [])}


@dataclass
class Committing:
    """A spool, the receiving side and the stage on it."""

    folder: Path
    current: Settings
    port: int = 0

    def open(self) -> None:
        self.spool: Spool = open_spool(self.current.spool)
        self.committer = Committer(self.spool, lambda: self.current)
        self.receiver = Receiver(lambda: self.current, self.spool.intake, (self.committer.callers,))
        self.port = self.receiver.start()

    def start(self) -> None:
        self.committer.start()

    def close(self) -> None:
        deadline = time.monotonic() + 10
        self.receiver.stop(deadline)
        self.committer.stop(deadline)
        self.spool.close()

    def instance(
        self,
        uid: str,
        *to: str,
        state: DeliveryState | None = DeliveryState.DONE,
        data: bytes = b"data",
        **changes: Any,
    ) -> Instance:
        """One that came, was decided, and whose deliveries are all in a state (None: still open)."""
        blob = self.spool.intake.begin(b"head")
        blob.write(memoryview(data))
        blob.seal()
        values: dict[str, Any] = {
            "id": blob.id, "received_at": time.time(), "caller": replace(SENDER, **changes), "sop_class": DX,
            "sop_instance": uid, "transfer_syntax": EXPLICIT, "offset": blob.offset, "size": blob.size,
            "digest": blob.digest(),
        }  # fmt: skip
        self.spool.intake.accept(blob, Instance(**values))
        (claim,) = self.spool.decisions.claim(1)
        assert self.spool.decisions.record(claim, Seen("none"), Decision("rule", to, "because"), {}).result(10)
        if state is not None:
            self.deliver(state, *to)
        return claim.instance

    def deliver(self, state: DeliveryState, *to: str) -> None:
        for name in to:
            for delivery in self.spool.deliveries.claim(name, 10):
                assert self.spool.deliveries.close(delivery, state).result(10)

    def tries(self, calling_ae: str) -> int:
        """Of the one commitment that a caller has asked for."""
        query = sa.select(commitment.c.tries).where(commitment.c.calling_ae == calling_ae)
        return self.spool.database.ask(lambda c: int(c.execute(query).scalar_one()))

    def events(self) -> list[str]:
        return [event.kind for event in self.spool.views.events(limit=1000)]


@contextmanager
def committing(
    folder: Path, archive: Archive, report: ReportTo | None, *, deadline: float = 3600.0, start: bool = True,
    **more: DestinationSettings,
) -> Iterator[Committing]:  # fmt: skip
    """A node that has one archive, `pacs`; whatever calls as XRAY_1 may ask it, and is reported to at `report`."""
    node = NodeSettings(
        address=LOOPBACK, port=0, artim=5.0, idle=10.0, commitment_deadline=deadline,
        accept=(Accept("XRAY_1", None, report), Accept("ARCHIVE"), Accept("STRANGER")),
    )  # fmt: skip
    pacs = DestinationSettings("pacs", "ARCHIVE", LOOPBACK, archive.own_port, archive=True, connect_timeout=5.0,
                               response_timeout=5.0)  # fmt: skip
    other = DestinationSettings("ai", "AI", LOOPBACK, 1)
    destinations = {"pacs": pacs, "ai": other} | more
    current = replace(settings(node), spool=SpoolSettings(path=folder / "spool", reserve=0), destinations=destinations)
    stage = Committing(folder, current)
    stage.open()
    if start:
        stage.start()
    try:
        yield stage
    finally:
        stage.close()
