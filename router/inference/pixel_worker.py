"""A pixel worker: paths in, pictures and header facts out. It may crash, hang or be killed without harm to others.

`inference.worker_handle` starts it. It reads requests from standard input and answers on standard output, in order.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

from router.dicom.uids import OWN_SYNTAX
from router.inference.child_start import at_most, live_and_die_with
from router.inference.framing import pack, receive, send


def main() -> None:
    parent, memory, size = (int(argument) for argument in sys.argv[1:4])
    live_and_die_with(parent)
    answers = os.fdopen(os.dup(1), "wb")
    # A decoder that prints must not disturb our answers. What it prints may have patient data.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    import router.pixels  # noqa: F401 - all that it needs is mapped before the limit is set

    at_most(memory)
    send(answers, {"ready": True})
    while (request := receive(sys.stdin.buffer)) is not None:
        message, picture = _answer(request, size)
        send(answers, message, picture)


def _answer(request: dict[str, Any], size: int) -> tuple[dict[str, Any], bytes]:
    if request["op"] == "transcode":
        return _transcode(request), b""
    from router.pixels import ExpensiveError, render

    patience = request.get("patience") or math.inf
    try:
        picture, seen = render(Path(request["path"]), size, frozenset(request["tags"]), patience)
    except ExpensiveError:
        return {"expensive": True}, b""
    content = b"" if picture is None else picture.tobytes()
    return {"seen": pack(seen), "picture": len(content)}, content


def _transcode(request: dict[str, Any]) -> dict[str, Any]:
    from router.pixels.even import even_out
    from router.pixels.transcode import transcode

    path, target = Path(request["path"]), Path(request["target"])
    try:
        if request["syntax"] == OWN_SYNTAX:
            even_out(path, target)
        else:
            transcode(path, target, request["syntax"])
    except OSError as error:
        return {"error": error.strerror or type(error).__name__, "errno": error.errno}
    except (ValueError, MemoryError) as error:
        return {"error": str(error) or type(error).__name__}
    return {"done": True}


if __name__ == "__main__":
    main()
