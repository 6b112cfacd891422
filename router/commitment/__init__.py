"""Storage Commitment (PS3.4 annex J): an archive's own word for what it keeps, asked for and passed on to the caller.

This node is no archive, so it never commits by itself. It plugs into the associations as a `Service`, and opens its
own. This room may import the spool and the associations, and no other stage.
"""

from router.commitment.committer import Committer

__all__ = ["Committer"]
