"""A disk that is full or fails when told to, below a node that knows nothing of it (`faults.c`, preloaded)."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

BLOB, FOLDER, LOG, ALL = "*/blobs/??/*", "*/blobs/??", "*/node.db-wal", "*/spool/*"
Fault = tuple[str, str, int]
"""What fails (`write` or `sync`), of which paths (a pattern), and how (an errno)."""
FAULTS: list[Fault] = [
    ("write", BLOB, errno.ENOSPC), ("write", BLOB, errno.EDQUOT), ("write", BLOB, errno.EIO),
    ("sync", BLOB, errno.EIO), ("sync", BLOB, errno.ENOSPC), ("sync", FOLDER, errno.EIO),
    ("write", LOG, errno.ENOSPC), ("write", LOG, errno.EIO), ("sync", LOG, errno.EIO), ("sync", LOG, errno.ENOSPC),
    ("write", ALL, errno.ENOSPC), ("write", ALL, errno.EIO), ("sync", ALL, errno.EIO),
]  # fmt: skip


class FaultyDisk:
    """Built in `folder`; what is started with `environment` has this disk. It is in good health at first."""

    def __init__(self, folder: Path) -> None:
        library, self._control = folder / "faults.so", folder / "faults"
        source = Path(__file__).with_name("faults.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "FAULTS": str(self._control)}

    def fail(self, *faults: Fault) -> None:
        """Fail like this from now on; without faults: be in good health again."""
        new = self._control.with_suffix(".new")
        new.write_text("".join(f"{call} {pattern} {number}\n" for call, pattern, number in faults))
        os.replace(new, self._control)
