"""The spool: blobs and database of one node. The stages of an instance's way meet only here.

This is the only room that knows SQL, the tables, or the paths of blobs. It keeps what was acknowledged until each
destination has it, or a person has said otherwise. Of DICOM it knows only the header of a blob. It decodes no pixels,
judges no rules, and connects only to its own database. No patient or study value enters a row, except the UIDs that a
delivery needs.

Begin reading with `spool`. Each of its parts has a module of its own name.
"""

from router.spool.blobs import Blob
from router.spool.bulk_choice import ChoiceError
from router.spool.bulk_rows import Act, Job, JobState
from router.spool.errors import NO_SPACE, SpoolError
from router.spool.notes import agrees
from router.spool.objects import StoreError
from router.spool.opening import open_spool, read_spool
from router.spool.remote_blobs import ChangedError
from router.spool.rows import (
    Accepted,
    Claim,
    Counts,
    DeliveryRow,
    DestinationState,
    EventRow,
    Finished,
    InstanceRow,
    values_of,
)
from router.spool.schema import SHADOW_PREDICTION
from router.spool.signals import BULK, COMMITMENTS, FULL, INSTANCES, Signal
from router.spool.spool import Spool
from router.spool.states import CommitmentState, DeliveryState, InstanceState
from router.spool.users import LOCAL, UserError, UserRow, Users, Visit

__all__ = [
    "BULK",
    "COMMITMENTS",
    "FULL",
    "INSTANCES",
    "LOCAL",
    "NO_SPACE",
    "SHADOW_PREDICTION",
    "Accepted",
    "Act",
    "Blob",
    "ChangedError",
    "ChoiceError",
    "Claim",
    "CommitmentState",
    "Counts",
    "DeliveryRow",
    "DeliveryState",
    "DestinationState",
    "EventRow",
    "Finished",
    "InstanceRow",
    "InstanceState",
    "Job",
    "JobState",
    "Signal",
    "Spool",
    "SpoolError",
    "StoreError",
    "UserError",
    "UserRow",
    "Users",
    "Visit",
    "agrees",
    "open_spool",
    "read_spool",
    "values_of",
]
