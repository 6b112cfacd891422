"""A PNG or JPEG that is no DICOM, as a grey image: for trying the router on files and for training.

Received data sets never come this way.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from router.pixels.codestream import MOST_PIXELS


def load_image(path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A PNG or JPEG file as grey (rows, columns), uint8, or uint16 where it has more than 8 bits.

    Colour becomes luminance, transparency black, and the orientation that a camera noted is applied. Raises ValueError
    with a sentence for a person when it is no such image, damaged, or beyond the size limit; OSError when the file
    cannot be read.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=["PNG", "JPEG"]) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                return _grey(ImageOps.exif_transpose(opened))
        except UnidentifiedImageError:
            raise ValueError("this is neither a PNG nor a JPEG image") from None
        except Image.DecompressionBombError:
            raise ValueError("the image is larger than the limit") from None
        except (OSError, SyntaxError, EOFError, ValueError, MemoryError):
            raise ValueError("the image is damaged") from None


def _grey(image: Image.Image) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if image.mode.startswith("I"):
        return np.asarray(np.clip(np.asarray(image), 0, 65535), np.uint16)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return np.array(image.convert("L"), np.uint8)
