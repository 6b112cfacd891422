"""Stage 1: associations in, data sets to blobs, status codes out.

An instance is acknowledged here and nowhere else, once the spool has it durably. Nothing is decoded beyond the first
elements, and nothing here waits for a rule, the model or a destination.
"""

from router.receive.receiver import Receiver

__all__ = ["Receiver"]
