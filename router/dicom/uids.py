"""The one table of UIDs (PS3.6): transfer syntaxes, SOP classes, well-known instances, this node's own. And checks of
UIDs.

Three tables say what happens with a transfer syntax. `KNOWN_SYNTAXES` here: we accept it from callers.
`pixels.decoders.DECODERS`: we decode it for the network. `pixels.cost`: what its decoder costs.
"""

from __future__ import annotations

import re
from functools import cache

from pydicom._uid_dict import UID_dictionary

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
"""Implicit and Explicit VR Little Endian."""
OWN_SYNTAX = ""
"""Stands for a transfer syntax: the copy keeps the instance's own syntax, and only pads odd values."""
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

JPEG_BASELINE, JPEG_EXTENDED = f"{IMPLICIT}.4.50", f"{IMPLICIT}.4.51"
JPEG_SPECTRAL_8, JPEG_PROGRESSIVE_8 = f"{IMPLICIT}.4.53", f"{IMPLICIT}.4.55"
"""Retired processes: Spectral Selection and Full Progression, non-hierarchical (6 & 8, 10 & 12)."""
JPEG_LOSSLESS, JPEG_LOSSLESS_SV1 = f"{IMPLICIT}.4.57", f"{IMPLICIT}.4.70"
JPEG_LS, JPEG_LS_NEAR = f"{IMPLICIT}.4.80", f"{IMPLICIT}.4.81"
JPEG_2000_LOSSLESS, JPEG_2000 = f"{IMPLICIT}.4.90", f"{IMPLICIT}.4.91"
HTJ2K_LOSSLESS, HTJ2K_RPCL, HTJ2K = (f"{IMPLICIT}.4.{number}" for number in (201, 202, 203))
WAVELETS = frozenset({JPEG_2000_LOSSLESS, JPEG_2000, HTJ2K_LOSSLESS, HTJ2K_RPCL, HTJ2K})
"""Each holds the picture at lower resolutions, too."""
JPEG_XL_LOSSLESS, JPEG_XL_RECOMPRESSION, JPEG_XL = (f"{IMPLICIT}.4.{number}" for number in (110, 111, 112))
RLE = f"{IMPLICIT}.5"
JPIP, JPIP_DEFLATED = (f"{IMPLICIT}.4.94", f"{IMPLICIT}.4.204"), (f"{IMPLICIT}.4.95", f"{IMPLICIT}.4.205")
"""JPIP: a reference to a server in place of the pixels."""
INFLATED = (DEFLATED, *JPIP_DEFLATED)
"""The data set is deflated (PS3.5 §A.5)."""

LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Value representations with a length of four bytes (table 7.1-1)."""

LOSSY = frozenset(
    f"{IMPLICIT}.4.{number}"
    for number in (
        *range(50, 57),  # JPEG baseline, extended, spectral selection and full progression
        *range(59, 65),  # the same, hierarchical
        81,  # JPEG-LS near-lossless
        91, 93,  # JPEG 2000
        100, 101, 102, 103, 104, 105, 106, 107, 108,  # MPEG-2, MPEG-4, HEVC
        "100.1", "101.1", "102.1", "103.1", "104.1", "105.1", "106.1",  # the same, fragmentable
        111, 112,  # JPEG XL: a recompressed JPEG has the losses of that JPEG
        203,  # HTJ2K
    )
)  # fmt: skip
"""Transfer syntaxes whose pixels may have lost something. Negotiation and decoders both use this table."""

NEWER_SYNTAXES = {
    JPEG_XL_LOSSLESS: "JPEG XL Lossless",
    JPEG_XL_RECOMPRESSION: "JPEG XL JPEG Recompression",
    JPEG_XL: "JPEG XL",
    f"{IMPLICIT}.8.1": "Deflated Image Frame Compression",
}
"""Transfer syntaxes of PS3.5 that are newer than the dictionary."""
KNOWN_SYNTAXES = frozenset(NEWER_SYNTAXES) | frozenset(
    uid
    for uid, entry in UID_dictionary.items()
    # JPIP names a server that has the pixels, so storing the data set would store nothing. ST 2110 is a live stream.
    # MIME and XML are no data sets. Retired JPEG processes are passed on as they come, like all others.
    if entry[1] == "Transfer Syntax"
    and (uid == IMPLICIT or uid.startswith(f"{IMPLICIT}."))
    and uid not in (*JPIP, *JPIP_DEFLATED)
    and not uid.startswith((f"{IMPLICIT}.6.", f"{IMPLICIT}.7."))
)
NEWER_STORAGE = frozenset(f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("9.100.1", "9.100.2", "66.7", "66.8"))
"""Storage SOP classes that the library's dictionary does not list yet."""
INSTRUCTIONS = frozenset(("1.2.840.10008.5.1.4.34.7", "1.2.840.10008.5.1.4.34.10"))
"""RT delivery instructions: the storage SOP classes outside the root of all others."""
STORAGE = (
    NEWER_STORAGE
    | INSTRUCTIONS
    | {
        uid
        for uid, entry in UID_dictionary.items()
        if uid.startswith("1.2.840.10008.5.1.4.1.1.") and "Storage" in entry[0]
    }
)
"""All storage SOP classes of composite instances, also the retired ones that old modalities still send."""
_OUTCOMES = (
    "SR Storage", "Report", "Key Object", "Presentation State", "Secondary Capture", "Segmentation", "Encapsulated",
    "Parametric Map", "Annotation", "Measurements", "Fiducials", "Registration", "Structured Display", "Assessment",
    "Real World Value", "Tractography", "Surface Scan", "RT Structure Set",
)  # fmt: skip
"""What the names of SOP classes say that hold what was made of images."""
RESULTS = NEWER_STORAGE | frozenset(
    uid for uid in STORAGE - NEWER_STORAGE if any(word in UID_dictionary[uid][0] for word in _OUTCOMES)
)
"""Storage SOP classes of what is made of images, by people or programs: reports, captures, segmentations, states."""

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT, COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model (PS3.4 annex J): its SOP class, and its well-known SOP instance."""
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""The DICOM application context name (PS3.7 annex A.2.1)."""
IMPLEMENTATION_UID = "2.25.90898961037784402061711344873745656256"
IMPLEMENTATION_VERSION = "DICOM_ROUTER_0_1"
"""It has at most 16 characters (PS3.7 annex D.3.3.2)."""


def name_of(uid: str) -> str:
    """The name of a UID by PS3.6, for people. Without one, the UID itself, made printable."""
    from router.observe import safe  # late: a pixel worker writes no log, and needs none of what that brings

    entry = UID_dictionary.get(uid)
    return NEWER_SYNTAXES.get(uid) or (entry[0] if entry else safe(uid))


@cache
def by_keyword(kind: str) -> dict[str, str]:
    """Maps keyword to UID, for all UIDs of a kind, in the words of PS3.6: "SOP Class" or "Transfer Syntax"."""
    return {entry[4]: uid for uid, entry in UID_dictionary.items() if entry[1] == kind and entry[4]}


def is_standard(uid: str) -> bool:
    """Whether PS3.6 lists a UID of any kind."""
    return uid in UID_dictionary


def is_uid(text: str) -> bool:
    """Whether a value has 1 to 64 digits and dots, and no two dots together (PS3.5 §9.1). Leading zeros are allowed."""
    return has_only_uid_characters(text) and all(text.split("."))


def has_only_uid_characters(text: str) -> bool:
    """Whether a value has at most 64 digits and dots. It may be empty or have two dots together: real files do."""
    return len(text) <= LONGEST_UID and not set(text) - UID_CHARACTERS


def is_strict_uid(text: str) -> bool:
    """Whether PS3.5 §9.1 allows this UID, with two components or more. For UIDs that people type, to show a slip."""
    return len(text) <= LONGEST_UID and _STRICT.fullmatch(text) is not None


LONGEST_UID = 64
"""Characters."""
UID_CHARACTERS = frozenset("0123456789.")
_STRICT = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
