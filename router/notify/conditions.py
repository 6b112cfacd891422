"""What is wrong, from what was seen: a pure function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from router.config.settings import DAY, GB, HOUR, MINUTE, NotifySettings

LEAST_IMAGES = 50
"""Images with a body part in the header, without which no share of disagreement is told."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a node at one moment. Times are Unix seconds."""

    now: float
    buried: Mapping[str, int] = field(default_factory=dict)
    """Deliveries by destination."""
    circuits: Mapping[str, float] = field(default_factory=dict)
    """By destination whose circuit is open: since when."""
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Open deliveries by destination."""
    last_from: Mapping[str, float] = field(default_factory=dict)
    """By calling AE title: when it last sent something; the start of the node if that is unknown."""
    room: int = 0
    """Bytes that may still come."""
    full_in: float | None = None
    """Seconds until the room is used up; None: nothing comes."""
    certificates: Mapping[str, float] = field(default_factory=dict)
    """By setting: when it expires."""
    inference_down: float = 0.0
    """Seconds for which the model has not been ready."""
    agreed: int = 0
    contradicted: int = 0
    """Images of a day whose header names the part that the pixels show, or another one."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Deliveries of the last hours by destination, whose result is missing."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that holds now. `local`: it is about this machine, and not about all nodes on the spool."""

    condition: str
    about: str
    text: str
    local: bool = False


def troubles(wanted: NotifySettings, seen: Seen) -> Iterator[Trouble]:
    """Everything that people want to be told of and that holds."""
    yield from _destinations(wanted, seen)
    for name, limit in wanted.silent.items():
        silent = seen.now - seen.last_from.get(name, seen.now)
        if silent >= limit:
            yield Trouble("silent", name, f"nothing has come from {name} for {span(silent)}")
    if text := _disk(wanted, seen):
        yield Trouble("disk", "", text, local=True)
    for name, expiry in seen.certificates.items():
        left = expiry - seen.now
        if wanted.certificate is not None and left <= wanted.certificate:
            when = f"expires in {span(left)}" if left > 0 else "has expired"
            yield Trouble("certificate", name, f"the certificate of {name} {when}", local=True)
    if wanted.inference is not None and seen.inference_down >= wanted.inference:
        text = f"the model has not been ready for {span(seen.inference_down)}: images wait for their decision"
        yield Trouble("inference", "", text, local=True)
    images = seen.agreed + seen.contradicted
    if wanted.disagreement is not None and images >= LEAST_IMAGES and seen.contradicted > wanted.disagreement * images:
        part = f"{100 * seen.contradicted / images:.0f} % of {images} images"
        yield Trouble("disagreement", "", f"header and pixels contradict each other in {part} of a day", local=True)


def _destinations(wanted: NotifySettings, seen: Seen) -> Iterator[Trouble]:
    for name, number in seen.buried.items():
        if wanted.buried is not None and number >= wanted.buried:
            yield Trouble("buried", name, f"{_deliveries(number)} buried for {name}, waiting for a person")
    for name, number in seen.missing.items():
        if wanted.result_missing is not None and number >= wanted.result_missing:
            yield Trouble("result_missing", name, f"{name} gave no result for {_deliveries(number)}")
    for name, since in seen.circuits.items():
        if wanted.circuit is not None and seen.now - since >= wanted.circuit:
            wait = f"{_deliveries(seen.waiting.get(name, 0))} waiting"
            yield Trouble("circuit", name, f"{name} has taken nothing for {span(seen.now - since)}, {wait}")


def _deliveries(number: int) -> str:
    return f"{number} {'delivery' if number == 1 else 'deliveries'}"


def _disk(wanted: NotifySettings, seen: Seen) -> str:
    room = f"{seen.room / GB:.1f} GB"
    if wanted.disk is not None and seen.full_in is not None and seen.full_in < wanted.disk:
        return f"the spool has room for {room}: it is full in {span(seen.full_in)} at the rate of the last hour"
    if wanted.room is not None and seen.room < wanted.room:
        return f"the spool has room for only {room}"
    return ""


def span(seconds: float) -> str:
    """A span of time in its largest sensible unit."""
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
