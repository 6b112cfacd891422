"""Was every promise kept? Compares what senders were told with what arrived, across the crashes between. Pure.

The promises (docs: nothing is lost): an acknowledged instance reaches every destination of its decision and no
other, unchanged; a copy more comes only from a crash of the node or from a sender that sent again; no row of the
spool is without its blob. What is counted here is evidence, so nothing is forgiven that has no cause in the history.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

GONE, DECIDED_WITHOUT_HEADER = "gone", frozenset({"undecodable", "failed"})
"""States and outcomes as the spool writes them: a blob removed after its time; a picture worker that died."""
MAKE_COPIES = frozenset({"node", "server"})
"""What can fail between a delivery and the note of it: inference and pixel workers deliver nothing."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One instance as its sender knows it: `expected` follows from the instance alone.

    `by_header`: the place follows from the data set, which cannot be read where a pixel worker dies over it;
    `otherwise` is then right.
    """

    uid: str
    digest: str
    expected: frozenset[str]
    tries: int
    acknowledged: bool
    by_header: bool = False
    study: str = ""
    leads: frozenset[str] = frozenset()
    """Where the other instances of its study follow it."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One data set that a destination took in whole; `at` is monotonic, in seconds."""

    uid: str
    digest: str
    place: str
    at: float


@dataclass(frozen=True, slots=True)
class Crash:
    """`what` was killed: node, inference or worker. `at` lies after the last arrival of the life that ended.

    Or the database server failed (`server`): from `at` to `until` a delivery may have been sent and not written down.
    """

    what: str
    at: float
    aimed_at: str = ""
    until: float = 0.0

    @property
    def end(self) -> float:
        return max(self.at, self.until)


@dataclass(frozen=True, slots=True)
class SpoolRow:
    """What the spool says of an instance after the last crash; `open_deliveries` counts open and buried ones."""

    uid: str
    digest: str
    state: str
    pixels: str
    destinations: frozenset[str]
    open_deliveries: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts over one history; `faults` has a line for each broken promise, and must be empty."""

    kills: int = 0
    sent: int = 0
    acknowledged: int = 0
    delivered: int = 0
    duplicates: int = 0
    """Copies more than the spool has rows for: made by a crash between delivery and commit."""
    sent_again: int = 0
    """Rows more than one for a UID: its sender had no answer and sent it again."""
    without_header: int = 0
    most_duplicates_of_a_crash: int = 0
    lost: int = 0
    wrong_place: int = 0
    altered: int = 0
    unexplained: int = 0
    undelivered_rows: int = 0
    rows_without_blob: int = 0
    faults: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not self.faults

    def numbers(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if name != "faults"}


@dataclass(slots=True)
class _Findings:
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def broken(self, kind: str, about: str) -> None:
        self.counts[kind] += 1
        self.faults.append(f"{kind.replace('_', ' ')}: {about}")


NOTHING_TOGETHER: Mapping[str, int] = {}


def judge(
    sent: Iterable[Sent],
    arrivals: Iterable[Arrival],
    crashes: Sequence[Crash],
    rows: Iterable[SpoolRow],
    rows_without_blob: Iterable[str] = (),
    otherwise: frozenset[str] = frozenset(),
    claimed: int = 1,
    together: Mapping[str, int] = NOTHING_TOGETHER,
) -> Verdict:
    """Hold a whole history against the promises: sent, arrived, crashed, and what the spool says at the end.

    The spool must be at rest: whatever has not arrived by now is lost. `otherwise` is where a decision without a
    header goes; `claimed` is how many deliveries to one place may be sent and not yet written down when a crash comes,
    and `together` the same for places that take several in one request;
    `rows_without_blob` are ids that any look at the spool found, between crashes or at the end.
    """
    found = _Findings()
    known = {one.uid: one for one in sent}
    by_uid: dict[str, list[SpoolRow]] = defaultdict(list)
    for row in rows:
        by_uid[row.uid].append(row)
    arrived: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
    for arrival in arrivals:
        arrived[arrival.uid, arrival.place].append(arrival)
    owes = _Owes(known, by_uid, otherwise)
    for one in known.values():
        _check_instance(one, by_uid[one.uid], arrived, owes, found)
    blamed = _check_copies(known, by_uid, arrived, crashes, owes, found)
    for (at, place), copies in blamed.items():
        if copies > together.get(place, claimed):
            found.broken("unexplained", f"{copies} duplicates at {place} from the crash at {at:.3f}")
    for uid in by_uid.keys() - known.keys():
        found.broken("wrong_place", f"the spool has {uid}, which nobody sent")
    for row_id in sorted(set(rows_without_blob)):
        found.broken("rows_without_blob", row_id)
    _check_without_header(known, by_uid, crashes, found)
    return Verdict(
        kills=len(crashes),
        sent=len(known),
        acknowledged=sum(one.acknowledged for one in known.values()),
        delivered=sum(1 for copies in arrived.values() if copies),
        most_duplicates_of_a_crash=max(blamed.values(), default=0),
        faults=tuple(found.faults),
        **found.counts,
    )


def _check_instance(
    one: Sent,
    rows: Sequence[SpoolRow],
    arrived: Mapping[tuple[str, str], Sequence[Arrival]],
    owes: _Owes,
    found: _Findings,
) -> None:
    """Acknowledged: there is a row, and its places have it. Stored, acknowledged or not: nothing is owed any more."""
    if one.acknowledged and not rows:
        found.broken("lost", f"{one.uid} was acknowledged, and the spool has no row of it")
    if len(rows) > one.tries:
        found.broken("unexplained", f"{one.uid} was sent {one.tries} times and has {len(rows)} rows")
    found.counts["sent_again"] += max(0, len(rows) - 1)
    for row in rows:
        if row.digest != one.digest:
            found.broken("altered", f"{one.uid} has another digest in the spool")
        if row.open_deliveries or row.state in ("new", "decided"):
            found.broken("undelivered_rows", f"{one.uid} still waits or is buried")
        if row.destinations != places(one, row, owes.otherwise):
            found.broken("wrong_place", f"{one.uid} was decided for {sorted(row.destinations)}")
    owed = frozenset().union(*(owes.of(one, row) for row in rows)) if rows else one.expected
    if one.acknowledged or rows:
        for place in sorted(owed):
            if not arrived.get((one.uid, place)):
                found.broken("lost", f"{one.uid} did not arrive at {place}")


class _Owes:
    """Where each row's instance must go: by its own decision, and behind its study."""

    def __init__(
        self, known: Mapping[str, Sent], by_uid: Mapping[str, Sequence[SpoolRow]], otherwise: frozenset[str]
    ) -> None:
        self.otherwise = otherwise
        self._led: dict[str, frozenset[str]] = defaultdict(frozenset)
        for one in known.values():
            if any(row.pixels not in DECIDED_WITHOUT_HEADER for row in by_uid.get(one.uid, ())):
                self._led[one.study] |= one.leads

    def of(self, one: Sent, row: SpoolRow) -> frozenset[str]:
        """A study is known by its header, so without one nothing follows."""
        follows = self._led[one.study] if row.pixels not in DECIDED_WITHOUT_HEADER else frozenset[str]()
        return places(one, row, self.otherwise) | follows


def places(one: Sent, row: SpoolRow, otherwise: frozenset[str]) -> frozenset[str]:
    """Where its own decision sends an instance, given what became of its pixels and header."""
    return otherwise if one.by_header and row.pixels in DECIDED_WITHOUT_HEADER else one.expected


def _check_copies(
    known: Mapping[str, Sent],
    by_uid: Mapping[str, Sequence[SpoolRow]],
    arrived: Mapping[tuple[str, str], Sequence[Arrival]],
    crashes: Sequence[Crash],
    owes: _Owes,
    found: _Findings,
) -> Counter[tuple[float, str]]:
    """Each copy at its right place and unchanged; each one beyond the rows needs a crash before it."""
    blamed: Counter[tuple[float, str]] = Counter()
    failures = [crash for crash in crashes if crash.what in MAKE_COPIES]
    for (uid, place), copies in arrived.items():
        one = known.get(uid)
        if one is None:
            found.broken("wrong_place", f"{place} got {uid}, which nobody sent")
            continue
        rows = sum(1 for row in by_uid.get(uid, ()) if place in owes.of(one, row))
        if not rows:
            found.broken("wrong_place", f"{uid} arrived at {place}")
        for copy in copies:
            if copy.digest != one.digest:
                found.broken("altered", f"{uid} arrived changed at {place}")
        extra = max(0, len(copies) - max(1, rows))
        between = _crashes_between([copy.at for copy in copies], failures)
        if extra > len(between):
            found.broken("unexplained", f"{uid} arrived {len(copies)} times at {place}: {rows} rows, crashes between")
        found.counts["duplicates"] += extra
        blamed.update((at, place) for at in between[:extra])
    return blamed


def _crashes_between(times: Sequence[float], crashes: Sequence[Crash]) -> list[float]:
    """At most one crash for each copy after the first: the last before it and after the copy before."""
    latest = (
        max((crash.at for crash in crashes if one < crash.end and crash.at <= other), default=None)
        for one, other in pairwise(sorted(times))
    )
    return [at for at in latest if at is not None]


def _check_without_header(
    known: Mapping[str, Sent], by_uid: Mapping[str, Sequence[SpoolRow]], crashes: Sequence[Crash], found: _Findings
) -> None:
    """A worker's death costs the one instance that it was looking at; any three others the one that each interrupted.

    A failure of the database server costs none: it interrupts no picture.
    Of such three only the first can have interrupted several: what was interrupted is asked about alone afterwards.
    """
    blind = sum(row.pixels in DECIDED_WITHOUT_HEADER for uid in known for row in by_uid.get(uid, ()))
    workers = sum(crash.what == "worker" for crash in crashes)
    others = sum(crash.what in ("node", "inference") for crash in crashes)
    found.counts["without_header"] += blind
    if blind > workers + max(0, others - 1) // 2:
        found.broken("unexplained", f"{blind} instances had no picture: {workers} workers killed, {others} others")


def total(verdicts: Iterable[Verdict]) -> Verdict:
    """The sum over several histories."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    most = 0
    for verdict in verdicts:
        counts.update(verdict.numbers())
        faults += verdict.faults
        most = max(most, verdict.most_duplicates_of_a_crash)
    return Verdict(**dict(counts) | {"most_duplicates_of_a_crash": most}, faults=tuple(faults))
