"""What a person may order of a node and its spool; the command line and, later, the web page give the same orders.

An order names no one: who gives it is said beside it, and recorded with what it did. A new order: a dataclass, its
union, `BY_NAME`, a case in `carry_out` (for a model in `Node.carry_out`), and its work in `spool/orders.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, assert_never, get_args, get_type_hints

from router.errors import RouterError
from router.flow import CLASSES

if TYPE_CHECKING:
    from router.spool import Spool

MOST_DELIVERIES = 1000
"""The most deliveries that one order names."""
LONGEST_TEXT = 4096
"""Characters of a text in an order."""
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
    """Send one instance to a destination that its decision did not name, too."""

    instance: str
    destination: str


@dataclass(frozen=True, slots=True)
class Label:
    """What a person says that one instance shows: one of CLASSES."""

    instance: str
    label: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing to a destination."""

    destination: str


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


QueueOrder = Retry | Discard | DecideAgain | SendAlso | Label | Pause | Resume | Wipe
ModelOrder = Promote | RollBack | SetShadow
Order = QueueOrder | ModelOrder | Reload

BY_NAME: dict[str, type[Order]] = {
    "retry": Retry,
    "discard": Discard,
    "decide-again": DecideAgain,
    "send-also": SendAlso,
    "label": Label,
    "pause": Pause,
    "resume": Resume,
    "wipe": Wipe,
    "reload": Reload,
    "promote": Promote,
    "rollback": RollBack,
    "shadow": SetShadow,
}
NAMES = {kind: name for name, kind in BY_NAME.items()}


def parse(name: str, about: Mapping[str, Any]) -> Order:
    """An order from its name and the fields of a JSON object. Raises OrderError: nothing of it is carried out."""
    kind = BY_NAME.get(name)
    if kind is None:
        raise OrderError(f"no such order: use one of {', '.join(BY_NAME)}", 2)
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(about) - set(known)):
        has = f"it has {', '.join(known)}" if known else "it has no fields"
        raise OrderError(f"{name}: unknown field {unknown[0][:LONGEST_WHO]!r}; {has}", 2)
    if missing := [field for field in known if field not in about]:
        raise OrderError(f"{name}: the field {missing[0]} is missing", 2)
    return kind(**{field: _checked(f"{name}: {field}", about[field], hints[field]) for field in known})


def _checked(what: str, value: Any, hint: Any) -> Any:
    """The value of a field as its type asks."""
    if hint == tuple[int, ...]:
        if not isinstance(value, list) or len(value) > MOST_DELIVERIES:
            raise OrderError(f"{what} must be a list of at most {MOST_DELIVERIES} numbers", 2)
        if not all(type(one) is int and 0 <= one < 1 << 63 for one in value):
            raise OrderError(f"{what} must contain only numbers of deliveries", 2)
        return tuple(value)
    if value is None and type(None) in get_args(hint):
        return None
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise OrderError(f"{what} must be a text of at most {LONGEST_TEXT} characters", 2)
    return value


def known(spool: Spool, destinations: Iterable[str]) -> list[str]:
    """The destinations that there are: those of the settings, and those that are gone and still owed something."""
    counts = spool.views.counts()
    return sorted({*destinations, *counts.open, *counts.buried})


def _one_of(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise OrderError(f"no {what} {name[:64]}: use one of {', '.join(names)}", 2)


def carry_out(order: QueueOrder, who: str, spool: Spool, destinations: Iterable[str]) -> dict[str, Any]:
    """Make one change of the queue, in the process that works on the spool: the node, or else the command line.

    Raises OrderError, SpoolError.
    """
    match order:
        case Retry(deliveries):
            return {"changed": spool.orders.retry_now(list(deliveries), who)}
        case Discard(deliveries):
            return {"changed": spool.orders.discard(list(deliveries), who)}
        case DecideAgain(instance):
            if not spool.orders.redecide(instance, who):
                raise OrderError("no such instance, or its blob is gone")
            return {"done": True}
        case SendAlso(instance, destination):
            _one_of("destination", destination, list(destinations))
            if not spool.orders.send_also(instance, destination, who):
                raise OrderError("no such instance, or its blob is gone, or it is owed there already")
            return {"done": True}
        case Label(instance, label):
            _one_of("class", label, CLASSES)
            if not spool.orders.label(instance, label, who):
                raise OrderError("no such instance")
            return {"done": True}
        case Pause(destination) | Resume(destination):
            _one_of("destination", destination, known(spool, destinations))
            (spool.orders.pause if isinstance(order, Pause) else spool.orders.resume)(destination, who)
            return {"done": True}
        case Wipe():
            return {"changed": spool.orders.wipe(who)}
        case _:
            assert_never(order)
