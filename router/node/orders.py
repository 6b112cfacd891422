"""What a person may order of a node and its spool. The command line and the page give the same orders.

An order names no one: who gives it is said beside it, and recorded with what it did. A new order: a dataclass, its
union, `BY_NAME`, a case in `node/carrying_out.py` (for a model in `Node.carry_out`), and its work in `spool/orders.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_args, get_type_hints

from router.errors import RouterError
from router.flow import Role

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
class EndStudy:
    """Let nothing more of an instance's study follow to a destination."""

    instance: str
    destination: str


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
class NoteTest:
    """Keep in the record that a test image was sent to a destination, and how that ended."""

    destination: str
    error: str
    """Why it did not arrive; empty if it did."""


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


QueueOrder = (
    Retry
    | Discard
    | DecideAgain
    | SendAlso
    | EndStudy
    | Label
    | Pause
    | Resume
    | Wipe
    | Many
    | CancelJob
    | Silence
    | NoteTest
)
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
    "end-study": EndStudy,
    "label": Label,
    "pause": Pause,
    "resume": Resume,
    "wipe": Wipe,
    "many": Many,
    "cancel-job": CancelJob,
    "silence": Silence,
    "note-test": NoteTest,
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
