"""The messages of an association in which we are the SCP (PS3.7 §9): fragments in, answers out.

C-ECHO is answered here. The data set of a C-STORE goes fragment by fragment to a sink. N-ACTION and N-EVENT-REPORT go
whole to the service of their presentation context. Every other message gets 0x0211.
No asynchronous window is negotiated, so there is one message at a time. If a peer sends ahead, it is answered in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from router.association import dimse, pdu
from router.association.dimse import Command, Status, response
from router.association.lacks import own_limit
from router.association.negotiation import AgreedContext
from router.association.pdu import Pdv, ProtocolError
from router.association.services import Collected, NormalizedRequest, Outbox, Service
from router.dicom.uids import VERIFICATION
from router.flow import Caller
from router.observe import log, safe, where
from router.observe.metrics import RECEIVED

MOST_UNANSWERED = 64
"""The most messages in a row that need no answer. Their sender does not wait for us, so the number is limited."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ. The UIDs are those of the command set, without padding and unchecked."""

    caller: Caller
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    message_id: int


class Sink(Protocol):
    """Takes the data set of one C-STORE. `finish` or `abandon` is called once, as the last call."""

    def write(self, fragment: memoryview) -> None:
        """Take the next bytes. The view is valid only during the call."""

    def finish(self) -> int:
        """The data set is complete: make it durable, and return the status of the C-STORE-RSP."""

    def abandon(self) -> None:
        """The rest will not come: keep nothing."""


class StoreHandler(Protocol):
    """What the SCP asks of the room that stores. Called from many threads at once."""

    def refuse_association(self) -> bool:
        """True if new associations must be refused for now (disk full, draining)."""

    def refused(self, peer: str, why: str, **about: str) -> None:
        """A connection or association was refused. The log has it already."""

    def begin(self, request: StoreRequest) -> Sink | int:
        """A sink for the data set that follows; or the status of the answer, and the data set is dropped."""


@dataclass(slots=True)
class _Message:
    """The message under way: first its command set, then its data set if the command announces one."""

    context: AgreedContext
    command: bytearray = field(default_factory=bytearray)
    request: Command | None = None
    sink: Sink | None = None
    status: int = Status.SUCCESS
    size: int = 0


class Messages:
    """Takes the PDVs of an association in order and answers each message with `send(context_id, command)`.

    `services` are those that this caller may use, by SOP class. If there are any, there is an outbox. An exception of a
    sink never ends the association: it becomes the status of that instance. A ProtocolError is the peer's fault. The
    association must then be aborted.
    """

    def __init__(
        self,
        caller: Caller,
        contexts: Mapping[int, AgreedContext],
        instance_limit: int,
        handler: StoreHandler,
        send: Callable[[int, bytes], None],
        services: Mapping[str, Service] = MappingProxyType({}),
        outbox: Outbox | None = None,
    ) -> None:
        self._caller = caller
        self._contexts = contexts
        self._limit = instance_limit
        self._handler = handler
        self._send = send
        self._services = services
        self._outbox = outbox
        self._message: _Message | None = None
        self._begun = self._fragments = self._size = 0
        """Messages, fragments and bytes since the association began. They limit tiny fragments over all messages."""
        self._unanswered = 0

    @property
    def under_way(self) -> bool:
        return self._message is not None

    def take(self, pdv: Pdv) -> None:
        """Take one fragment (PS3.8 annex E). All fragments of a message have one context and never interleave."""
        context = self._contexts.get(pdv.context_id)
        if context is None:
            raise ProtocolError("a PDV names a presentation context that was not accepted")
        message = self._message
        if message is not None and message.context is not context:
            raise ProtocolError("a message changes its presentation context", None)
        if pdv.is_command:
            self._take_command(message or _Message(context), pdv)
        elif message is None or message.request is None:
            raise ProtocolError("a data set without a command", None)
        else:
            self._count(pdv)
            self._take_data(message, message.request, pdv)

    def abandon(self) -> None:
        """The association is over: drop the message under way."""
        if self._message is not None:
            self._drop_sink(self._message, self._message.status)
            self._message = None

    def _take_command(self, message: _Message, pdv: Pdv) -> None:
        if message.request is not None:
            raise ProtocolError("a command before the data set of the last one ended", None)
        if len(message.command) + len(pdv.fragment) > dimse.MAX_COMMAND:
            raise ProtocolError("the command set is longer than 64 KiB", None)
        message.command += pdv.fragment
        self._begun += self._message is None
        self._count(pdv)
        self._message = message
        if pdv.is_last:
            message.request = request = dimse.decode_command(message.command)
            self._begin(message, request)
            if not request.has_data_set:
                self._end(message, request)

    def _begin(self, message: _Message, request: Command) -> None:
        """Decide before the data set comes what becomes of the message: a sink, or only a status."""
        match request.field:
            case dimse.C_CANCEL_RQ:
                return
            case dimse.C_ECHO_RQ:
                message.status = (
                    Status.SUCCESS if message.context.abstract_syntax == VERIFICATION else Status.CLASS_NOT_SUPPORTED
                )
            case dimse.C_STORE_RQ:
                self._begin_store(message, request)
            case dimse.N_ACTION_RQ | dimse.N_EVENT_REPORT_RQ if message.context.abstract_syntax in self._services:
                self._begin_normalized(message, request)
            case dimse.N_EVENT_REPORT_RSP if self._outbox and self._outbox.expects_answer:
                return
            case other if other & dimse.RESPONSE:
                raise ProtocolError("a response that was not asked for", None)
            case _:
                message.status = Status.UNRECOGNIZED_OPERATION
        _ = request.message_id  # raises CommandError: without a message ID there can be no answer

    def _begin_store(self, message: _Message, request: Command) -> None:
        sop_class = request.text(dimse.AFFECTED_SOP_CLASS)
        if sop_class != message.context.abstract_syntax or sop_class in (VERIFICATION, *self._services):
            message.status = Status.CLASS_NOT_SUPPORTED
        elif not request.has_data_set:
            message.status = Status.CANNOT_UNDERSTAND
        else:
            instance = request.text(dimse.AFFECTED_SOP_INSTANCE)
            syntax = message.context.transfer_syntax
            store = StoreRequest(self._caller, sop_class, instance, syntax, request.message_id)
            try:
                begun = self._handler.begin(store)
            except Exception as error:
                message.status = self._failed(error)
                return
            message.sink, message.status = (None, begun) if isinstance(begun, int) else (begun, Status.SUCCESS)

    def _begin_normalized(self, message: _Message, request: Command) -> None:
        assert self._outbox is not None
        context, is_action = message.context, request.field == dimse.N_ACTION_RQ
        sop_class, instance, type_id = (
            (dimse.REQUESTED_SOP_CLASS, dimse.REQUESTED_SOP_INSTANCE, dimse.ACTION_TYPE)
            if is_action
            else (dimse.AFFECTED_SOP_CLASS, dimse.AFFECTED_SOP_INSTANCE, dimse.EVENT_TYPE)
        )
        if request.text(sop_class) != context.abstract_syntax:
            message.status = Status.CLASS_NOT_SUPPORTED
            return
        message.sink = Collected(self._services[context.abstract_syntax], NormalizedRequest(
            self._caller, context, is_action, request.text(instance), request.number(type_id), self._outbox,
        ))  # fmt: skip

    def _count(self, pdv: Pdv) -> None:
        self._fragments += 1
        self._size += len(pdv.fragment)
        pdu.check_fragments(self._fragments, self._size, self._begun)

    def _take_data(self, message: _Message, request: Command, pdv: Pdv) -> None:
        message.size += len(pdv.fragment)
        if message.size > self._limit:
            self._drop_sink(message, Status.OUT_OF_RESOURCES)
            if message.size > 2 * self._limit:
                raise ProtocolError("a data set far beyond the limit", None)
        if message.sink is not None:
            try:
                message.sink.write(pdv.fragment)
            except Exception as error:
                self._drop_sink(message, self._failed(error))
        if pdv.is_last:
            self._end(message, request)

    def _end(self, message: _Message, request: Command) -> None:
        """The message is complete: ask the sink for the status, then answer."""
        sink, message.sink, self._message = message.sink, None, None
        if sink is not None:
            try:
                message.status = sink.finish()
            except Exception as error:
                message.status = self._failed(error)
        if request.field == dimse.N_EVENT_REPORT_RSP and self._outbox:
            status = request.number(dimse.STATUS)
            if status is None:
                raise ProtocolError("a response without a status", None)
            self._outbox.answered(status)
        elif request.field == dimse.C_CANCEL_RQ:
            self._unanswered += 1
            if self._unanswered > MOST_UNANSWERED:
                raise ProtocolError("C-CANCEL after C-CANCEL, and nothing to cancel", None)
        else:
            self._unanswered = 0
            if request.field == dimse.C_STORE_RQ:
                RECEIVED.labels(f"{message.status:04x}").inc()
            if message.status != Status.SUCCESS:
                log.warning("refused", status=f"{message.status:04x}", **self._who())
            self._send(message.context.id, response(request, message.status))

    def _drop_sink(self, message: _Message, status: int) -> None:
        sink, message.sink, message.status = message.sink, None, status
        if sink is not None:
            try:
                sink.abandon()
            except Exception as error:
                self._say(error)

    def _say(self, error: Exception) -> None:
        """The failure is ours."""
        errno, lacking = getattr(error, "errno", None), own_limit(error) or None
        log.error("storing failed", error=where(error), errno=errno, reason=lacking, **self._who())

    def _failed(self, error: Exception) -> int:
        """Log the error, and answer with this status. The peer may store the same data set later."""
        self._say(error)
        return Status.OUT_OF_RESOURCES

    def _who(self) -> dict[str, str]:
        return {"peer": self._caller.peer, "calling_ae": safe(self._caller.calling_ae)}
