"""The log must never stop the work that it tells of."""

from __future__ import annotations

import os
import sys

import pytest
import structlog

from router.observe import logging


@pytest.fixture(autouse=True)
def as_before() -> object:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_broken_pipe_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1, encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", stream)
    logging.set_up("console")
    log = structlog.get_logger()  # the shared one would keep this stream for the tests that follow
    try:
        log.info("stored", instance="1")
        log.error("accept failed")
    finally:
        with pytest.raises(BrokenPipeError):
            stream.close()


def test_a_full_disk_loses_lines_and_goes_on_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Disk:
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            written.append(text)
            return len(text)

        def flush(self) -> None:
            if self.full:
                raise OSError(28, "No space left on device")

    disk = Disk()
    stream = logging.Unfailing(disk)  # type: ignore[arg-type]
    print("lost", file=stream, flush=True)
    disk.full = False
    print("kept", file=stream, flush=True)
    assert "".join(written) == "kept\n"
