"""Turns one file into one picture and the facts about it, and for training into a whole grey image."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from router.dicom.data_set import DataSet, open_data_set
from router.dicom.elements import PIXEL_DATA, UnparseableError
from router.dicom.first_elements import SOP_CLASS
from router.dicom.references import references
from router.dicom.uids import LONGEST_UID, RESULTS, WAVELETS, has_only_uid_characters
from router.flow import Header, PictureFacts, PixelState, Seen
from router.pixels.cost import ExpensiveError
from router.pixels.grey import Grey, to_grey
from router.pixels.header import Layout, UndecodableError, layout, pixel_element, values
from router.pixels.prepare import Crop, prepare
from router.pixels.samples import decoder_name, first_frame, thinned

FINE, FINE_OF_WAVELETS = 1.5, 1.14
"""A reduced resolution is good enough if its short side is this many times the picture's. JPEG 2000 has its lower
resolutions from filters, and not from a few pixels of many, so it needs less. The next finer one takes four times
as long.
"""
STUDY_UID, SERIES_UID = 0x0020000D, 0x0020000E
GAVE_UP = "the decoder gave up on the pixels"


def render(
    path: Path, size: int, tags: frozenset[int], patience: float = math.inf
) -> tuple[NDArray[np.uint8] | None, Seen]:
    """Turn a Part 10 file into a picture (size, size) with white bone, and what was found on the way.

    The picture is None unless `Seen.pixels` is "decoded". `Seen.header` has the values of `tags`. Raises only
    ExpensiveError, if the pixels surely take more than `patience` seconds.
    """
    start = time.perf_counter()
    picture, seen = _render(path, size, tags, patience)
    return picture, replace(seen, render_ms=(time.perf_counter() - start) * 1000)


def _render(path: Path, size: int, tags: frozenset[int], patience: float) -> tuple[NDArray[np.uint8] | None, Seen]:
    try:
        data_set = open_data_set(path, max(tags | {PIXEL_DATA}))
    except UnparseableError as problem:
        return None, Seen("unparseable", dict.fromkeys(tags), reason=str(problem))
    except OSError as problem:
        return None, Seen("unparseable", dict.fromkeys(tags), reason=f"the file cannot be read ({problem.strerror})")
    except BaseException as problem:
        return None, Seen("unparseable", dict.fromkeys(tags), reason=_words(problem, "the data set cannot be read"))
    if not all(_is_uid(data_set, tag) for tag in (STUDY_UID, SERIES_UID)):
        data_set.close()
        return None, Seen("unparseable", dict.fromkeys(tags), reason="the Study or Series Instance UID is no UID")
    header: Header = dict.fromkeys(tags)
    facts = PictureFacts()
    refers_to: tuple[str, ...] = ()
    state: PixelState = "undecodable"
    try:
        header = values(data_set, tags)
        refers_to = _references(data_set)
        absent = _without_pixels(data_set)
        if absent is not None:
            return None, replace(absent, header=header, references=refers_to)
        form = layout(data_set)
        facts = PictureFacts(form.photometric, form.rows, form.columns, form.frames, notes=form.notes)
        facts = replace(facts, decoder=decoder_name(data_set.syntax))
        reduce = _reduction(form, size, FINE)
        by_codec = _reduction(form, size, FINE_OF_WAVELETS) if data_set.syntax in WAVELETS else reduce
        frame = first_frame(data_set, form, by_codec, patience)
        facts = replace(facts, notes=(*facts.notes, frame.note) if frame.note else facts.notes)
        grey = to_grey(data_set, form, thinned(frame, form, reduce))
        picture, crop = prepare(grey.image, size=size, mask=grey.mask)
        facts = replace(facts, window=grey.window, crop=_whole(crop, grey, form))
        return picture, Seen("decoded", header, facts=facts, references=refers_to)
    except UndecodableError as problem:
        return None, Seen(state, header, facts=facts, reason=str(problem), references=refers_to)
    except ExpensiveError:
        raise
    except BaseException as problem:
        return None, Seen(state, header, facts=facts, reason=_words(problem, GAVE_UP), references=refers_to)
    finally:
        data_set.close()


def _references(data_set: DataSet) -> tuple[str, ...]:
    """What it refers to, if its class is one of results. Other images, most of what comes, cost nothing."""
    element = data_set.elements.get(SOP_CLASS)
    if element is None:
        return ()
    name = data_set.value(element, LONGEST_UID + 2).decode("latin-1").strip("\0 ")
    return references(data_set) if name in RESULTS else ()


def _is_uid(data_set: DataSet, tag: int) -> bool:
    """Whether a UID is absent, empty, or has at most 64 digits and dots. Archives make paths of it."""
    element = data_set.elements.get(tag)
    if element is None:
        return True
    if element.length > 66:
        return False
    return has_only_uid_characters(data_set.value(element, 66).decode("latin-1").rstrip("\0 "))


def _words(problem: BaseException, otherwise: str) -> str:
    """The words for any exception. A decoder's own text may have received bytes and is never repeated.

    Panics of foreign code are no Exceptions. What ends this process on purpose is raised again.
    """
    if isinstance(problem, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise problem
    return "the pixels need more memory than there is" if isinstance(problem, MemoryError) else otherwise


def _without_pixels(data_set: DataSet) -> Seen | None:
    try:
        pixel_element(data_set)
    except UndecodableError as problem:
        if data_set.broken:
            return Seen("unparseable", reason=data_set.broken)
        return Seen("none", reason=str(problem))
    return None


def _reduction(form: Layout, size: int, fine: float) -> int:
    """How often the size may be halved."""
    times = 0
    while min(form.rows, form.columns) >> (times + 1) >= fine * size:
        times += 1
    return times


def _whole(crop: Crop, grey: Grey, form: Layout) -> Crop:
    """The crop of a reduced image in pixels of the whole one."""
    down, across = form.rows / grey.image.shape[0], form.columns / grey.image.shape[1]
    top, left, bottom, right = crop
    return (
        int(top * down),
        int(left * across),
        min(form.rows, round(bottom * down)),
        min(form.columns, round(right * across)),
    )


def grey_of(path: Path) -> NDArray[np.uint8]:
    """The whole first frame of a Part 10 file as grey (rows, columns), bone white, for training.

    Raises ValueError in our own words if there is no picture, and OSError if the file cannot be read.
    """
    data_set = open_data_set(path)
    try:
        form = layout(data_set)
        return to_grey(data_set, form, first_frame(data_set, form)).image
    except UndecodableError:
        raise
    except BaseException as problem:
        raise ValueError(_words(problem, GAVE_UP)) from None
    finally:
        data_set.close()
