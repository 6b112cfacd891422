"""The spool: blobs and database. The only room that knows SQL or the paths of blobs; the stages meet only here."""

from router.spool.blobs import Blob
from router.spool.errors import NO_SPACE, SpoolError
from router.spool.opening import open_spool, read_spool
from router.spool.orphans import agrees
from router.spool.rows import Accepted, Claim, Counts, DestinationState, Finished
from router.spool.schema import BURIED, DISCARDED, DONE, OPEN, SHADOW_PREDICTION, SKIPPED
from router.spool.signals import Signal
from router.spool.spool import FULL, INSTANCES, Spool

__all__ = [
    "BURIED",
    "DISCARDED",
    "DONE",
    "FULL",
    "INSTANCES",
    "NO_SPACE",
    "OPEN",
    "SHADOW_PREDICTION",
    "SKIPPED",
    "Accepted",
    "Blob",
    "Claim",
    "Counts",
    "DestinationState",
    "Finished",
    "Signal",
    "Spool",
    "SpoolError",
    "agrees",
    "open_spool",
    "read_spool",
]
