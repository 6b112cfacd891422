"""A grey image as a complete DX or CR instance of a fictitious patient: for demonstrations, benchmarks and tests.

Sources: PS3.3 A.26 (DX), A.2 (CR); PS3.5 A.4 for the encapsulated transfer syntaxes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, generate_uid
from rle.utils import encode_pixel_data

from router.dicom.uids import EXPLICIT, HTJ2K_LOSSLESS, IMPLICIT, JPEG_2000_LOSSLESS, JPEG_LOSSLESS_SV1, JPEG_LS, RLE

CLASSES = {"DX": DigitalXRayImageStorageForPresentation, "CR": ComputedRadiographyImageStorage}

ENCODERS: dict[str, Callable[[NDArray[Any], int], bytes]] = {
    JPEG_LOSSLESS_SV1: lambda grey, bits: bytes(
        imagecodecs.jpeg8_encode(grey, lossless=True, predictor=1, bitspersample=bits)
    ),
    JPEG_LS: lambda grey, bits: bytes(imagecodecs.jpegls_encode(grey)),
    JPEG_2000_LOSSLESS: lambda grey, bits: bytes(
        imagecodecs.jpeg2k_encode(grey, level=0, reversible=True, bitspersample=bits, codecformat="J2K", numthreads=1)
    ),
    HTJ2K_LOSSLESS: lambda grey, bits: bytes(imagecodecs.htj2k_encode(grey, reversible=True)),
    RLE: lambda grey, bits: _run_lengths(grey),
}
"""Lossless encoders of the encapsulated transfer syntaxes that `wrap_image` can write."""


def _run_lengths(grey: NDArray[Any]) -> bytes:
    encoded: bytes = encode_pixel_data(
        grey.tobytes(),
        rows=grey.shape[0],
        columns=grey.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=8 * grey.dtype.itemsize,
        photometric_interpretation="MONOCHROME2",
        byteorder="<",
    )
    return encoded


def wrap_image(
    grey: NDArray[Any],
    out: Path,
    *,
    modality: str = "DX",
    transfer_syntax: str = EXPLICIT,
    age: str | None = None,
    seed: str | None = None,
) -> Path:
    """Write a grey image (rows, columns), uint8 or uint16, bone white, as a Part 10 file at `out`, and return `out`.

    `age` is PatientAge as DICOM writes it ("012Y"); the birth date follows from it. With `seed` the UIDs are the
    same every time, without they are fresh. Raises ValueError for another shape, type, modality or syntax.
    """
    if grey.ndim != 2 or grey.dtype not in (np.uint8, np.uint16) or not 0 < max(grey.shape) <= 65535:
        raise ValueError("the image must be (rows, columns) of uint8 or uint16")
    if modality not in CLASSES:
        raise ValueError("the modality must be DX or CR")
    if transfer_syntax not in (EXPLICIT, IMPLICIT, *ENCODERS):
        raise ValueError("this transfer syntax cannot be written")
    data_set = _common(modality, age, seed or uuid.uuid4().hex)
    if modality == "DX":
        _digital(data_set)
    else:  # CR series and image modules (PS3.3 C.8.1)
        data_set.BodyPartExamined = data_set.ViewPosition = ""
        data_set.ImagerPixelSpacing = [0.2, 0.2]
    bits = _image(data_set, grey)
    if transfer_syntax in ENCODERS:
        coded = ENCODERS[transfer_syntax](np.ascontiguousarray(grey), bits)
        data_set.PixelData = encapsulate([coded])
    else:
        raw = grey.astype(grey.dtype.newbyteorder("<")).tobytes()
        data_set.PixelData = raw + b"\0" * (len(raw) % 2)
    data_set["PixelData"].VR = "OB" if transfer_syntax in ENCODERS or bits == 8 else "OW"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    data_set.save_as(out, enforce_file_format=True)
    return out


def _common(modality: str, age: str | None, seed: str) -> Dataset:
    """Patient, study, series, equipment and general image modules."""
    now = datetime.now(UTC)
    data_set = Dataset()
    data_set.SpecificCharacterSet = "ISO_IR 100"
    data_set.ImageType = ["ORIGINAL", "PRIMARY"]
    data_set.SOPClassUID = CLASSES[modality]
    data_set.StudyDate = data_set.SeriesDate = data_set.ContentDate = data_set.AcquisitionDate = now.strftime("%Y%m%d")
    data_set.StudyTime = data_set.SeriesTime = data_set.ContentTime = data_set.AcquisitionTime = now.strftime("%H%M%S")
    data_set.AccessionNumber = data_set.ReferringPhysicianName = data_set.PatientSex = data_set.Laterality = ""
    data_set.Modality = modality
    data_set.Manufacturer = "dicom-router"
    data_set.ManufacturerModelName = "phantom"
    data_set.DeviceSerialNumber, data_set.SoftwareVersions = "0", "0"
    data_set.PatientName, data_set.PatientID = "PHANTOM^" + seed[:8].upper(), "PHANTOM-" + seed[:8].upper()
    data_set.PatientBirthDate = _birth_date(age, now)
    if age is not None:
        data_set.PatientAge = age
    for number, keyword in enumerate(("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")):
        setattr(data_set, keyword, generate_uid(entropy_srcs=[seed, str(number)]))
    data_set.StudyID, data_set.SeriesNumber, data_set.InstanceNumber = "1", 1, 1
    data_set.PatientOrientation = ["L", "F"]
    data_set.BurnedInAnnotation, data_set.LossyImageCompression = "NO", "00"
    return data_set


def _birth_date(age: str | None, now: datetime) -> str:
    if age is None or len(age) != 4 or not age[:3].isdecimal():
        return ""
    days = int(age[:3]) * {"Y": 365.25, "M": 30.44, "W": 7, "D": 1}.get(age[3], 0)
    return datetime.fromtimestamp(now.timestamp() - days * 86400, UTC).strftime("%Y%m%d") if days else ""


def _digital(data_set: Dataset) -> None:
    """DX series, anatomy, image and detector modules (PS3.3 C.8.11)."""
    data_set.PresentationIntentType = "FOR PRESENTATION"
    data_set.BodyPartExamined = ""
    data_set.ImageLaterality = "U"
    data_set.AnatomicRegionSequence = Sequence()
    data_set.DetectorType = "DIRECT"
    data_set.PositionerType = "NONE"
    data_set.ImagerPixelSpacing = [0.2, 0.2]
    data_set.PixelIntensityRelationship, data_set.PixelIntensityRelationshipSign = "LOG", -1
    data_set.RescaleIntercept, data_set.RescaleSlope, data_set.RescaleType = 0, 1, "US"
    data_set.PresentationLUTShape = "IDENTITY"
    data_set.AcquisitionContextSequence = Sequence()


def _image(data_set: Dataset, grey: NDArray[Any]) -> int:
    """Image pixel module and one window over the whole range; returns bits stored."""
    low, high = int(grey.min()), int(grey.max())
    bits = 8 if grey.dtype == np.uint8 else next(b for b in (10, 12, 14, 16) if high < 1 << b)
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.Rows, data_set.Columns = grey.shape
    data_set.BitsAllocated = 8 * grey.dtype.itemsize
    data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = bits, bits - 1, 0
    data_set.WindowCenter, data_set.WindowWidth = (low + high + 1) / 2, max(1, high - low + 1)
    data_set.VOILUTFunction = "LINEAR"
    return bits
