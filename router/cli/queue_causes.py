"""`dicom-router queue causes` and `label`: what was buried, by its cause; and what a person sees in an image."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from router.cli.control import change
from router.cli.options import Config, Json, local_time, open_spool_of, printable, settings_of, spool_of
from router.cli.queue_close import To
from router.cli.queue_show import Which, instance_of


def causes(to: To = None, config: Config = None, as_json: Json = False) -> None:
    """List buried deliveries by destination and reason, the most frequent first.

    `find --cause REASON` has the instances of one; `queue retry --cause REASON` and the like are for all of it.
    """
    with open_spool_of(config, to) as (_, spool):
        for one in spool.overview.causes():
            if to in (None, one.destination):
                when = f"first {local_time(one.first_at)}, last {local_time(one.last_at)}"
                line = f"{one.n:8d}  {one.destination:20s} {one.reason or '(no reason is known)'}  ({when})"
                print(json.dumps(asdict(one)) if as_json else printable(line))


def label(
    instance: Which,
    class_name: Annotated[str, typer.Argument(metavar="CLASS", help="What the image shows.")],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what an instance shows. The latest label counts; the page's Review collects them for `adapt`."""
    from router.node.orders import Label

    with closing(spool_of(config)) as spool:
        which = instance_of(spool, instance)
    answer = change(settings_of(config), Label(which, class_name))
    print(json.dumps(answer) if as_json else "the label is kept")
