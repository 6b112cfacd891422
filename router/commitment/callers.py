"""Who may ask for storage commitment, who may answer, and what becomes of what they send."""

from __future__ import annotations

from collections.abc import Callable

from router.association.dimse import Status
from router.association.refusing import matches
from router.association.services import NormalizedRequest
from router.commitment.data_set import Commitment, DataSetError, decode
from router.config.settings import ReportTo, Settings
from router.dicom.uids import COMMITMENT, COMMITMENT_INSTANCE
from router.flow import Caller
from router.observe import log, safe
from router.spool import SpoolError
from router.spool.commitments import Commitments


def report_to(settings: Settings, caller: Caller) -> ReportTo | None:
    """Where a caller's reports go. None if it may not ask."""
    lines = settings.node.accept or ()
    mine = (line for line in lines if line.commitment and matches(line, caller.calling_ae, caller.peer))
    return next((line.commitment for line in mine), None)


class Callers:
    """Storage Commitment as a `Service` of the node's associations."""

    sop_class = COMMITMENT

    def __init__(self, settings: Callable[[], Settings], commitments: Commitments) -> None:
        self._settings = settings
        self._commitments = commitments
        self._asked_on: dict[tuple[str, str], NormalizedRequest] = {}
        """The requests whose report goes back on their own association, by calling AE title and transaction UID."""

    def allows(self, caller: Caller) -> bool:
        settings = self._settings()
        ours = {to.ae_title for to in settings.archives.values()}
        return bool(ours) and (caller.calling_ae in ours or report_to(settings, caller) is not None)

    def take(self, request: NormalizedRequest, data_set: bytes) -> int:
        if request.sop_instance != COMMITMENT_INSTANCE:
            return Status.NO_SUCH_INSTANCE
        try:
            if request.is_action:
                return self._asked(request, data_set)
            return self.reported(request.caller.calling_ae, request.type_id, data_set, request.transfer_syntax)
        except SpoolError as error:
            log.error("spool", stage="commitment", reason=str(error))
            return Status.PROCESSING_FAILURE

    def _asked(self, request: NormalizedRequest, data_set: bytes) -> int:
        settings, caller = self._settings(), request.caller
        to = report_to(settings, caller)
        if to is None or not settings.archives:
            return Status.NOT_AUTHORIZED
        if request.type_id != 1:
            return Status.NO_SUCH_ACTION
        asked = _read(data_set, request.transfer_syntax)
        if asked is None or not asked.referenced:
            return Status.INVALID_ARGUMENT
        deadline = settings.node.commitment_deadline
        key = (caller.calling_ae, asked.transaction)
        if to.host is None:
            self._asked_on[key] = request  # before another thread can see the request and report on it
        number = self._commitments.add(
            caller, asked.transaction, asked.referenced, deadline, reported_here=to.host is None
        )
        if number is None:
            self.forget(*key)
            return Status.RESOURCE_LIMITATION
        log.info("commitment requested", commitment=number, references=len(asked.referenced), peer=caller.peer,
                 calling_ae=safe(caller.calling_ae))  # fmt: skip
        return Status.SUCCESS

    def asked_on(self, calling_ae: str, transaction: str) -> NormalizedRequest | None:
        """The request of a commitment, if its report goes back on its association and that is still open."""
        request = self._asked_on.get((calling_ae, transaction))
        return None if request is None or request.outbox.is_closed else request

    def forget(self, calling_ae: str, transaction: str) -> None:
        self._asked_on.pop((calling_ae, transaction), None)

    def reported(self, archive_ae: str, event_type: int | None, data_set: bytes, transfer_syntax: str) -> int:
        """Take an archive's answer. Raises SpoolError."""
        ours = [name for name, to in self._settings().archives.items() if to.ae_title == archive_ae]
        if not ours:
            return Status.NOT_AUTHORIZED
        if event_type not in (1, 2):
            return Status.NO_SUCH_EVENT
        said = _read(data_set, transfer_syntax)
        if said is None:
            return Status.INVALID_ARGUMENT
        known = self._commitments.answer(
            ours, said.transaction, said.referenced, said.failed, int(Status.PROCESSING_FAILURE)
        )
        return Status.SUCCESS if known else Status.INVALID_ARGUMENT


def _read(data_set: bytes, transfer_syntax: str) -> Commitment | None:
    try:
        return decode(data_set, transfer_syntax)
    except DataSetError:
        return None
