"""The requestor of an association (PS3.8 §7) for storing: connect, C-STORE files, C-ECHO, release."""

from __future__ import annotations

import time
from collections.abc import Sequence

from router.association import dimse
from router.association.connecting import ConnectError, ConnectKind, Established, associate
from router.association.dimse import OPTIONAL_ATTRIBUTES, STORED, Status, response
from router.association.exchange import AssociationLostError, Exchange, Loss, losing
from router.association.pdu import ProtocolError
from router.association.proposing import NATIVE, proposals
from router.association.transfer import Transfer
from router.config.settings import DestinationSettings
from router.dicom.uids import VERIFICATION
from router.flow import StoredFile

MOST_REQUESTS = 16
"""The most requests that a peer may send before it answers ours."""

__all__ = ["AssociationLostError", "ConnectError", "ConnectKind", "Loss", "Requestor", "connect", "proposals"]


class Requestor:
    """An established association. For one thread. After an AssociationLostError only `abort` may be called."""

    def __init__(
        self,
        destination: DestinationSettings,
        established: Established,
        excluded: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self.idle_since = time.monotonic()
        self._least_rate = destination.least_rate
        self._exchange = Exchange(established, destination.response_timeout)
        self._contexts = established.contexts
        alone = {
            (c.abstract_syntax, c.transfer_syntaxes[0]) for c in established.proposed if len(c.transfer_syntaxes) == 1
        }
        self.proposed = excluded | alone | self._contexts.keys()
        """(SOP class, transfer syntax) pairs for which a new association would not help. They were proposed in a
        context of their own, were accepted, or are excluded by the settings."""
        self._declined = 0
        """How many requests of the peer were answered here."""

    @property
    def closed(self) -> bool:
        return self._exchange.closed

    @property
    def accepts_echo(self) -> bool:
        return any(sop_class == VERIFICATION for sop_class, _ in self._contexts)

    def accepts(self, sop_class: str, transfer_syntax: str) -> bool:
        return (sop_class, transfer_syntax) in self._contexts

    def fallback(self, sop_class: str) -> str | None:
        """The native syntax that the peer accepted for a SOP class, if any."""
        return next((syntax for syntax in NATIVE if (sop_class, syntax) in self._contexts), None)

    def store(self, file: StoredFile) -> int:
        """C-STORE (PS3.7 §9.1.1): the DIMSE status of the answer.

        Raises AssociationLostError, and OSError when the file cannot be read.
        """
        context_id = self._contexts[file.sop_class, file.transfer_syntax]
        command: dict[int, int | str] = {
            dimse.AFFECTED_SOP_CLASS: file.sop_class,
            dimse.COMMAND_FIELD: dimse.C_STORE_RQ,
            dimse.MESSAGE_ID: self._exchange.next_message_id(),
            dimse.PRIORITY: 0,
            dimse.DATA_SET_TYPE: dimse.A_DATA_SET,
            dimse.AFFECTED_SOP_INSTANCE: file.sop_instance,
        }
        with file.path.open("rb") as opened, losing():
            self._exchange.send_message(context_id, dimse.encode_command(command))
            early = Transfer(self._exchange, context_id, self._least_rate).send(opened.fileno(), file)
            declined = self._declined
            status = self._answer(dimse.C_STORE_RSP)
            if early and declined == self._declined and _claims_to_have_it(status):
                raise ProtocolError("it answered before the data set was complete")
        self.idle_since = time.monotonic()
        return status

    def echo(self) -> int:
        """C-ECHO (PS3.7 §9.1.5). Raises AssociationLostError."""
        command: dict[int, int | str] = {
            dimse.AFFECTED_SOP_CLASS: VERIFICATION,
            dimse.COMMAND_FIELD: dimse.C_ECHO_RQ,
            dimse.MESSAGE_ID: self._exchange.next_message_id(),
            dimse.DATA_SET_TYPE: dimse.NO_DATA_SET,
        }
        if not self.accepts_echo:
            raise AssociationLostError("the peer refused the presentation context for C-ECHO")
        context_id = next(number for (sop_class, _), number in self._contexts.items() if sop_class == VERIFICATION)
        with losing():
            self._exchange.send_message(context_id, dimse.encode_command(command))
            return self._answer(dimse.C_ECHO_RSP)

    def lost(self) -> bool:
        """Whether the peer has closed or spoken unasked. Such an association cannot be used."""
        return self._exchange.lost()

    def release(self) -> None:
        """A-RELEASE, then close."""
        self._exchange.release()

    def abort(self) -> None:
        """A-ABORT, then close."""
        self._exchange.abort()

    def _answer(self, expected: int) -> int:
        """The status of the answer to the one outstanding message, on any accepted context.

        Some peers answer on another context of the same SOP class. The message ID says what they answer (PS3.7 §6.3).
        """
        deadline = time.monotonic() + self._exchange.limit
        for _ in range(MOST_REQUESTS + 1):
            command, _, context_id = self._exchange.message(deadline)
            if command.field & dimse.RESPONSE:
                return self._exchange.status(command, expected)
            # The peer sends a request before its answer: success for C-ECHO, a refusal for anything else.
            self._declined += 1
            if command.field != dimse.C_CANCEL_RQ:
                status = Status.SUCCESS if command.field == dimse.C_ECHO_RQ else Status.UNRECOGNIZED_OPERATION
                self._exchange.send_message(context_id, response(command, status))
        raise ProtocolError("request after request instead of an answer")


def connect(
    destination: DestinationSettings, calling_ae: str, wanted: Sequence[tuple[str, str]], *, echo: bool = False
) -> Requestor:
    """Open an association with a destination for these (SOP class, transfer syntax) pairs. Raises ConnectError."""
    contexts = proposals(wanted, destination.syntaxes, echo=echo)
    allowed = destination.syntaxes
    excluded = frozenset(pair for pair in wanted if allowed is not None and pair[1] not in allowed)
    return Requestor(destination, associate(destination, calling_ae, contexts), excluded)


def _claims_to_have_it(status: int) -> bool:
    """Whether the status says that the peer has the instance: any success or warning does (PS3.7 annex C)."""
    return status in STORED or status == OPTIONAL_ATTRIBUTES or status >> 12 == 0xB
