"""Stage 1: associations in, data sets to blobs, status codes out."""

from router.receive.receiver import Receiver

__all__ = ["Receiver"]
