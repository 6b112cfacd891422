"""The messages between node, inference and pixel workers: one JSON object a line. A picture follows as raw bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, BinaryIO

from router.flow import PictureFacts, Prediction, Seen

LONGEST = 4 << 20
"""The most bytes of a line. Header values are cut before they get here."""


def send(stream: BinaryIO, message: dict[str, Any], picture: bytes = b"") -> None:
    """Write a message, and a picture of `message["picture"]` bytes behind it."""
    stream.write(json.dumps(message, separators=(",", ":")).encode() + b"\n" + picture)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message; None at the end of the stream."""
    line = stream.readline(LONGEST)
    if not line.endswith(b"\n"):
        return None
    message: dict[str, Any] = json.loads(line)
    return message


def pack(seen: Seen) -> dict[str, Any]:
    packed = asdict(seen)
    packed["header"] = {str(tag): values for tag, values in seen.header.items()}
    return packed


def unpack(packed: dict[str, Any]) -> Seen:
    facts = packed["facts"]
    for name in ("window", "crop"):
        facts[name] = tuple(facts[name]) if facts[name] is not None else None
    facts["notes"] = tuple(facts["notes"])
    prediction = packed["prediction"]
    if prediction is not None:
        prediction["probabilities"] = tuple(prediction["probabilities"])
    return Seen(
        pixels=packed["pixels"],
        header={int(tag): None if values is None else tuple(values) for tag, values in packed["header"].items()},
        prediction=Prediction(**prediction) if prediction is not None else None,
        facts=PictureFacts(**facts),
        reason=packed["reason"],
        render_ms=packed["render_ms"],
        model_ms=packed["model_ms"],
        references=tuple(packed["references"]),
        result_of=tuple(packed["result_of"]),
    )
