"""Sends one message by Apprise, as a process of its own: `python -m router.notify.apprise_child`.

Apprise reads an answer whole into memory, however long it is, and has no limit for the whole of its time. Standard
input is a JSON object with `address`, `title`, `body`, `kind` and `memory`. The exit code is 0 if the message was
taken. Nothing is printed, since a library's text may hold the address.
"""

from __future__ import annotations

import json
import sys

from router.inference.child_start import at_most


def main() -> int:
    about = json.load(sys.stdin)
    from router.notify.sending import apprise_for

    to = apprise_for(about["address"])
    at_most(about["memory"])
    return 0 if to.notify(body=about["body"], title=about["title"], notify_type=about["kind"]) else 1


if __name__ == "__main__":
    sys.exit(main())
