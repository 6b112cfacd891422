"""A synthetic X-ray of a patient that does not exist, sent to a destination to see whether it takes images."""

from __future__ import annotations

import tempfile
from pathlib import Path

from router.config import Settings
from router.config.settings import DestinationSettings

PATIENCE = 4.0
"""Seconds that a question of a person waits for an answer."""
ARRIVES_AS = "It arrives there as a study of a patient PHANTOM."


def send_test(settings: Settings, to: DestinationSettings) -> str:
    """Send it. Why it did not arrive; empty if it did."""
    import numpy as np

    from router.commands.send_files import send_files
    from router.commands.walking import Found
    from router.pixels.wrap import wrap_image

    y, x = np.mgrid[-1:1:480j, -1:1:400j]
    disc = (2000 * np.clip(1 - (x / 0.7) ** 2 - (y / 0.8) ** 2, 0, 1) + 300).astype(np.uint16)
    with tempfile.TemporaryDirectory(prefix="dicom-router-") as folder:
        path = wrap_image(disc, Path(folder, "test.dcm"))
        (sent,) = send_files([Found(path)], to, settings.calling_ae(to))
    return sent.error
