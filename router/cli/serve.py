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
    from router.observe import log
    from router.observe.logging import set_up

    settings = load(config)
    set_up(settings.node.log, log_level)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: signals.put(received))
    node = Node(settings)
    node.start()
    try:
        while signals.get() == signal.SIGHUP:
            try:
                node.reload()
            except ConfigError as error:
                log.error("not reloaded", problems=[str(problem) for problem in error.problems])
    finally:
        node.stop()
