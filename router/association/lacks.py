"""Resources that this machine lacks: file descriptors, threads or memory. No peer is at fault, and the lack passes."""

from __future__ import annotations

import errno
import os

from router.errors import RouterError

DESCRIPTORS = "out of file descriptors (raise LimitNOFILE= of the service, or ulimit -n)"
WORDS = {
    errno.EMFILE: DESCRIPTORS,
    errno.ENFILE: "the machine is out of file descriptors (raise fs.file-max)",
    errno.ENOMEM: "out of memory",
    errno.ENOBUFS: "out of memory for the network",
}
THREADS = "out of threads (raise TasksMax= of the service, or the container's pids limit)"


class OwnLimitError(RouterError):
    """This machine lacks a resource, so nothing was tried. The text is one line with the fix."""


def own_limit(error: BaseException) -> str:
    """What this machine lacked, with the fix; empty for any other error."""
    if isinstance(error, MemoryError):
        return WORDS[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return THREADS
    return WORDS.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def lacks_descriptors() -> str:
    """The same for an error that hides its cause, such as the resolver's. It tests whether a file can be opened now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return own_limit(error)
    return ""
