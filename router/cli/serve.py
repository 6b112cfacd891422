"""`dicom-router serve`: the node. SIGTERM and Ctrl-C drain and end it, SIGHUP reloads routing.yaml."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import Config, Role, choose, settings_of, take_roles


def command(
    config: Config = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    role: Role = None,
) -> None:
    """Run the node until SIGTERM or Ctrl-C. Exit code 2: a mistake in the configuration; 1: it could not start."""
    gc.disable()  # looking for garbage while a thousand modules come in takes a fifth of the start
    from router.inference.process import begin, never_mind

    begin()  # the model's process starts beside this one
    try:
        _serve(config, log_level, role)
    finally:
        never_mind()  # where no model took it over


def _serve(config: Path | None, log_level: str, role: str | None) -> None:
    from router.config import ConfigError
    from router.forward import NoWorkerError
    from router.inference.process import never_mind
    from router.node.node import Node
    from router.node.systemd import Systemd
    from router.observe import log, where
    from router.observe.logging import set_up
    from router.page import Page
    from router.spool import SpoolError

    gc.freeze()
    gc.enable()
    choose("--log-level", log_level, ("debug", "info", "warning", "error"))
    take_roles(role)
    settings = settings_of(config)
    if "classify" not in settings.node.roles:
        never_mind()
    set_up(settings.node.log, log_level)
    signals = signal_pipe()
    systemd = Systemd()
    node = Node(settings, Page)
    node.start()
    systemd.ready(node.health)
    try:
        while next_signal(signals) == signal.SIGHUP:
            try:
                node.reload("SIGHUP")
            except ConfigError as error:
                log.error("not reloaded", problems=[str(problem) for problem in error.problems])
            except (SpoolError, NoWorkerError) as error:
                log.error("not reloaded", reason=str(error))
            except Exception as error:  # a reload that fails must not end the node
                log.error("not reloaded", error=where(error))
    finally:
        systemd.stopping()
        end_anyway(ENDS_WITHIN + node.settings().node.drain)
        node.stop()


ENDS_WITHIN = 8.0
"""Seconds from the signal, or from the end of `node.drain`, as promised. What still hangs then would not end by
itself."""


def end_anyway(seconds: float) -> None:
    """End the process if something hangs while the node stops, such as a disk that does not answer. Nothing is lost:
    the spool is as after a crash."""
    from router.observe import log

    def end() -> None:
        log.error("stopping took too long", seconds=seconds)
        os._exit(1)

    last = threading.Timer(seconds, end)
    last.daemon = True
    last.start()


def signal_pipe() -> int:
    """A descriptor from which the number of every signal can be read as a byte, from now on.

    The interpreter's own handlers wait for the main thread: a signal that comes just before that thread begins to wait
    on a lock is not seen until the next one. What the kernel's handler writes into a pipe cannot be missed.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _received, _frame: None)
    return readable


def next_signal(signals: int) -> int:
    """Wait for a signal. An end goes before a reload, and however many reloads were asked for, one does for all."""
    return next((number for number in os.read(signals, 4096) if number != signal.SIGHUP), signal.SIGHUP)
