"""Stage 3: each delivery to its destination, again and again, until it is done or buried.

It knows the spool and the ways to a destination (`Sender`; DIMSE only in `dimse`). It decodes no pixels and knows no
rules. No destination may delay another one here.
"""

from router.forward.forwarder import Forwarder, NoWorkerError

__all__ = ["Forwarder", "NoWorkerError"]
