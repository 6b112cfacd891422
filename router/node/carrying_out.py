"""Orders that need the spool alone are carried out here: in the node, or in the command where no node runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, assert_never

from router.flow import CLASSES, Role
from router.node.orders import (
    AddUser,
    CancelJob,
    DecideAgain,
    Discard,
    EndStudy,
    Label,
    Many,
    NoteTest,
    OrderError,
    Pause,
    RemoveUser,
    Resume,
    Retry,
    SendAlso,
    SetPassword,
    SetRoles,
    Silence,
    SpoolOrder,
    UserOrder,
    Wipe,
)

if TYPE_CHECKING:
    from router.spool import Act, Spool
    from router.spool.find import Filter

LONGEST_ERROR = 200
"""Characters that are kept of why a test image did not arrive."""


def known(spool: Spool, destinations: Iterable[str]) -> list[str]:
    """The destinations that there are: those of the settings, and those that are gone and still owed something."""
    counts = spool.views.counts()
    return sorted({*destinations, *counts.open, *counts.buried})


def carry_out(order: SpoolOrder, who: str, spool: Spool, destinations: Iterable[str]) -> dict[str, Any]:
    """Make one change of queue or users, in the process that works on the spool: the node, or else the command line.

    Raises OrderError, SpoolError.
    """
    from router.config.settings import CONDITIONS

    match order:
        case Retry(deliveries):
            return {"changed": spool.orders.retry_now(list(deliveries), who)}
        case Discard(deliveries):
            return {"changed": spool.orders.discard(list(deliveries), who)}
        case Wipe():
            return {"changed": spool.orders.wipe(who)}
        case DecideAgain() | SendAlso() | EndStudy() | Label():
            _of_one(order, who, spool, destinations)
        case Pause() | Resume() | NoteTest():
            _refuse_unknown(order.destination, known(spool, destinations))
            _of_destination(order, who, spool)
        case Many():
            return {"job": _begin(order, who, spool, destinations)}
        case CancelJob(number):
            if not spool.bulk.cancel(number, who):
                raise OrderError("no such job, or it has ended and cannot be taken back: see dicom-router queue jobs")
        case Silence(seconds, condition):
            _refuse_unknown(condition or CONDITIONS[0], CONDITIONS, "condition")
            spool.notices.silence(condition, max(0.0, seconds), who)
        case AddUser() | RemoveUser() | SetPassword() | SetRoles():
            _of_users(order, who, spool)
        case _:
            assert_never(order)
    return {"done": True}


def _of_destination(order: Pause | Resume | NoteTest, who: str, spool: Spool) -> None:
    match order:
        case Pause(destination, until):
            spool.orders.pause(destination, who, max(0.0, until))
        case Resume(destination):
            spool.orders.resume(destination, who)
        case NoteTest(destination, error):
            spool.event("test image sent", None, destination, who=who, error=error[:LONGEST_ERROR])
        case _:
            assert_never(order)


def _of_one(
    order: DecideAgain | SendAlso | EndStudy | Label, who: str, spool: Spool, destinations: Iterable[str]
) -> None:
    """What is ordered for one instance."""
    match order:
        case DecideAgain(instance):
            if not spool.orders.redecide(instance, who):
                raise OrderError("no such instance, or its blob is gone")
        case SendAlso(instance, destination, study):
            _refuse_unknown(destination, list(destinations))
            if study and not spool.orders.send_also(instance, destination, who, study=True):
                raise OrderError("no such instance, it has no decision yet, or its study is not known")
            if not study and not spool.orders.send_also(instance, destination, who):
                raise OrderError("no such instance, or its blob is gone, or it is owed there already")
        case EndStudy(instance, destination):
            if not spool.orders.end_study(instance, destination, who):
                raise OrderError(f"no such instance, or its study does not follow to {destination[:64]}")
        case Label(instance, label):
            _refuse_unknown(label, CLASSES, "class")
            if not spool.orders.label(instance, label, who):
                raise OrderError("no such instance")
        case _:
            assert_never(order)


def _refuse_unknown(name: str, there: Collection[str], what: str = "destination") -> None:
    if name not in there:
        raise OrderError(f"no {what} {name[:64]}: use one of {', '.join(there)}", 2)


def _begin(order: Many, who: str, spool: Spool, destinations: Iterable[str]) -> int:
    """Begin a bulk job; returns its number. Raises OrderError for what cannot be meant."""
    act, wanted = act_and_filter(order)
    if order.to:
        _refuse_unknown(order.to, known(spool, destinations))
    new = order.to if order.act == "resend" else order.destination
    if (order.act in ("move", "resend")) != bool(new):
        raise OrderError("only a move needs a destination to go to", 2)
    if new:
        _refuse_unknown(new, sorted(destinations), "destination to send to")
    if order.act == "move" and new == order.to:
        raise OrderError("a move needs two destinations", 2)
    return spool.bulk.begin(act, wanted, order.destination, who, order.reason)


def act_and_filter(order: Many) -> tuple[Act, Filter]:
    """What the spool is asked. Raises OrderError for an unknown act or state."""
    from router.spool.bulk_rows import Act
    from router.spool.find import Filter, State

    for value, kind, what in ((order.act, Act, "act"), (order.state or State.WAITING, State, "state")):
        if value not in list(kind):
            raise OrderError(f"many: {what} must be one of {', '.join(kind)}", 2)
    return Act(order.act), Filter(
        text=order.text, since=order.since, until=order.until, class_name=order.class_name, rule=order.rule,
        to=order.to, calling_ae=order.calling_ae, peer=order.peer,
        state=State(order.state) if order.state else None, cause=order.cause,
    )  # fmt: skip


def _of_users(order: UserOrder, who: str, spool: Spool) -> None:
    match order:
        case AddUser(name, password, roles):
            spool.users.add(name, password, _known_roles(roles), who)
        case RemoveUser(name):
            spool.users.remove(name, who)
        case SetPassword(name, password):
            spool.users.set_password(name, password, who)
        case SetRoles(name, roles):
            spool.users.set_roles(name, _known_roles(roles), who)
        case _:
            assert_never(order)


def _known_roles(words: Iterable[str]) -> frozenset[Role]:
    return frozenset(role for role in Role if role in words)
