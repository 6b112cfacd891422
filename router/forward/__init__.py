"""Stage 3: deliveries to their destinations by C-STORE. Knows the spool and the requestor, no pixels and no rules."""

from router.forward.forwarder import Forwarder, NoWorkerError

__all__ = ["Forwarder", "NoWorkerError"]
