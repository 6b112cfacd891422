"""Storage Commitment (PS3.4 annex J): asks an archive whether it keeps an instance, and passes the answer on.

This node is no archive, so it never commits by itself. The room is a `Service` of the node's associations, and opens
associations itself. It may import the spool and the associations, and no other stage.
"""

from router.commitment.committer import Committer

__all__ = ["Committer"]
