"""What the node would see and decide, for files on disk: no spool, no network, nothing is sent.

The same inference process and the same pure decision as in service, so that a dry run means something. PNG and JPEG
pictures are looked at as the DX instance that they would be.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from router.config.settings import Settings
from router.decide import decide, header_tags, kept_from
from router.decide.studies import following, keeps_together
from router.flow import Caller, Decision, Instance, Seen
from router.inference import Inference
from router.spool.blobs import COPIES, PART
from router.spool.keyed import STUDY

BODY_PART = 0x00180015
IN_FLIGHT = 32
NO_INSTANCES = (PART, *COPIES)
"""What lies beside the instances in a spool's folder: half of one, never acknowledged, and another form of one."""
PICTURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}


@dataclass(frozen=True, slots=True)
class Looked:
    """One file: what was seen, what would be decided (None without rules), or why it could not be looked at."""

    path: Path
    seen: Seen | None = None
    decision: Decision | None = None
    error: str = ""
    kept_from: tuple[str, ...] = ()
    """The AIs of its class, if the rules miss all of them."""
    follows: tuple[tuple[str, Path], ...] = ()
    """Destinations that it gets because another file of its study goes there, each with that file."""

    @property
    def body_part(self) -> str:
        """BodyPartExamined as the header says it, empty when absent or unreadable."""
        values = self.seen.header.get(BODY_PART) if self.seen else None
        return values[0] if values else ""


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and those below the folders named, in order. In folders, hidden ones, DICOMDIRs and what is no
    instance of a spool are left out."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not (name.startswith(".") or name.upper() == "DICOMDIR" or name.endswith(NO_INSTANCES)):
                    yield Path(folder, name)


def look(paths: Iterable[Path], inference: Inference, settings: Settings | None, caller: Caller) -> Iterator[Looked]:
    """Look at each file, several at a time, and give the results in the order of `paths`.

    If the rules keep studies together, nothing is given out until all files were looked at.
    """
    looks = _look(paths, inference, settings, caller)
    if settings is None or not keeps_together(settings.rules):
        yield from looks
        return
    every = [_without_header(one) for one in looks]
    undecided = Decision("", (), "", discard=True)
    decided = [(study, one.decision or undecided) for one, study in every]
    for (one, _), leads in zip(every, following(decided), strict=True):
        yield replace(one, follows=tuple((name, every[place][0].path) for name, place in leads.items()))


def _without_header(one: Looked) -> tuple[Looked, str]:
    """A look without what only the rules needed, and the study of its file."""
    if one.seen is None:
        return one, ""
    study = one.seen.header.get(STUDY)
    kept = {tag: values for tag, values in one.seen.header.items() if tag == BODY_PART}
    return replace(one, seen=replace(one.seen, header=kept)), study[0] if study and len(study) == 1 else ""


def _look(paths: Iterable[Path], inference: Inference, settings: Settings | None, caller: Caller) -> Iterator[Looked]:
    tags = frozenset({BODY_PART, STUDY}) | (header_tags(settings.rules) if settings else frozenset())
    waiting: deque[tuple[Path, Future[Seen] | str]] = deque()
    with tempfile.TemporaryDirectory(prefix="dicom-router-") as scratch:
        for number, path in enumerate(paths):
            waiting.append((path, _ask(path, inference, tags, Path(scratch, f"{number % (2 * IN_FLIGHT)}.dcm"))))
            if len(waiting) >= IN_FLIGHT:
                yield _answer(*waiting.popleft(), settings, caller)
        while waiting:
            yield _answer(*waiting.popleft(), settings, caller)


def look_at(path: Path, inference: Inference, settings: Settings) -> Seen:
    """What the model sees of one file. Raises ValueError for a file of another kind, OSError, InferenceError."""
    with tempfile.TemporaryDirectory(prefix="dicom-router-") as scratch:
        asked = inference.look(as_instance(path, Path(scratch, "picture.dcm")), header_tags(settings.rules))
        return asked.result()


def _ask(path: Path, inference: Inference, tags: frozenset[int], scratch: Path) -> Future[Seen] | str:
    try:
        return inference.look(as_instance(path, scratch), tags)
    except OSError as error:
        return error.strerror or type(error).__name__
    except ValueError as error:
        return str(error)


def as_instance(path: Path, scratch: Path) -> Path:
    """The Part 10 file to look at: itself, or a PNG or JPEG wrapped into `scratch`. Raises ValueError, OSError."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return path
    if any(start.startswith(magic) for magic in PICTURES):
        from router.pixels.images import load_image
        from router.pixels.wrap import wrap_image

        return wrap_image(load_image(path), scratch)
    raise ValueError("not a DICOM (Part 10), PNG or JPEG file")


def _answer(path: Path, asked: Future[Seen] | str, settings: Settings | None, caller: Caller) -> Looked:
    if isinstance(asked, str):
        return Looked(path, error=asked)
    seen = asked.result()
    decision = decide_for(path, seen, settings, caller) if settings else None
    kept = kept_from(settings.rules, seen, decision) if settings and decision else ()
    return Looked(path, seen, decision, "" if seen.pixels == "decoded" else seen.reason or seen.pixels, kept)


def decide_for(path: Path, seen: Seen, settings: Settings, caller: Caller) -> Decision:
    """What the rules say of a file as if `caller` had sent it."""
    came = as_came(path, caller)
    return decide(settings.rules, came, seen, enabled=settings.enabled, dry_run=settings.node.dry_run)


def as_came(path: Path, caller: Caller) -> Instance:
    """A file as the instance that it would be if `caller` had sent it."""
    return Instance(
        id="0" * 32, received_at=time.time(), caller=caller, sop_class=_sop_class(path), sop_instance="",
        transfer_syntax="", offset=0, size=0, digest="",
    )  # fmt: skip


def _sop_class(path: Path) -> str:
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DigitalXRayImageStorageForPresentation

    try:
        return str(read_file_meta_info(path).MediaStorageSOPClassUID)
    except Exception:  # any reader's error on a hostile file: the SOP class is simply unknown
        return str(DigitalXRayImageStorageForPresentation) if path.suffix.lower() in PICTURES.values() else ""
