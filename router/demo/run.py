"""The demonstration: the node, five downstream nodes and a modality on loopback; what was sent, seen and received.

The node is the one that `serve` runs, with the routing.yaml that the package ships (or the user's own); only addresses
are replaced by loopback, and for phantoms the model's novelty limit is taken away. Everything else speaks plain
pynetdicom. It ends by itself and cleans up.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from router.config import Settings
from router.config.settings import NodeSettings, SpoolSettings, WebSettings
from router.demo.network import LOOPBACK, Downstream, send
from router.node.node import Node
from router.page import Page
from router.spool import InstanceRow, InstanceState, Spool

SECONDS_FOR_EACH = 30.0


@dataclass(frozen=True, slots=True)
class Picture:
    """Something to send: `drawn` says what it shows where we know (a phantom), else it is empty."""

    path: Path
    name: str
    drawn: str
    sop_instance: str
    digest: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A line of the table: one picture, from sent to arrived."""

    picture: Picture
    status: int | None
    seen: str = ""
    confidence: float | None = None
    rule: str = ""
    owed: tuple[str, ...] = ()
    arrived: tuple[str, ...] = ()
    identical: bool = False
    milliseconds: float | None = None

    @property
    def right(self) -> bool:
        """Stored, and arrived byte for byte at every destination of its decision and nowhere else."""
        return self.status == 0 and bool(self.rule) and sorted(self.owed) == sorted(self.arrived) and self.identical


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs during a demonstration."""

    spool: Spool
    downstream: Sequence[Downstream]
    ae_title: str
    port: int
    web_port: int


@contextmanager
def stage(settings: Settings, folder: Path) -> Iterator[Stage]:
    """Downstream nodes and a node in `folder`, all on loopback; everything ends with the block."""
    downstream = [Downstream(name, d.ae_title) for name, d in settings.destinations.items()]
    node: Node | None = None
    try:
        for one in downstream:
            one.start()
        local = _on_loopback(settings, folder, {one.name: one.port for one in downstream})
        node = Node(local, Page)
        port, web_port = node.start()
        yield Stage(node.spool, downstream, local.node.ae_title, port, web_port)
    finally:
        if node is not None:
            node.stop(5.0)
        for one in downstream:
            if one.port:
                one.stop()


def _on_loopback(settings: Settings, folder: Path, ports: dict[str, int]) -> Settings:
    """The same rules and model; addresses, ports and spool of our own. Nothing outside is reached."""
    return replace(
        settings,
        node=replace(NodeSettings(), address=LOOPBACK, port=0, ae_title=settings.node.ae_title),
        spool=SpoolSettings(path=folder / "spool", reserve=0),
        web=WebSettings(LOOPBACK, 0),
        destinations={
            name: replace(d, host=LOOPBACK, port=ports[name], tls=None, enabled=True)
            for name, d in settings.destinations.items()
        },
        warnings=(),
    )


def phantoms(folder: Path) -> list[Picture]:
    """One DX instance of each phantom."""
    from router.demo.phantoms import PARTS, radiograph
    from router.pixels.wrap import wrap_image

    ages = {"child's chest": "006Y"}
    return [
        picture(wrap_image(radiograph(part), folder / f"{n}.dcm", age=ages.get(part, "045Y")), part, drawn=part)
        for n, part in enumerate(PARTS)
    ]


def without_limit(settings: Settings, folder: Path) -> Settings:
    """With a copy of the model that takes nothing for novel; raises CardError, OSError.

    To a model that knows patients every phantom is a stranger, and strangers go to people: nothing would be seen.
    """
    from router.model.card import Card
    from router.model.load import shipped_model

    copy = folder / "model"
    shutil.copytree(settings.model.path or shipped_model(), copy)
    card = Card.read(copy)
    replace(card, calibration=replace(card.calibration, novelty_limit=math.inf)).write(copy)
    return replace(settings, model=replace(settings.model, path=copy))


def own_files(paths: Sequence[Path], folder: Path) -> tuple[list[Picture], list[str]]:
    """The user's DICOM, PNG and JPEG files as pictures to send, and what could not be used with the reason."""
    from router.commands.classify_files import as_instance
    from router.commands.walking import files

    pictures: list[Picture] = []
    refused: list[str] = []
    for n, path in enumerate(files(paths)):
        try:
            pictures.append(picture(as_instance(path, folder / f"{n}.dcm"), path.name))
        except OSError as error:
            refused.append(f"{path}: {error.strerror or type(error).__name__}")
        except ValueError as error:
            refused.append(f"{path}: {error}")
    return pictures, refused


def picture(path: Path, name: str, drawn: str = "") -> Picture:
    """What is sent, with the digest of its data set. Raises ValueError when it is no DICOM file."""
    from router.commands.send_files import read_meta

    meta = read_meta(path)
    content = path.read_bytes()[meta.offset :]
    return Picture(path, name, drawn, meta.sop_instance, xxh3_128_hexdigest(content))


def show(pictures: Sequence[Picture], on: Stage) -> Iterator[Outcome]:
    """Send each picture as a modality would, and give its line as soon as it is complete."""
    for one in pictures:
        began = time.monotonic()
        status = send([one.path], on.port, called_ae=on.ae_title)[one.path]
        sent = time.monotonic()
        if status != 0:
            yield Outcome(one, status)
            continue
        row = _wait_until_done(on.spool, one.sop_instance, began + SECONDS_FOR_EACH)
        places = [d for d in on.downstream if one.sop_instance in d.arrived]
        digests = [digest for d in places for digest in d.arrived[one.sop_instance]]
        yield Outcome(
            picture=one,
            status=status,
            seen=(row and (row.class_name or row.pixels)) or "",
            confidence=row.confidence if row else None,
            rule=(row and row.rule) or "",
            owed=tuple((row and row.destinations) or ()),
            arrived=tuple(d.name for d in places for _ in d.arrived[one.sop_instance]),
            identical=all(digest == one.digest for digest in digests),
            milliseconds=1000 * (max([*(d.last for d in places), sent]) - began),
        )


def _wait_until_done(spool: Spool, sop_instance: str, deadline: float) -> InstanceRow | None:
    """The instance's row, once it has no open delivery any more (or at the deadline as it then is)."""
    while True:
        rows = [row for row in spool.views.instances(limit=50) if row.sop_instance == sop_instance]
        if rows and rows[0].decided_at and rows[0].state != InstanceState.DECIDED:
            return rows[0]
        if time.monotonic() > deadline:
            return rows[0] if rows else None
        time.sleep(0.01)


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="dicom-router-demo-")
