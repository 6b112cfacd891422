"""Both ends of a node in one process that outlives it: senders that note every answer, sinks that note every arrival.

An instance is a few kB with 32 x 24 pixels, made by exchanging fixed-length values in one template, so that making it
costs nothing and its right places follow from it: from its calling AE title, or from its StationName.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian
from xxhash import xxh3_128

from router.association.messages import StoreRequest
from router.association.requestor import AssociationLostError, ConnectError, Requestor, connect
from router.association.server import AssociationServer
from router.config.settings import (
    DestinationSettings,
    ModelSettings,
    NodeSettings,
    Settings,
    SpoolSettings,
    WebSettings,
)
from router.decide import Otherwise, RuleTable
from router.flow import StoredFile
from tests.chaos.history import Arrival, Sent
from tests.unit.webpeer import Talk, WebPeer, stored

Note = Callable[[Arrival], None]
PLACES = ("one", "two", "three")
WAYS: dict[str, tuple[str, ...]] = {
    "SEND_1": ("one",),
    "SEND_2": ("two",),
    "SEND_3": ("three",),
    "SEND_12": ("one", "two"),
    "SEND_23": ("two", "three"),
}
"""A word in the calling AE title or the StationName, and where it sends. No destination has such a title, or the node
would not send back to where an instance came from."""
OTHERWISE = frozenset({"three"})
SOP_CLASS, SYNTAX = "1.2.840.10008.5.1.4.1.1.1.1", str(ExplicitVRLittleEndian)
REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
"""Comprehensive SR: what the AI answers."""
UID_MARK, STUDY_MARK, STATION_MARK = "2.25." + "7" * 39, "2.25." + "8" * 39, "STATIONMARK "
IMAGE_MARK = "2.25." + "6" * 39
"""In a report: the image that it is about."""
NOBODY = "NOBODY"
"""A StationName that no rule knows."""
MOST_OF_STUDY = 8
"""Instances of a study, where studies stay together."""
WEB = "three"
"""The place that can be a web server."""
AI, PACS = "one", "two"
"""The place that can be an AI that answers each image with a report, and where the reports must go."""
AGAIN_AFTER = 0.05
"""Seconds that a sender waits while nobody listens."""


def rules(*, studies: bool = False, results: bool = False) -> str:
    """The rules of routing.yaml: the calling AE title first, then the StationName. `studies` stay together.

    `results` of the AI come first.
    """
    lines, scope = ["rules:"], ", scope: study" if studies else ""
    if results:
        lines.append(f"  - {{name: results, when: {{result_of: {AI}}}, send: {PACS}}}")
    for word, places in WAYS.items():
        send = f"[{', '.join(places)}]"
        lines.append(f"  - {{name: caller {word}, when: {{calling_ae: {word}}}, send: {send}}}")
        lines.append(f"  - {{name: station {word}, when: {{StationName: {word}}}, send: {send}{scope}}}")
    return "\n".join([*lines, f"otherwise: {{send: {next(iter(OTHERWISE))}}}", ""])


def template() -> bytes:
    """The data set, Explicit VR Little Endian, with both marks in it."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.StudyInstanceUID = SOP_CLASS, UID_MARK, STUDY_MARK
    data.StationName, data.Modality, data.PatientID = STATION_MARK, "DX", "CHAOS"
    data.Rows, data.Columns, data.SamplesPerPixel = 32, 24, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    grey = np.random.default_rng(1).integers(0, 4096, (32, 24), dtype=np.uint16)
    data.add_new(0x7FE00010, "OW", grey.tobytes())
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, data)
    return out.getvalue()


def report() -> bytes:
    """The data set of a report on one image, Explicit VR Little Endian, with its marks in it."""
    data, of = Dataset(), Dataset()
    data.SOPClassUID, data.SOPInstanceUID, data.StudyInstanceUID = REPORT, UID_MARK, STUDY_MARK
    data.StationName, data.Modality, data.PatientID = NOBODY, "SR", "CHAOS"
    content = Dataset()
    of.ReferencedSOPClassUID, of.ReferencedSOPInstanceUID = SOP_CLASS, IMAGE_MARK
    content.ValueType, content.ReferencedSOPSequence = "IMAGE", [of]
    data.ContentSequence = [content]
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, data)
    return out.getvalue()


class Sinks:
    """Three destinations in this process. `dropping`: the place that answers 0x0000 and keeps nothing (for tests).
    `web`: one of them takes STOW-RS. `asked` gets the UID of each image that the AI has not had before."""

    def __init__(self, dropping: str = "", *, web: bool = False, asked: Callable[[str], None] | None = None) -> None:
        self.arrivals: list[Arrival] = []
        self._asked, self._known = asked, set[str]()
        self.web = WebPeer(self._take) if web else None
        self.requests: Counter[int] = Counter()
        """Of the web server: how many had so many instances."""
        self._dropping = dropping
        self._servers: list[AssociationServer] = []
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Sinks:
        for place in PLACES:
            if place == WEB and self.web is not None:
                self.ports[place] = self.web.__enter__().port
                continue
            server = AssociationServer(_listening, _Handler(place, self._note))
            self._servers.append(server)
            self.ports[place] = server.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.stop(time.monotonic() + 1.0)
        if self.web is not None:
            self.web.__exit__()

    def _take(self, talk: Talk) -> None:
        """Note what came once it is whole, and answer."""
        while True:
            got = talk.request()
            talk.peer.requests.clear()
            if got.method == "POST":
                uids = got.instances
                for uid, file in zip(uids, got.files, strict=True):
                    data = file[144 + int.from_bytes(file[140:144], "little") :]  # behind the file meta information
                    self._note(Arrival(uid, xxh3_128(data).hexdigest(), WEB, time.monotonic()))
                self.requests[len(uids)] += 1
                talk.answer(200, stored(*uids))
            else:
                talk.answer(204)

    def _note(self, arrival: Arrival) -> None:
        if arrival.place != self._dropping:
            self.arrivals.append(arrival)
        if self._asked is not None and arrival.place == AI and arrival.uid not in self._known:
            self._known.add(arrival.uid)
            self._asked(arrival.uid)


def _listening() -> Settings:
    node = NodeSettings(address="127.0.0.1", port=0)
    return Settings(Path(), node, SpoolSettings(), ModelSettings(), WebSettings(), {}, RuleTable((), Otherwise(PLACES)))


@dataclass(frozen=True)
class _Handler:
    """Takes everything, and notes it once it is whole and before the answer leaves."""

    place: str
    note: Note

    def refused(self, peer: str, why: str, **about: str) -> None:
        pass

    def refuse_association(self) -> bool:
        return False

    def begin(self, request: StoreRequest) -> _Taking:
        return _Taking(self.place, request.sop_instance, self.note)


class _Taking:
    def __init__(self, place: str, uid: str, note: Note) -> None:
        self._place, self._uid, self._note = place, uid, note
        self._digest = xxh3_128()

    def write(self, fragment: memoryview) -> None:
        self._digest.update(fragment)

    def finish(self) -> int:
        self._note(Arrival(self._uid, self._digest.hexdigest(), self._place, time.monotonic()))
        return 0

    def abandon(self) -> None:
        pass


class Sender(threading.Thread):
    """One modality: sends until told to stop, and the same instance again until somebody says 0x0000.

    Half of the senders say where to by their calling AE title, the others by the StationName of each instance. With
    `studies` all do by the StationName, some know no place, and several instances are of one study.
    """

    def __init__(self, port: int, folder: Path, seed: str, number: int, *, studies: bool = False) -> None:
        super().__init__(name=f"sender {number}", daemon=True)
        self.sent: list[Sent] = []
        self._random = random.Random(f"{seed}/{number}")
        self._studies, self._study, self._of_study = studies, "", 0
        self._by_header = bool(number % 2) or studies
        self._word = self._random.choice(list(WAYS))
        self._to = DestinationSettings(name="node", ae_title="ROUTER", host="127.0.0.1", port=port)
        self._file = folder / f"sender-{number}"
        self._template, self._sop_class = template(), SOP_CLASS
        self._stopping = threading.Event()
        self._association: Requestor | None = None
        self._left = 0

    def stop(self) -> None:
        """Stop once the instance under way is acknowledged."""
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            self.sent.append(self._until_acknowledged(self._make()))
        self._hang_up()

    def _make(self) -> Sent:
        """A new instance, in this sender's file."""
        word = self._random.choice([*WAYS, *[NOBODY] * (5 * self._studies)]) if self._by_header else self._word
        uid = f"2.25.{self._random.randrange(10**38, 10**39)}"
        station = word if self._by_header else NOBODY
        if not self._studies or not self._of_study:
            self._study = f"2.25.{self._random.randrange(10**38, 10**39)}"
            self._of_study = self._random.randint(1, MOST_OF_STUDY)
        self._of_study -= 1
        data = self._template.replace(UID_MARK.encode(), uid.encode())
        data = data.replace(STUDY_MARK.encode(), self._study.encode())
        data = data.replace(STATION_MARK.encode(), station.ljust(len(STATION_MARK)).encode())
        self._file.write_bytes(data)
        places = frozenset(WAYS[word]) if word in WAYS else OTHERWISE
        return Sent(
            uid, xxh3_128(data).hexdigest(), places, 0, acknowledged=False, by_header=self._by_header,
            study=self._study, leads=places if self._studies and word in WAYS else frozenset(),
        )  # fmt: skip

    def _until_acknowledged(self, one: Sent) -> Sent:
        while not one.acknowledged:
            try:
                association = self._associated()
            except ConnectError:
                time.sleep(AGAIN_AFTER)
                continue
            one = replace(one, tries=one.tries + 1)
            try:
                size = self._file.stat().st_size
                status = association.store(StoredFile(self._file, 0, size, self._sop_class, one.uid, SYNTAX))
                one = replace(one, acknowledged=status == 0)
            except AssociationLostError:
                self._hang_up()
        return one

    def _associated(self) -> Requestor:
        """The association, or a new one after a few instances, as modalities do. Raises ConnectError."""
        if self._association is not None and self._left <= 0:
            self._association.release()
            self._association = None
        if self._association is None:
            self._association = connect(self._to, self._calling_ae(), [(self._sop_class, SYNTAX)])
            self._left = self._random.randint(1, 60)
        self._left -= 1
        return self._association

    def _calling_ae(self) -> str:
        return "STATION" if self._by_header else self._word

    def _hang_up(self) -> None:
        if self._association is not None:
            self._association.abort()
        self._association = None


class Answerer(Sender):
    """The AI: sends a report on each image that it is asked about. Told to stop, it first answers what it was asked."""

    def __init__(self, port: int, folder: Path, seed: str, asked: queue.SimpleQueue[str]) -> None:
        super().__init__(port, folder, f"{seed}/answers", 0)
        self.name = "the AI"
        self.answered: dict[str, Sent] = {}
        """By image its report."""
        self._file, self._template, self._sop_class = folder / "answerer", report(), REPORT
        self._asked = asked

    def run(self) -> None:
        while not (self._stopping.is_set() and self._asked.empty()):
            try:
                image = self._asked.get(timeout=0.1)
            except queue.Empty:
                continue
            self.answered[image] = self._until_acknowledged(self._report(image))
            self.sent.append(self.answered[image])
        self._hang_up()

    def _report(self, image: str) -> Sent:
        """A report is known by what it refers to, so without its header it goes where nothing is known."""
        uid = f"2.25.{self._random.randrange(10**38, 10**39)}"
        data = self._template
        for mark, value in ((UID_MARK, uid), (STUDY_MARK, uid), (IMAGE_MARK, image)):
            data = data.replace(mark.encode(), value.encode())
        self._file.write_bytes(data)
        return Sent(uid, xxh3_128(data).hexdigest(), frozenset({PACS}), 0, acknowledged=False, by_header=True)

    def _calling_ae(self) -> str:
        return AI.upper()
