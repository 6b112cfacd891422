"""A grammar of what peers send: A-ASSOCIATE-RQ and -AC, commands, data sets in PDVs, release, abort; then mutated."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

from tests.fuzz.data_sets import (
    BIG,
    CODINGS,
    CR,
    DEFLATED,
    DX,
    EXPLICIT,
    IMPLICIT,
    SR,
    codestreams,
    compressed,
    data_set,
    uid,
    writer,
)
from tests.fuzz.mutate import LONG_NUMBERS, NUMBERS, mutate

VERIFICATION, COMMITMENT, FIND = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1", "1.2.840.10008.5.1.4.1.2.2.1"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"
APPLICATION = "1.2.840.10008.3.1.1.1"
Contexts = dict[int, tuple[str, str]]
"""Context ID to its abstract syntax and the one transfer syntax that it proposes."""


def item(rng: Random, kind: int, value: bytes, twist: float) -> bytes:
    length = len(value)
    if rng.random() < twist:
        kind, length = (rng.randrange(256), length) if rng.random() < 0.4 else (kind, rng.choice(NUMBERS))
    return struct.pack(">BBH", kind, rng.randrange(256), length % 65536) + value


def pdu(rng: Random, kind: int, body: bytes, twist: float) -> bytes:
    length = len(body)
    if rng.random() < twist:
        kind, length = (rng.randrange(12), length) if rng.random() < 0.4 else (kind, rng.choice(LONG_NUMBERS))
    return struct.pack(">BBL", kind, 0, length) + body


def contexts(rng: Random) -> Contexts:
    """A few that our node takes, and some that it does not; seldom all 128."""
    made: Contexts = {1: (VERIFICATION, IMPLICIT)}
    syntaxes = [*CODINGS, *sorted({frame.syntax for frame in codestreams()})]
    for number in range(3, rng.choice((5, 9, 21, 21, 255)) + 1, 2):
        abstract = rng.choice((DX, DX, DX, CR, SR, COMMITMENT, FIND, "1.2.3"))
        made[number] = (abstract, rng.choice((IMPLICIT, EXPLICIT) if abstract == COMMITMENT else syntaxes))
    return made


def associate(rng: Random, proposed: Contexts, twist: float, *, kind: int = 1) -> bytes:
    """A-ASSOCIATE-RQ (or, as kind 2, -AC) with user information of every sort (PS3.7 annex D.3.3)."""
    items = [item(rng, 0x10, APPLICATION.encode(), twist)]
    for number, (abstract, syntax) in proposed.items():
        inner = item(rng, 0x40, syntax.encode(), twist)
        inner += item(rng, 0x40, rng.choice((EXPLICIT, IMPLICIT, "1.2.3.4")).encode(), twist) * (rng.random() < twist)
        if kind == 1:
            inner = item(rng, 0x30, abstract.encode(), twist) + inner
        head = bytes((number, 0, rng.choice((0, 0, 0, 0, 3)) if kind == 2 else 0, 0))
        items.append(item(rng, 0x20 + kind - 1, head + inner, twist / 4))
    user = [
        item(rng, 0x51, struct.pack(">L", rng.choice((0, 7, 8, 16384, 131072, *LONG_NUMBERS[-2:]))), twist),
        item(rng, 0x52, b"1.2.3", twist),
        item(rng, 0x53, struct.pack(">HH", 1, rng.choice((0, 1, 9))), twist),
        item(rng, 0x54, struct.pack(">H", len(DX)) + DX.encode() + b"\1\1", twist),
        item(rng, 0x56, struct.pack(">H", len(DX)) + DX.encode() + rng.randbytes(6), twist),
        item(rng, 0x58, b"\2\1\0\4user\0\4word", twist),
        item(rng, 0x55, b"MAKER", twist),
        item(rng, rng.randrange(256), rng.randbytes(rng.choice((0, 4, 60))), twist),
    ]
    items.append(item(rng, 0x50, b"".join(rng.sample(user, rng.randint(1, len(user)))), twist))
    if rng.random() < twist:
        rng.shuffle(items)
    titles = rng.choice((b"ROUTER", b"ROUTER", b"R\xff\0", b"")).ljust(16) + b"FUZZ".ljust(16) + bytes(32)
    return pdu(rng, kind, struct.pack(">HH", rng.choice((1, 1, 1, 1, 3, 0)), 0) + titles + b"".join(items), twist / 4)


def command(rng: Random, field: int, twist: float, **elements: int | str) -> bytes:
    """A command set; `elements` by name as in `TAGS`."""
    values: dict[int, bytes] = {0x0100: struct.pack("<H", field)}
    for name, value in elements.items():
        raw = struct.pack("<H", value) if isinstance(value, int) else value.encode()
        values[TAGS[name]] = raw + b"\0" * (len(raw) % 2)
    if rng.random() < 3 * twist:
        values.pop(rng.choice(list(values)))
    if rng.random() < twist:
        values[rng.choice((0x0002, 0x0100, 0x0110, 0x0800, 0x0900, 0x1000))] = rng.randbytes(
            rng.choice((0, 1, 2, 3, 66))
        )
    if rng.random() < twist / 4:
        values[0x5020] = bytes(rng.choice((1000, 65_536, 70_000)))
    parts = b""
    for tag in sorted(values):
        length = rng.choice(LONG_NUMBERS) if rng.random() < twist else len(values[tag])
        parts += struct.pack("<HHL", int(rng.random() < twist / 2), tag, length) + values[tag]
    return struct.pack("<HHLL", 0, 0, 4, len(parts)) + parts


TAGS = {"sop_class": 0x0002, "requested_class": 0x0003, "message": 0x0110, "responded": 0x0120, "priority": 0x0700,
        "data": 0x0800, "status": 0x0900, "instance": 0x1000, "requested_instance": 0x1001, "event": 0x1002,
        "action": 0x1008}  # fmt: skip


def pdvs(rng: Random, context: int, payload: bytes, *, is_command: bool, twist: float) -> list[bytes]:
    """A command or data set in PDVs, each in a P-DATA-TF of its own or some together."""
    step = rng.choice((64, 1024, 16_378, 131_066)) if len(payload) < 60_000 else rng.choice((16_378, 131_066))
    pieces = [payload[at : at + step] for at in range(0, len(payload), step)] or [b""]
    made = []
    for number, piece in enumerate(pieces):
        control = is_command | 2 * (number == len(pieces) - 1)
        length, which = len(piece) + 2, context
        if rng.random() < twist / 2:
            control, length, which = rng.choice(
                ((rng.randrange(256), length, which), (control, rng.choice(LONG_NUMBERS), which), (control, length, 2))
            )
        made.append(struct.pack(">LBB", length, which, control) + piece)
    together = rng.random() < 0.3 and sum(map(len, made)) < 131_072
    return [pdu(rng, 4, body, twist / 4) for body in ([b"".join(made)] if together else made)]


def message(rng: Random, proposed: Contexts, twist: float) -> list[bytes]:
    """One DIMSE message: mostly C-STORE, also C-ECHO, N-ACTION, C-FIND, C-CANCEL, responses, unknown ones."""
    context = rng.choice(list(proposed))
    sop_class, syntax = proposed[context]
    number = rng.randrange(65536)
    stores = [c for c, (name, _) in proposed.items() if name in (DX, CR, SR)]
    kind = rng.choices(("store", "echo", "action", "find", "other"), (8, 2, 2, 1, 1))[0]
    if kind == "store" and stores:
        context = rng.choice(stores) if rng.random() < 0.9 else context
        sop_class, syntax = proposed[context]
        return _store(rng, context, sop_class, syntax, number, twist)
    if kind == "echo":
        raw = command(rng, 0x30, twist, sop_class=VERIFICATION, message=number, data=0x101)
        return pdvs(rng, 1, raw, is_command=True, twist=twist)
    if kind == "action":
        context = next((c for c, (name, _) in proposed.items() if name == COMMITMENT), context)
        raw = command(rng, 0x130, twist, requested_class=COMMITMENT, message=number, data=1, action=rng.choice((1, 2)),
                      requested_instance=WELL_KNOWN)  # fmt: skip
        return [
            *pdvs(rng, context, raw, is_command=True, twist=twist),
            *pdvs(rng, context, _commitment(rng, proposed[context][1], twist), is_command=False, twist=twist),
        ]
    field = 0x20 if kind == "find" else rng.choice((0x0FFF, 0x8001, 0x8030, 0x10, 0x21, 0x100, 0x8100, 0xFFFF, 0))
    raw = command(rng, field, twist, sop_class=sop_class, message=number, priority=0, data=1, status=0)
    sent = pdvs(rng, context, raw, is_command=True, twist=twist)
    return sent + pdvs(rng, context, data_set(rng, syntax, twist), is_command=False, twist=twist)


def _store(rng: Random, context: int, sop_class: str, syntax: str, number: int, twist: float) -> list[bytes]:
    instance = uid(rng) if rng.random() < 1 - twist else rng.choice(("1..2", "1" * 65, "x/../y", "", "\xff" * 8))
    content = _content(rng, syntax, sop_class, instance, twist)
    raw = command(rng, 1, twist / 2, sop_class=sop_class, message=number, priority=0, data=1, instance=instance)
    sent = pdvs(rng, context, raw, is_command=True, twist=twist / 2)
    return sent + pdvs(rng, context, content, is_command=False, twist=twist / 2)


def _content(rng: Random, syntax: str, sop_class: str, instance: str, twist: float) -> bytes:
    """Right at its beginning, so that it is stored, and anything behind; or wrong from the start."""
    if syntax in (IMPLICIT, EXPLICIT, DEFLATED, BIG) or rng.random() < 0.2:
        content = data_set(rng, syntax, 0, sop_class=sop_class, instance=instance)
    else:
        _, pixels = compressed(rng, 0)
        at = pixels.find(b"\x28\0\2\0US")
        content = data_set(rng, EXPLICIT, 0, sop_class=sop_class, instance=instance, pixels=pixels[max(0, at) :])
    if rng.random() < 0.5:
        head = 0 if rng.random() < 3 * twist or syntax == DEFLATED else 160
        content = content[:head] + mutate(rng, content[head:])
    return content


def _commitment(rng: Random, syntax: str, twist: float) -> bytes:
    """The data set of an N-ACTION: a transaction and what is to be committed (PS3.4 annex J.3.2)."""
    out = writer(rng, syntax, twist)
    reference = [out.element(0x00081150, b"UI", DX) + out.element(0x00081155, b"UI", uid(rng)) for _ in range(3)]
    content = out.element(0x00081195, b"UI", uid(rng))
    return content + out.sequence(0x00081199, reference * rng.choice((0, 1, 1, 1, 400)))


def stream(rng: Random, seeds: Sequence[bytes] = ()) -> bytes:
    """Everything that a requestor sends on one connection, mostly a whole association."""
    twist = rng.choice((0, 0, 0, 0.003, 0.02, 0.1))
    proposed = contexts(rng)
    sent = [associate(rng, proposed, twist)]
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        sent += message(rng, proposed, twist)
    sent.append(pdu(rng, rng.choice((5, 5, 5, 7)), bytes(4), twist))
    shuffled = rng.random()
    if shuffled < 0.05:
        rng.shuffle(sent)
    elif shuffled < 0.1:
        sent.insert(rng.randrange(len(sent) + 1), rng.choice(sent))
    elif shuffled < 0.15:
        del sent[rng.randrange(len(sent))]
    elif shuffled < 0.2:
        sent.insert(
            rng.randrange(len(sent) + 1), pdu(rng, rng.randrange(9), rng.randbytes(rng.choice((0, 4, 70))), twist)
        )
    whole = b"".join(sent)
    if rng.random() < 0.4:
        whole = mutate(rng, whole, seeds)
    return whole


def answers(rng: Random) -> bytes:
    """What an acceptor answers to two C-ECHOs, or to an N-ACTION with its own N-EVENT-REPORT, then to a release."""
    twist = rng.choice((0, 0.01, 0.05, 0.2))
    agreed: Contexts = {number: (DX, rng.choice((IMPLICIT, EXPLICIT))) for number in (1, 3, 5)}
    sent = [associate(rng, agreed, twist, kind=2)]
    if rng.random() < 0.1:
        sent = [pdu(rng, rng.choice((3, 7)), bytes((0, rng.randrange(4), rng.randrange(4), rng.randrange(9))), twist)]
    if rng.random() < 0.3:
        sent += _committed(rng, agreed, twist)
    for number in (1, 2):
        raw = command(rng, 0x8030, twist, sop_class=VERIFICATION, responded=number, data=0x101,
                      status=rng.choice((0, 0, 0xA700, 0xB000, 0xC001)))  # fmt: skip
        sent += pdvs(rng, 1, raw, is_command=True, twist=twist)
    sent.append(pdu(rng, rng.choice((6, 6, 6, 5, 7)), bytes(4), twist))
    whole = b"".join(sent)
    return mutate(rng, whole) if rng.random() < 0.4 else whole


def _committed(rng: Random, agreed: Contexts, twist: float) -> list[bytes]:
    """An answer to an N-ACTION, and reports of its own before or behind it."""
    raw = command(rng, 0x8130, twist, sop_class=COMMITMENT, responded=1, data=0x101, status=0, instance=WELL_KNOWN)
    asked = command(rng, 0x0100, twist, sop_class=COMMITMENT, message=1, data=1, instance=WELL_KNOWN, event=1)
    report = pdvs(rng, 1, asked, is_command=True, twist=twist)
    report += pdvs(rng, 1, _commitment(rng, agreed[1][1], twist), is_command=False, twist=twist)
    answer = pdvs(rng, 1, raw, is_command=True, twist=twist)
    return rng.choice((answer + report, report + answer, report + report + answer, answer))
