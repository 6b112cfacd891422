"""A pixel worker: paths in, pictures and header facts out. It may crash, hang or be killed without harm to others.

It is a copy of the process of `nursery`. Requests come and answers go in order.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from router.dicom.uids import OWN_SYNTAX
from router.inference.framing import pack, receive, send


def work(requests: BinaryIO, answers: BinaryIO, size: int) -> None:
    """Answer each request until there are no more. Pictures have `size` pixels a side."""
    # A decoder that prints must not disturb the log. What it prints may have patient data.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    send(answers, {"ready": True})
    while (request := receive(requests)) is not None:
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
