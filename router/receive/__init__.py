"""Stage 1: associations in, data sets to blobs, status codes out.

Only this room acknowledges an instance, once the spool has it durably. It reads no more than the first elements. It
never waits for a rule, the model or a destination.
"""

from router.receive.receiver import Receiver

__all__ = ["Receiver"]
