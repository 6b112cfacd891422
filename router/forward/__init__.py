"""Stage 3: try each delivery until it is done or buried.

This room knows the spool and the ways to a destination (`Sender`; DIMSE only in `dimse`, HTTP only in `stow`). It
decodes no pixels and knows no rules. No destination may delay another one.
"""

from router.forward.forwarder import Forwarder, NoWorkerError

__all__ = ["Forwarder", "NoWorkerError"]
