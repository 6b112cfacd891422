"""`dicom-router conformance`: the DICOM conformance statement (PS3.2) of the node as it is configured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from router.cli.options import Config, ConfigArgument, config_file


def command(
    file: ConfigArgument = None,
    config: Config = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it here (Markdown).")] = None,
) -> None:
    """Print the conformance statement of this configuration, in Markdown."""
    from router.commands.conformance import statement
    from router.config import load

    text = statement(load(config_file(file, config)))
    if output is None:
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")
