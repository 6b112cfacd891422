"""What the spool says when it cannot do its work: one line, with the fix."""

from __future__ import annotations

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""What an OSError says of a disk that is full: it waits for room, and is nobody's fault."""


class SpoolError(Exception):
    """The spool could not do what was asked; the message is one line for a person.

    `may_come_back`: a crash can bring the change back, since SQLite's log may hold it whole.
    """

    def __init__(self, message: str, *, may_come_back: bool = False) -> None:
        super().__init__(message)
        self.may_come_back = may_come_back
