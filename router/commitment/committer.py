"""The stage: asks archives on behalf of callers, and owes each caller one report. It commits nothing itself.

Each commitment under way has a thread, and each caller has at most one under way. So a silent archive, or a caller that
takes no report, does not delay the commitments of others.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

from router.association.connecting import ConnectError
from router.association.exchange import AssociationLostError
from router.association.services import NormalizedRequest
from router.commitment.association import CommitmentAssociation
from router.commitment.callers import Callers, report_to
from router.commitment.data_set import Commitment, encode, report_of
from router.commitment.judge import PROCESSING_FAILURE, judge
from router.config.settings import DestinationSettings, Settings
from router.observe import log, safe, where
from router.spool import COMMITMENTS, CommitmentState, Spool, SpoolError
from router.spool.commitment_rows import Due, Pending

AT_ONCE = 16
"""The most commitments under way, each with a thread."""
FIRST, LONGEST = 2.0, 300.0
"""Seconds until the next look at a commitment: the first and the longest. They double."""
ASK_AGAIN = 3600.0
"""Seconds after which a silent archive is asked again, under another transaction UID."""
AWAIT_REPORT = 10.0
"""Seconds that an association stays open for the archive's answer. The archive may also open its own for it."""
REPORT_TIMEOUT = 60.0
"""Seconds that a caller may take to answer a report on its own association."""
PASSING = frozenset({PROCESSING_FAILURE, 0x0213})
"""Statuses of an archive's answer to N-ACTION after which it is asked again; any other is a failure of all."""


class Committer:
    """Starts and stops the stage. `callers` is the `Service` for the node's associations."""

    def __init__(self, spool: Spool, settings: Callable[[], Settings], *, asks: bool = True) -> None:
        """`asks`: it asks archives, and sends what any node may send. Otherwise only reports on associations here."""
        self._asks = asks
        self._spool = spool
        self._settings = settings
        self._commitments = spool.commitments
        self.callers = Callers(settings, spool.commitments)
        self._signal = spool.signals.of(COMMITMENTS)
        self._busy: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commitment", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Begin nothing more. Wait until `deadline` (monotonic seconds) for what is under way."""
        self._stopping.set()
        self._signal.set()
        for thread in (self._thread, *self._busy.copy().values()):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            version, wait = self._signal.version, 60.0
            try:
                busy = set(self._busy)
                due = self._commitments.claim(busy, asks=self._asks) if len(busy) < AT_ONCE else None
                if due is not None:
                    thread = threading.Thread(target=self._work, args=(due,), name="commitment", daemon=True)
                    self._busy[due.caller.calling_ae] = thread
                    thread.start()
                    continue
                at = self._commitments.next_due(busy, asks=self._asks)
                wait = (
                    60.0 if at is None or len(busy) >= AT_ONCE else min(60.0, max(0.05, at - self._commitments.now()))
                )
            except SpoolError as error:
                log.error("spool", stage="commitment", reason=str(error))
                wait = 1.0
            except Exception as error:  # without this, nobody would notice that reports have stopped
                log.error("commitment failed", error=where(error))
                wait = 5.0
            self._signal.wait(version, wait)

    def _work(self, due: Due) -> None:
        try:
            if not due.is_answered:
                self._find_answers(due)
            else:
                self._report(due)
        except SpoolError as error:
            log.error("spool", stage="commitment", reason=str(error))
        except Exception as error:  # its claim ends by itself, and it is tried again
            log.error("commitment failed", error=where(error))
        finally:
            del self._busy[due.caller.calling_ae]
            self._signal.set()

    # -- archives --------------------------------------------------------------------------------------------------

    def _find_answers(self, due: Due) -> None:
        """Judge references without an outcome and ask archives about them. Then wait for more, or owe the report."""
        pending = self._commitments.pending(due)
        now = self._commitments.now()
        if pending and now >= due.deadline:
            self._commitments.set_outcomes({row.id: PROCESSING_FAILURE for row in pending})
        elif pending:
            for archive, rows in self._judge(due, pending, now).items():
                if not self._stopping.is_set():
                    self._ask(self._settings().archives[archive], rows)
        if self._commitments.pending(due):
            after = min(FIRST * 2.0 ** min(due.tries, 20), LONGEST, max(0.0, due.deadline - now))
            self._commitments.release(due, after, tries=due.tries + 1)
        else:
            self._commitments.release(due, 0.0, state=CommitmentState.ANSWERED, tries=0)

    def _judge(self, due: Due, pending: list[Pending], now: float) -> dict[str, list[Pending]]:
        """Note what is known without asking. Returns which archive to ask about which references."""
        rows = [row for row in pending if row.asked_at is None or now - row.asked_at > ASK_AGAIN]
        places = self._commitments.places([row.sop_instance for row in rows])
        known: dict[int, int] = {}
        to_ask: dict[str, list[Pending]] = {}
        for row in rows:
            verdict = judge(
                places.get(row.sop_instance, ()), row.sop_class, due.caller.calling_ae, self._settings().archives
            )
            if isinstance(verdict, int):
                known[row.id] = verdict
            elif verdict is not None:
                to_ask.setdefault(verdict, []).append(row)
        self._commitments.set_outcomes(known)
        return to_ask

    def _ask(self, archive: DestinationSettings, rows: list[Pending]) -> None:
        """Send one N-ACTION, written down before, and wait a while for the answer on the same association."""
        uid = f"2.25.{uuid.uuid4().int}"
        ids = [row.id for row in rows]
        self._commitments.asked(ids, archive.name, uid)
        references = tuple((row.sop_class, row.sop_instance) for row in rows)

        def take(event_type: int | None, data_set: bytes, transfer_syntax: str) -> int:
            return self.callers.reported(archive.ae_title, event_type, data_set, transfer_syntax)

        status = None
        try:
            with CommitmentAssociation(archive, self._settings().calling_ae(archive), take_report=take) as association:
                status = association.ask(encode(Commitment(uid, references), association.transfer_syntax))
                if status == 0:
                    # Until the archive has answered on an association of its own, or the node stops.
                    association.await_report(
                        AWAIT_REPORT, lambda: self._stopping.is_set() or self._commitments.is_answered(uid)
                    )
        except (AssociationLostError, ConnectError) as error:
            if status == 0:  # the archive was asked; its answer may still come on another association
                return
            reason = str(error)
        else:
            reason = f"status {status:04x}"
        if status == 0:
            return
        log.warning("archive not asked", destination=archive.name, reason=reason)
        if status is None or status in PASSING:
            self._commitments.not_asked(uid)
        else:
            self._commitments.set_outcomes(dict.fromkeys(ids, PROCESSING_FAILURE))

    # -- callers ---------------------------------------------------------------------------------------------------

    def _report(self, due: Due) -> None:
        """Send one N-EVENT-REPORT. Then the commitment is done, owed again, or given up."""
        settings, caller = self._settings(), due.caller
        about = {"commitment": due.id, "peer": caller.peer, "calling_ae": safe(caller.calling_ae)}
        report = report_of(due.transaction, ((one.reference, one.reason) for one in self._commitments.outcomes(due)))
        reason = self._send(due, report)
        if not reason:
            self._close(due, CommitmentState.DONE)
            log.info("commitment reported", committed=len(report.referenced), failed=len(report.failed), **about)
            return
        to = report_to(settings, caller)
        is_gone = to is None or (to.host is None and self._asked_on(due) is None)
        if is_gone or self._commitments.now() > due.deadline + settings.node.commitment_deadline:
            self._close(due, CommitmentState.GIVEN_UP)
            log.error("commitment given up", reason=reason, **about)
            self._spool.event("commitment given up", reason=reason, peer=caller.peer)
            return
        after = min(FIRST * 2.0 ** min(due.tries, 20), LONGEST)
        log.warning("commitment not reported", reason=reason, again_in_s=round(after), **about)
        self._commitments.release(due, after, state=CommitmentState.ANSWERED, tries=due.tries + 1)

    def _send(self, due: Due, report: Commitment) -> str:
        """Send the report. Returns why the caller has not taken it, or an empty text."""
        settings, event_type = self._settings(), 2 if report.failed else 1
        to = report_to(settings, due.caller)
        if to is None:
            return "the caller may not ask for commitment any more"
        if to.host is None:
            request = self._asked_on(due)
            if request is None:
                return "the caller's association has ended"
            answer = request.report(event_type, encode(report, request.transfer_syntax), REPORT_TIMEOUT)
            return "" if answer == 0 else "no answer" if answer is None else f"status {answer:04x}"
        name = due.caller.calling_ae
        peer = DestinationSettings(name=name, ae_title=name, host=to.host, port=to.port, tls=to.tls)
        try:
            with CommitmentAssociation(peer, settings.node.ae_title) as association:
                status = association.report(event_type, encode(report, association.transfer_syntax))
        except (AssociationLostError, ConnectError) as error:
            return str(error)
        return "" if status == 0 else f"status {status:04x}"

    def _asked_on(self, due: Due) -> NormalizedRequest | None:
        return self.callers.asked_on(due.caller.calling_ae, due.transaction)

    def _close(self, due: Due, state: CommitmentState) -> None:
        self._commitments.close(due, state)
        self.callers.forget(due.caller.calling_ae, due.transaction)
