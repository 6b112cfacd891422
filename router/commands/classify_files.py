"""What the node would see and decide, for files on disk: no spool, no network, nothing is sent.

The same inference process and the same pure decision as in service, so that a dry run means something. PNG and JPEG
pictures are looked at as the DX instance that they would be.
"""

from __future__ import annotations

import os
import queue
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from router.commands.walking import Found
from router.config.settings import Settings
from router.decide import decide, header_tags, kept_from
from router.decide.studies import following, keeps_together
from router.flow import Caller, Decision, Instance, Seen
from router.inference import Inference, InferenceError
from router.spool.keyed import STUDY

BODY_PART = 0x00180015
IN_FLIGHT = 64
"""Files that are asked about at a time: some for each pixel worker, and a batch for the model."""
AHEAD = 4096
"""How far the answers may run ahead of the oldest file without one."""
RESTART = 60.0
"""Seconds in which inference must be there again after it died."""
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
    number: int = 0
    """Its place among the files."""
    unreadable: bool = False
    """Whether this says nothing of the file, so that it may be looked at again."""

    @property
    def body_part(self) -> str:
        """BodyPartExamined as the header says it, empty when absent or unreadable."""
        values = self.seen.header.get(BODY_PART) if self.seen else None
        return values[0] if values else ""


def look(found: Iterable[Found], inference: Inference, settings: Settings | None, caller: Caller) -> Iterator[Looked]:
    """Look at each file, many at a time, and give each result as it comes. `in_order` puts them in order again.

    If the rules keep studies together, nothing is given out until all files were looked at. Raises InferenceError if
    inference dies and does not come back.
    """
    looks = _look(found, inference, settings, caller)
    if settings is None or not keeps_together(settings.rules):
        yield from looks
        return
    every = [_without_header(one) for one in in_order(looks)]
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


def _look(found: Iterable[Found], inference: Inference, settings: Settings | None, caller: Caller) -> Iterator[Looked]:
    tags = frozenset({BODY_PART, STUDY}) | (header_tags(settings.rules) if settings else frozenset())
    asked: dict[int, tuple[Found, Future[Seen] | str | OSError]] = {}
    answered: queue.SimpleQueue[int] = queue.SimpleQueue()
    died: list[tuple[int, Found]] = []
    numbered = enumerate(found)
    with tempfile.TemporaryDirectory(prefix="dicom-router-") as scratch:
        while True:
            while not died and len(asked) < IN_FLIGHT and (one := _next(numbered, asked)):
                number, file = one
                asked[number] = file, _ask(file, inference, tags, Path(scratch, f"{number}.dcm"))
                _tell(asked[number][1], number, answered)
            if asked:
                number = answered.get()
                file, answer = asked.pop(number)
                try:
                    yield _answer(number, file.path, answer, settings, caller)
                except InferenceError:
                    died.append((number, file))
            elif died:  # whichever of them was the cause, the others do not die with it again
                number, file = died.pop(0)
                yield _look_alone(number, file, inference, tags, Path(scratch, f"{number}.dcm"), settings, caller)
            else:
                return
            Path(scratch, f"{number}.dcm").unlink(missing_ok=True)


def in_order(looks: Iterable[Looked]) -> Iterator[Looked]:
    """The results of `look` in the order of its files. At most `AHEAD` of them wait for an earlier one."""
    waiting: dict[int, Looked] = {}
    number = 0
    for looked in looks:
        waiting[looked.number] = looked
        while number in waiting:
            yield waiting.pop(number)
            number += 1


def look_at(path: Path, inference: Inference, settings: Settings) -> Seen:
    """What the model sees of one file. Raises ValueError for a file of another kind, OSError, InferenceError."""
    with tempfile.TemporaryDirectory(prefix="dicom-router-") as scratch:
        asked = inference.look(as_instance(path, Path(scratch, "picture.dcm")), header_tags(settings.rules))
        return asked.result()


def _next(numbered: Iterator[tuple[int, Found]], asked: Mapping[int, object]) -> tuple[int, Found] | None:
    """The next file and its number, unless one without an answer is too far behind."""
    oldest = next(iter(asked), None)
    if oldest is not None and max(asked) - oldest >= AHEAD:
        return None
    return next(numbered, None)


def _ask(found: Found, inference: Inference, tags: frozenset[int], scratch: Path) -> Future[Seen] | str | OSError:
    if found.error:
        return OSError(found.error)
    try:
        return inference.look(as_instance(found.path, scratch), tags)
    except OSError as error:
        return error
    except ValueError as error:
        return str(error)


def _tell(asked: Future[Seen] | str | OSError, number: int, answered: queue.SimpleQueue[int]) -> None:
    if isinstance(asked, Future):
        asked.add_done_callback(lambda _: answered.put(number))
    else:
        answered.put(number)


def _look_alone(
    number: int, found: Found, inference: Inference, tags: frozenset[int], scratch: Path,
    settings: Settings | None, caller: Caller,
) -> Looked:  # fmt: skip
    """Once more, with nothing beside it. Raises InferenceError if inference is not there in time."""
    deadline = time.monotonic() + RESTART
    while not inference.is_ready and time.monotonic() < deadline:
        time.sleep(0.1)
    was_ready = inference.is_ready
    try:
        return _answer(number, found.path, _ask(found, inference, tags, scratch), settings, caller)
    except InferenceError as error:
        if not was_ready:
            raise
        return Looked(found.path, error=str(error), number=number, unreadable=True)


def as_instance(path: Path, scratch: Path) -> Path:
    """The Part 10 file to look at: itself, or a PNG or JPEG wrapped into `scratch`. Raises ValueError, OSError."""
    # Without waiting: a pipe in a file's place would be waited for until somebody writes into it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        start = file.read(132)
    if start[128:] == b"DICM":
        return path
    if any(start.startswith(magic) for magic in PICTURES):
        from router.pixels.images import load_image
        from router.pixels.wrap import wrap_image

        return wrap_image(load_image(path), scratch)
    raise ValueError("not a DICOM (Part 10), PNG or JPEG file")


def _answer(
    number: int, path: Path, asked: Future[Seen] | str | OSError, settings: Settings | None, caller: Caller
) -> Looked:
    if isinstance(asked, OSError):
        return Looked(path, error=asked.strerror or str(asked), number=number, unreadable=True)
    if isinstance(asked, str):
        return Looked(path, error=asked, number=number)
    seen = asked.result()
    decision = decide_for(path, seen, settings, caller) if settings else None
    kept = kept_from(settings.rules, seen, decision) if settings and decision else ()
    error = "" if seen.pixels == "decoded" else seen.reason or seen.pixels
    return Looked(path, seen, decision, error, kept, number=number)


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
