"""The node, with the CPU time of its threads: `node_with_thread_cpu.py serve …` writes `threads.json` where it runs.

Ten times a second: CPU seconds so far for each thread's name, those of associations that have ended not among them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from pathlib import Path

ACCOUNT = "threads.json"
EVERY = 0.1


def account() -> None:
    while True:
        spent: defaultdict[str, float] = defaultdict(float)
        for thread in threading.enumerate():
            try:
                spent[thread.name] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))
            except OSError:  # it has just ended
                continue
        new = Path(ACCOUNT + ".new")
        new.write_text(json.dumps(spent))
        os.replace(new, ACCOUNT)
        time.sleep(EVERY)


if __name__ == "__main__":
    from router.cli import main

    threading.Thread(target=account, name="account", daemon=True).start()
    main()
