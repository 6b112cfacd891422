"""What flows through the node: the frozen values that one stage hands to the next.

The path of an instance: a caller sends it (`Caller`), receive stores it (`Instance`), inference looks
at it (`Seen`, with a `Prediction` where the pixels could be decoded), decide chooses (`Decision`), and
forward owes it to each destination of the decision (`Delivery`). This module imports no other, holds no
behaviour, and is the one place where these words are defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

CLASSES: tuple[str, ...] = ("abdominal", "adult_chest", "pediatric_chest", "spine", "others")
"""The five classes, in this order everywhere (Pham et al., DICOM Imaging Router)."""

PREPROCESSING = "1"
"""Version of what the network sees of an image: all of `pixels.render`, with `grey`, `samples.thinned` and `prepare`.

It is here because a model's card is compared with it."""

VIEWS: tuple[str, ...] = ("frontal", "lateral", "other")
"""The projection of a body part: from front or back, from the side, or any other."""

UNCERTAIN = "uncertain"
"""The class of a prediction that the model card does not trust: low confidence, or novel."""


class Role(StrEnum):
    """What a person may do on the page. None contains another; each user has some of them."""

    VIEW = "view"
    """See everything but pictures."""
    IMAGES = "images"
    """See pictures."""
    OPERATE = "operate"
    """Retry, discard, reroute, pause, resume."""
    RULES = "rules"
    """Change rules and models."""
    ADMIN = "admin"
    """Administer users, and see the record."""


PixelState = Literal["decoded", "none", "undecodable", "unparseable", "failed"]
"""decoded: there is a prediction. none: no pixel data (SR, PR, KO, PDF). undecodable: pixels that no
decoder could turn into a picture within its limits. unparseable: the data set itself cannot be read.
failed: the model could not answer after bounded tries."""

Header = Mapping[int, tuple[str, ...] | None]
"""Tag (0xggggeeee) to its values as trimmed text. Absent: the tag is not a key. `()`: present and empty.
`None`: present but unreadable, for example a private element whose VR is not known (implicit VR, UN). A sequence or
binary element with content is `("",)`: it exists, and has no text to compare."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent an instance: AE titles as they came (padding stripped), and the peer's address."""

    calling_ae: str
    called_ae: str
    peer: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP instance in the spool.

    `id` is ours (32 lower-case hex digits, in order of arrival) and names the blob; nothing received ever
    names a file. The data set is `size` bytes at `offset` of the blob, and `digest` is their XXH3-128 in hex.
    `received_at` is Unix time in seconds.
    """

    id: str
    received_at: float
    caller: Caller
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    offset: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A data set in a file, as it is sent: `size` bytes at `offset` are this instance in this transfer syntax."""

    path: Path
    offset: int
    size: int
    sop_class: str
    sop_instance: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of a picture.

    `probabilities` are calibrated, in the order of CLASSES; `top` is the most probable class and `confidence`
    its probability; `novelty` is the card's score and `novel` whether it is beyond the card's limit;
    `class_name` is `top`, or `uncertain`. `model` is the digest of the weights that answered.
    """

    probabilities: tuple[float, ...]
    top: str
    confidence: float
    novelty: float
    novel: bool
    class_name: str
    model: str
    view: str = ""
    """One of VIEWS; `uncertain` if below the card's threshold; empty if the model has no views."""
    view_confidence: float = 0.0
    inverted: bool = False
    """The picture came with the wrong polarity, and was classified again in the right one."""


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What was found on the way from the data set to the picture; nothing here identifies a patient."""

    photometric: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 0
    window: tuple[float, float] | None = None
    """(low, high) of the grey range that was shown, in modality units."""
    crop: tuple[int, int, int, int] | None = None
    """(top, left, bottom, right) of the exposed field, in pixels of the decoded image."""
    decoder: str = ""
    notes: tuple[str, ...] = ()
    """What header or codestream left out or contradicted, and what was assumed. Fixed texts, nothing received."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that inference found out about one instance: pixels or their absence, header, prediction.

    `reason` says in our own words why `pixels` is not `decoded`. It never has received text.
    """

    pixels: PixelState
    header: Header = field(default_factory=dict)
    prediction: Prediction | None = None
    facts: PictureFacts = PictureFacts()
    reason: str = ""
    render_ms: float = 0.0
    model_ms: float = 0.0
    references: tuple[str, ...] = ()
    """SOP Instance UIDs that the data set refers to, if its class is one of `dicom.uids.RESULTS`."""
    result_of: tuple[str, ...] = ()
    """The destinations whose deliveries it answers, as the spool knows them."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Which destinations must have an instance, and why.

    `rule` is the name of the rule that fired, or `otherwise`. `reason` holds rule, condition and outcome, never
    a value from the header. `discard` is a rule's explicit wish to send nowhere. `shadow` names the shadow
    rules that would have fired, each with its destinations.
    """

    rule: str
    destinations: tuple[str, ...]
    reason: str
    discard: bool = False
    shadow: tuple[tuple[str, tuple[str, ...]], ...] = ()
    table: str = ""
    """The digest of the rules that decided."""
    study: bool = False
    """The rule has `scope: study`: the other instances of the study follow to its destinations."""
    one_of: Literal["", "study", "instance"] = ""
    """Only one of the destinations gets the instance; by `study` all instances of a study go to the same one. The spool
    chooses. Empty: all of them get it."""
    urgent: bool = False
    """Its deliveries go before others to the same destination."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One instance owed to one destination, claimed by a worker.

    `token` fences the claim: only its holder may finish, retry or bury it. `tries` counts the attempts made
    before this one; `buriable_tries` counts those that failed in a way that leads to burying.
    """

    id: int
    instance: Instance
    destination: str
    path: Path
    token: int
    tries: int
    buriable_tries: int
    owed_for: float
    """Seconds for which it has been owed, without the time in which nothing could be tried."""
    urgent: bool = False
    study: str = ""
    """A keyed hash of the instance's study; empty if that is not known."""
