"""Run the few tests that failed once more, one after another, when nothing else runs.

`make test` runs five tests at once, beside the container's check. A busy machine may end a wait that a peer's library
does not let us lengthen. A test that failed there and passes here is named UNSTEADY: it, or what it tests, has a fault
to be mended. More than a few failures are not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 3
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    names = list(json.loads(FAILED.read_text())) if FAILED.exists() else []
    if not 0 < len(names) <= MOST:
        return 1
    names = list(dict.fromkeys(name.rsplit("@", 1)[0] for name in names))  # pytest-xdist adds a test's group
    code = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", *names]).returncode
    if not code:
        print("\n".join(f"UNSTEADY: failed beside others, passed alone: {name}" for name in names))
    return code


if __name__ == "__main__":
    sys.exit(main())
