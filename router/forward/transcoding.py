"""Lossless copies of instances that cannot be sent as they came. A copy is made once and kept with the blob.

A native copy is for a destination that refuses the transfer syntax. A padded copy is for a data set of odd length.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from router.association.lacks import own_limit
from router.dicom.part10 import data_set_offset
from router.dicom.uids import OWN_SYNTAX
from router.flow import Caller, Instance, StoredFile
from router.spool import NO_SPACE

LIMIT_SECONDS = 120.0
"""The most seconds for making a copy."""


class Transcoder(Protocol):
    """What is needed from inference: its pixel workers transcode, within their limits."""

    def transcode(self, path: Path, target: Path, syntax: str, caller: Caller) -> Future[str]: ...


Room = Callable[[Instance, Path], AbstractContextManager[None]]
"""A context for making a copy of an instance at a path. Raises OSError if there is no room for it."""


class Copies:
    """Hands out copies. Thread-safe."""

    def __init__(self, transcoder: Transcoder, room: Room) -> None:
        self._transcoder = transcoder
        self._room = room
        self._lock = threading.Lock()
        self._making: dict[Path, threading.Lock] = {}

    def get(self, instance: Instance, blob: Path, syntax: str) -> StoredFile:
        """The copy of a blob in a native syntax, or a padded one for `OWN_SYNTAX`. Raises ValueError if it cannot be
        made without loss, and OSError if there is no room for it."""
        target = blob.with_suffix(f".{'even' if syntax == OWN_SYNTAX else syntax[-1]}.native")
        with self._lock:
            making = self._making.setdefault(target, threading.Lock())
        try:
            with making:
                if not target.exists():
                    with self._room(instance, target):
                        self._make(blob, target, syntax, instance.caller)
        finally:
            with self._lock:
                self._making.pop(target, None)
        offset = data_set_offset(target)
        size = target.stat().st_size - offset
        written = instance.transfer_syntax if syntax == OWN_SYNTAX else syntax
        return StoredFile(target, offset, size, instance.sop_class, instance.sop_instance, written)

    def _make(self, blob: Path, target: Path, syntax: str, caller: Caller) -> None:
        part = target.with_suffix(f".{secrets.token_hex(8)}.part")  # a try that took too long may still write
        try:
            problem = self._transcoder.transcode(blob, part, syntax, caller).result(LIMIT_SECONDS)
            if problem:
                raise ValueError(problem)
            part.chmod(0o600)
            part.rename(target)
        except ValueError:
            raise
        except OSError as error:
            if error.errno in NO_SPACE or own_limit(error):
                raise
            raise ValueError(f"no copy was made ({error.strerror or type(error).__name__})") from error
        except Exception as error:  # inference does not run, or took too long
            raise ValueError(f"no copy was made ({type(error).__name__})") from error
        finally:
            part.unlink(missing_ok=True)
