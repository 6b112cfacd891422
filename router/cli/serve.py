"""`dicom-router serve`: the node. SIGTERM and Ctrl-C drain and end it, SIGHUP reloads routing.yaml."""

from __future__ import annotations

import queue
import signal
from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import Config


def command(
    config: Config = Path("routing.yaml"),
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the node until it is told to stop. Exit code 2: configuration; 1: it could not start."""
    from router.config import ConfigError, load
    from router.node import Node
    from router.observe import log, where
    from router.observe.logging import set_up
    from router.spool import SpoolError

    settings = load(config)
    set_up(settings.node.log, log_level)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: signals.put(received))
    node = Node(settings)
    node.start()
    try:
        while next_signal(signals) == signal.SIGHUP:
            try:
                node.reload()
            except ConfigError as error:
                log.error("not reloaded", problems=[str(problem) for problem in error.problems])
            except SpoolError as error:
                log.error("not reloaded", reason=str(error))
            except Exception as error:  # a reload that fails must not end the node
                log.error("not reloaded", error=where(error))
    finally:
        node.stop()


def next_signal(signals: queue.SimpleQueue[int]) -> int:
    """Wait for a signal. An end goes before a reload, and however many reloads were asked for, one does for all."""
    waiting = [signals.get()]
    while not signals.empty():
        waiting.append(signals.get())
    return next((number for number in waiting if number != signal.SIGHUP), signal.SIGHUP)
