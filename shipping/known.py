"""Write `known.safetensors` into a model's folder: what `dicom-router adapt` needs of the images it was trained on.

`python -m shipping.known --model models/mobilenet_v1 --manifest SET.csv`; `shipping.ship` does it as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from router.model.card import WEIGHTS, Card
from router.model.mobilenet_v1 import MobileNetV1
from router.training.data import deal, read_manifest
from router.training.known_images import FILE, KnownImages


def main(
    model: Annotated[Path, typer.Option(help="The model's folder.")],
    manifest: Annotated[Path, typer.Option(help="The manifest that it was trained on.")],
    root: Annotated[Path | None, typer.Option(help="The folder of its files. Default: that of the manifest.")] = None,
) -> None:
    """Look at the images, and write the file."""
    card, network = Card.read(model), MobileNetV1.read(model / WEIGHTS)
    items = deal(read_manifest(manifest, root or manifest.parent))
    known = KnownImages.of(network, items, card.size)
    known.write(model, card.digest)
    print(f"{model / FILE}: {len(known.learned)} to learn from, {len(known.pinned)} pinned")


if __name__ == "__main__":
    typer.run(main)
