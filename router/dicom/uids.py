"""The UIDs that this node knows (PS3.6): transfer syntaxes, SOP classes, its own."""

from __future__ import annotations

from pydicom._uid_dict import UID_dictionary
from pynetdicom import AllStoragePresentationContexts

from router.observe import safe

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
"""Implicit and Explicit VR Little Endian."""
OWN_SYNTAX = ""
"""In place of a transfer syntax: the copy keeps the instance's own, and only pads odd values."""
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Value representations with a length of four bytes (table 7.1-1)."""

_JPEG_FAMILY = f"{IMPLICIT}.4"
LOSSY = frozenset(
    f"{_JPEG_FAMILY}.{number}"
    for number in (
        *range(50, 57),  # JPEG baseline, extended, spectral selection and full progression
        *range(59, 65),  # the same, hierarchical
        81,  # JPEG-LS near-lossless
        91, 93,  # JPEG 2000
        100, 101, 102, 103, 104, 105, 106, 107, 108,  # MPEG-2, MPEG-4, HEVC
        "100.1", "101.1", "102.1", "103.1", "104.1", "105.1", "106.1",  # the same, fragmentable
        111, 112,  # JPEG XL: a JPEG packed anew has lost what that JPEG had lost
        203,  # HTJ2K
    )
)  # fmt: skip
"""Transfer syntaxes whose pixels may have lost something. Negotiation and decoders both use this table."""

NEWER_SYNTAXES = {
    f"{IMPLICIT}.4.110": "JPEG XL Lossless",
    f"{IMPLICIT}.4.111": "JPEG XL JPEG Recompression",
    f"{IMPLICIT}.4.112": "JPEG XL",
    f"{IMPLICIT}.8.1": "Deflated Image Frame Compression",
}
"""Transfer syntaxes of PS3.5 that are younger than the dictionary."""
KNOWN_SYNTAXES = frozenset(NEWER_SYNTAXES) | frozenset(
    uid
    for uid, entry in UID_dictionary.items()
    # JPIP names a server that has the pixels, so storing the data set would store nothing; ST 2110 is a live stream,
    # and MIME and XML are no data sets. Retired JPEG processes are passed on as they come, like all others.
    if entry[1] == "Transfer Syntax"
    and (uid == IMPLICIT or uid.startswith(f"{IMPLICIT}."))
    and uid not in {f"{IMPLICIT}.4.{n}" for n in (94, 95, 204, 205)}
    and not uid.startswith((f"{IMPLICIT}.6.", f"{IMPLICIT}.7."))
)
STORAGE = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts) | frozenset(
    uid for uid, entry in UID_dictionary.items() if uid.startswith("1.2.840.10008.5.1.4.1.1.") and "Storage" in entry[0]
)
"""All storage SOP classes of composite instances, with the retired ones that old modalities still send."""

VERIFICATION = "1.2.840.10008.1.1"
COMMITMENT = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model (PS3.4 annex J)."""
IMPLEMENTATION_UID = "2.25.90898961037784402061711344873745656256"
IMPLEMENTATION_VERSION = "DICOM_ROUTER_0_1"
"""At most 16 characters (PS3.7 annex D.3.3.2)."""


def name_of(uid: str) -> str:
    """The name that PS3.6 gives to a UID, for people; the UID itself, made printable, where it gives none."""
    entry = UID_dictionary.get(uid)
    return NEWER_SYNTAXES.get(uid) or (entry[0] if entry else safe(uid))


def is_uid(text: str) -> bool:
    """At most 64 of digits and dots, no two dots together (PS3.5 §9.1); leading zeros are common and let through."""
    return len(text) <= 64 and not set(text) - set("0123456789.") and all(text.split("."))
