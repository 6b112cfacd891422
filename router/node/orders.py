"""What a person may order of a node and its spool. The command line and the page give the same orders.

An order names no one: who gives it is said beside it, and recorded with what it did. A new order: a dataclass, its
union, `BY_NAME`, a case in `carry_out` (for a model in `Node.carry_out`), and its work in `spool/orders.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, assert_never, get_args, get_type_hints

from router.errors import RouterError
from router.flow import CLASSES, Role

if TYPE_CHECKING:
    from router.spool import Act, Spool
    from router.spool.find import Filter

MOST_DELIVERIES = 1000
"""The most deliveries that one order names."""
LONGEST_TEXT = 4096
"""Characters of a text in an order."""
LONGEST_RULES = 64 * 1024
"""Characters of rules in an order."""
LATEST = 1e11
"""Unix times in seconds are less than this (year 5138)."""
LONGEST_WHO = 64
"""Characters that are kept of the name of who gives an order."""


class OrderError(RouterError):
    """An order could not be carried out."""

    def __init__(self, message: str, exit_code: int = 1, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self._details = dict(details or {})

    def details(self) -> dict[str, Any]:
        return self._details


@dataclass(frozen=True, slots=True)
class Retry:
    """Try these deliveries at once, buried ones too."""

    deliveries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Discard:
    """Drop these deliveries for good."""

    deliveries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DecideAgain:
    """Decide anew for one instance, by the rules in force now."""

    instance: str


@dataclass(frozen=True, slots=True)
class SendAlso:
    """Send one instance to a destination that its decision did not name, too; with `study`, all of its study."""

    instance: str
    destination: str
    study: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """What a person says that one instance shows: one of CLASSES."""

    instance: str
    label: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing to a destination until a Unix time; 0: until it is resumed."""

    destination: str
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Resume:
    """Send to a paused destination again."""

    destination: str


@dataclass(frozen=True, slots=True)
class Wipe:
    """Remove every blob that is no longer needed, before its time."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Read routing.yaml again."""


@dataclass(frozen=True, slots=True)
class ApplyRules:
    """Put other rules in force: the node writes them into routing.yaml and reads it again."""

    text: str
    """The parts `rules`, `otherwise` and `header_words` of a routing.yaml; what else is in it does not count."""
    comment: str
    """Why, in the person's words; kept with the rules."""
    looked_at: str = ""
    """The fingerprint of the routing.yaml that the person saw; another one is not overwritten. Empty: any."""


@dataclass(frozen=True, slots=True)
class RollBackRules:
    """Put kept rules in force again, by their digest or its beginning; none: those before the ones in force."""

    comment: str
    digest: str = ""
    looked_at: str = ""


@dataclass(frozen=True, slots=True)
class Promote:
    """Let a model of the store serve.

    `before` is a copy of what served, for the way back; `tested` says on what the model was tested. `configured` is the
    model of routing.yaml as who gives the order knows it.
    """

    model: str
    before: str
    tested: str
    configured: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Let the model serve that served before. A second one undoes the first."""

    configured: str


@dataclass(frozen=True, slots=True)
class SetShadow:
    """Let a model of the store shadow; none ends the shadow."""

    model: str | None
    configured: str


@dataclass(frozen=True, slots=True)
class Many:
    """Do something with all that a filter finds: a job that the node works off in the background.

    Fields that are empty or None do not count. The filter's fields are those of `router.spool.find.Filter`.
    """

    act: str
    """One of `router.spool.Act`: retry, discard, move, resend, decide-again."""
    destination: str = ""
    """Where a move goes."""
    reason: str = ""
    """Why, in the person's words; kept in the record."""
    text: str = ""
    since: float | None = None
    until: float | None = None
    class_name: str = ""
    rule: str = ""
    to: str = ""
    """The destination that a move takes from, or that a resend goes to again."""
    calling_ae: str = ""
    peer: str = ""
    state: str = ""
    cause: str | None = None
    """Only what was given up on with this reason."""


@dataclass(frozen=True, slots=True)
class CancelJob:
    """End such a job. What a move or a resend did and was not tried yet is taken back."""

    job: int


@dataclass(frozen=True, slots=True)
class Silence:
    """Notify people of nothing, or not of one condition, for so many seconds; 0 ends that."""

    seconds: float
    condition: str = ""


@dataclass(frozen=True, slots=True)
class AddUser:
    """Let a person use the page. `password` is its Argon2 hash; none: only the proxy's sign-on names this user."""

    name: str
    password: str | None
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoveUser:
    """Take a user's access away, and end its sessions."""

    name: str


@dataclass(frozen=True, slots=True)
class SetPassword:
    """Give a user another password (its Argon2 hash), and end its sessions."""

    name: str
    password: str


@dataclass(frozen=True, slots=True)
class SetRoles:
    """Let a user do these things and no others."""

    name: str
    roles: tuple[str, ...]


QueueOrder = Retry | Discard | DecideAgain | SendAlso | Label | Pause | Resume | Wipe | Many | CancelJob | Silence
ModelOrder = Promote | RollBack | SetShadow
UserOrder = AddUser | RemoveUser | SetPassword | SetRoles
SpoolOrder = QueueOrder | UserOrder
"""What needs the spool alone, so that it can be carried out without a node as well."""
RuleOrder = ApplyRules | RollBackRules
Order = SpoolOrder | ModelOrder | RuleOrder | Reload

BY_NAME: dict[str, type[Order]] = {
    "retry": Retry,
    "discard": Discard,
    "decide-again": DecideAgain,
    "send-also": SendAlso,
    "label": Label,
    "pause": Pause,
    "resume": Resume,
    "wipe": Wipe,
    "many": Many,
    "cancel-job": CancelJob,
    "silence": Silence,
    "reload": Reload,
    "apply-rules": ApplyRules,
    "roll-back-rules": RollBackRules,
    "promote": Promote,
    "rollback": RollBack,
    "shadow": SetShadow,
    "add-user": AddUser,
    "remove-user": RemoveUser,
    "set-password": SetPassword,
    "set-roles": SetRoles,
}
NAMES = {kind: name for name, kind in BY_NAME.items()}


def parse(name: str, about: Mapping[str, Any]) -> Order:
    """An order from its name and the fields of a JSON object. Raises OrderError: nothing of it is carried out."""
    kind = BY_NAME.get(name)
    if kind is None:
        raise OrderError(f"no such order: use one of {', '.join(BY_NAME)}", 2)
    hints = get_type_hints(kind)
    known = {field.name: field.default is MISSING for field in fields(kind)}
    if unknown := sorted(set(about) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has no fields"
        raise OrderError(f"{name}: unknown field {unknown[0][:LONGEST_WHO]!r}; {has}", 2)
    if missing := [field for field, needed in known.items() if needed and field not in about]:
        raise OrderError(f"{name}: the field {missing[0]} is missing", 2)
    longest = {field: LONGEST_RULES if (kind, field) == (ApplyRules, "text") else LONGEST_TEXT for field in about}
    values = {
        field: _checked(f"{name}: {field}", value, hints[field], longest[field]) for field, value in about.items()
    }
    return kind(**values)


def _checked(what: str, value: Any, hint: Any, longest: int) -> Any:
    """The value of a field as its type asks."""
    if hint == tuple[int, ...]:
        if not isinstance(value, list) or len(value) > MOST_DELIVERIES:
            raise OrderError(f"{what} must be a list of at most {MOST_DELIVERIES} numbers", 2)
        if not all(type(one) is int and 0 <= one < 1 << 63 for one in value):
            raise OrderError(f"{what} must contain only numbers of deliveries", 2)
        return tuple(value)
    if hint == tuple[str, ...]:
        if not isinstance(value, list) or not value or not all(one in tuple(Role) for one in value):
            raise OrderError(f"{what} must be a list of {', '.join(Role)}", 2)
        return tuple(value)
    if value is None and type(None) in get_args(hint):
        return None
    if hint in (int, bool):
        return _checked_exactly(what, value, hint)
    if hint is float or float in get_args(hint):
        if type(value) not in (int, float) or not abs(value) < LATEST:
            raise OrderError(f"{what} must be a number of seconds", 2)
        return float(value)
    if not isinstance(value, str) or len(value) > longest:
        raise OrderError(f"{what} must be a text of at most {longest} characters", 2)
    return value


def _checked_exactly(what: str, value: Any, kind: type[int]) -> int:
    """A bool is an int for Python, but not here."""
    if not isinstance(value, kind) or type(value) is not kind or not 0 <= value < 1 << 63:
        raise OrderError(f"{what} must be {'a number' if kind is int else 'true or false'}", 2)
    return value


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
        case DecideAgain() | SendAlso() | Label():
            _of_one(order, who, spool, destinations)
        case Pause(destination, until):
            _refuse_unknown(destination, known(spool, destinations))
            spool.orders.pause(destination, who, max(0.0, until))
        case Resume(destination):
            _refuse_unknown(destination, known(spool, destinations))
            spool.orders.resume(destination, who)
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


def _of_one(order: DecideAgain | SendAlso | Label, who: str, spool: Spool, destinations: Iterable[str]) -> None:
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
