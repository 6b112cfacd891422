"""From a data set to a picture: everything between the stored bytes and the network's input."""

from __future__ import annotations

from router.pixels.samples import decode

__all__ = ["decode"]
