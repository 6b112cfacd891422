"""Does the model look at hospitals or at bodies? The share of images whose `top` changes with what must not matter.

`python -m shipping.shortcuts --model DIR --manifest FILE.csv [--split test]`. Each transform changes what told
the sources of a class apart (margins, markers, equalisation, compression, canvas, polarity, turns) and leaves the body.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from router.flow import CLASSES
from router.pixels.prepare import field, prepare
from router.training.data import Item, deal, read_all, read_manifest
from router.training.evaluate import Model, read_model
from router.training.metrics import binomial_interval

Change = Callable[[Image.Image, Image.Image], Image.Image]
"""A grey image and a donor of another class to the changed image."""


@dataclass(frozen=True, slots=True)
class Transform:
    """`of` limits it to images of these classes, `donors` says whose margins or marks are lent; empty means any."""

    change: Change
    of: tuple[str, ...] = ()
    donors: tuple[str, ...] = ()


def on_margin_of(image: Image.Image, donor: Image.Image) -> Image.Image:
    """The exposed field laid over that of the donor, on the donor's canvas and margin."""
    top, left, bottom, right = field(image)
    up, start, down, end = field(donor)
    canvas = donor.copy()
    body = ImageOps.pad(image.crop((left, top, right, bottom)), (end - start, down - up))
    canvas.paste(body, (start, up))
    return canvas


def small_on_plate(image: Image.Image, _: Image.Image) -> Image.Image:
    """A small bright rectangle in a wide dark margin, as plates keep their scale."""
    width, height = image.size
    rng = np.random.default_rng(0)
    noise = rng.integers(2, 14, (round(height * 1.7), round(width * 1.9)), np.uint8)
    canvas = Image.fromarray(noise)
    canvas.paste(image, (round(width * 0.4), round(height * 0.3)))
    return canvas


def tight(image: Image.Image, _: Image.Image) -> Image.Image:
    """Only the inner 88 % of the exposed field."""
    top, left, bottom, right = field(image)
    across, down = round(0.06 * (right - left)), round(0.06 * (bottom - top))
    return image.crop((left + across, top + down, right - across, bottom - down))


def marked(text: str, place: tuple[float, float]) -> Change:
    """A letter or word burnt in at a share of the exposed field."""

    def change(image: Image.Image, _: Image.Image) -> Image.Image:
        top, left, bottom, right = field(image)
        height, width = bottom - top, right - left
        changed = image.copy()
        spot = left + place[0] * width, top + place[1] * height
        ImageDraw.Draw(changed).text(spot, text, fill=255, font=ImageFont.load_default(max(9, height // 12)))
        return changed

    return change


def equalised(image: Image.Image, _: Image.Image) -> Image.Image:
    """Contrast-limited adaptive histogram equalisation: 8 × 8 tiles, clipped at 3 times the mean, interpolated."""
    values = np.asarray(image)
    height, width = values.shape
    rows, columns = -(-height // 8), -(-width // 8)
    padded = np.pad(values, ((0, rows * 8 - height), (0, columns * 8 - width)), mode="edge")
    tiles = padded.reshape(8, rows, 8, columns).swapaxes(1, 2).reshape(64, -1)
    counts = np.stack([np.bincount(tile, minlength=256) for tile in tiles]).astype(np.float64)
    ceiling = 3 * tiles.shape[1] / 256
    spare = np.maximum(counts - ceiling, 0).sum(axis=1, keepdims=True)
    tables = np.cumsum(np.minimum(counts, ceiling) + spare / 256, axis=1) / tiles.shape[1] * 255
    tables = tables.reshape(8, 8, 256)
    y = np.clip((np.arange(height) + 0.5) / rows - 0.5, 0, 7)[:, None]
    x = np.clip((np.arange(width) + 0.5) / columns - 0.5, 0, 7)[None]
    up, start = np.minimum(y.astype(int), 6), np.minimum(x.astype(int), 6)
    down_share, right_share = y - up, x - start
    found = np.zeros(values.shape)
    for row, vertical in ((up, 1 - down_share), (up + 1, down_share)):
        for column, horizontal in ((start, 1 - right_share), (start + 1, right_share)):
            found += tables[row, column, values] * vertical * horizontal
    return Image.fromarray(found.clip(0, 255).astype(np.uint8))


def unequalised(image: Image.Image, _: Image.Image) -> Image.Image:
    """Local contrast taken back: half of the detail goes, the light of the large shapes stays."""
    large: NDArray[np.float32] = np.asarray(image.filter(ImageFilter.BoxBlur(max(image.size) / 16)), np.float32)
    values: NDArray[np.float32] = np.asarray(image, np.float32)
    return Image.fromarray((large + 0.5 * (values - large)).clip(0, 255).astype(np.uint8))


def jpeg_40(image: Image.Image, _: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=40)
    return Image.open(stream).convert("L")


def canvas(ratio: float) -> Change:
    """Centred on black of this width by height."""

    def change(image: Image.Image, _: Image.Image) -> Image.Image:
        width, height = image.size
        size = (max(width, round(height * ratio)), max(height, round(width / ratio)))
        return ImageOps.pad(image, size) if size == image.size else _laid(image, size)

    return change


def _laid(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    black = Image.new("L", size)
    black.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return black


def turned(quarter: Image.Transpose) -> Change:
    return lambda image, _: image.transpose(quarter)


TRANSFORMS = {
    "child on an adult's margin": Transform(on_margin_of, ("pediatric_chest",), ("adult_chest",)),
    "adult on a child's margin": Transform(on_margin_of, ("adult_chest",), ("pediatric_chest",)),
    "any class on another's margin": Transform(on_margin_of),
    "small on a dark plate": Transform(small_on_plate),
    "tight crop": Transform(tight),
    "R at the upper left": Transform(marked("R", (0.03, 0.03))),
    "L at the upper right": Transform(marked("L", (0.9, 0.03))),
    "PORTABLE at the lower left": Transform(marked("PORTABLE", (0.03, 0.88))),
    "local equalisation on": Transform(equalised),
    "local equalisation off": Transform(unequalised),
    "JPEG at 40": Transform(jpeg_40),
    "landscape canvas": Transform(canvas(1.5)),
    "portrait canvas": Transform(canvas(0.67)),
    "inverted polarity": Transform(lambda image, _: ImageOps.invert(image)),
    "quarter turn left": Transform(turned(Image.Transpose.ROTATE_90)),
    "half turn": Transform(turned(Image.Transpose.ROTATE_180)),
    "quarter turn right": Transform(turned(Image.Transpose.ROTATE_270)),
    "mirrored": Transform(lambda image, _: ImageOps.mirror(image)),
}


def shortcuts(model: Model, items: Sequence[Item], *, longest: int = 1024, seed: int = 0) -> dict[str, Any]:
    """For each transform: images whose `top` changed, of n, and of how many it had been right before and after."""
    kept, images, _ = read_all(items, longest=longest)
    before = _tops(model, images)
    truth = np.array([item.target for item in kept])
    rng = np.random.default_rng(seed)
    table = {}
    for name, transform in TRANSFORMS.items():
        mine = [i for i, item in enumerate(kept) if not transform.of or item.label in transform.of]
        if not mine:
            continue
        donors = [_donor(kept, i, transform, rng) for i in mine]
        after = _tops(model, [transform.change(images[i], images[d]) for i, d in zip(mine, donors, strict=True)])
        changed = int((after != before[mine]).sum())
        low, high = binomial_interval(changed, len(mine))
        table[name] = {
            "changed": changed, "n": len(mine), "share": round(changed / len(mine), 4),
            "low": round(low, 4), "high": round(high, 4),
            "right_before": int((before[mine] == truth[mine]).sum()), "right_after": int((after == truth[mine]).sum()),
        }  # fmt: skip
    return table


def _donor(items: Sequence[Item], place: int, transform: Transform, rng: np.random.Generator) -> int:
    label = items[place].label
    lenders = [i for i, item in enumerate(items)
               if item.label != label and (not transform.donors or item.label in transform.donors)]  # fmt: skip
    return int(rng.choice(lenders)) if lenders else place


def _tops(model: Model, images: Sequence[Image.Image]) -> NDArray[np.int64]:
    tops = [
        model.look(np.stack([prepare(np.asarray(image), size=model.size)[0] for image in images[begin : begin + 32]]))[
            0
        ]
        for begin in range(0, len(images), 32)
    ]
    found: NDArray[np.int64] = np.concatenate(tops)[:, : len(CLASSES)].argmax(axis=1)
    return found


def main(
    model: Annotated[Path, typer.Option(help="A model's folder.")],
    manifest: Annotated[Path, typer.Option()],
    root: Annotated[Path | None, typer.Option()] = None,
    split: Annotated[str, typer.Option()] = "test",
) -> None:
    """Print the table as JSON."""
    items = [item for item in deal(read_manifest(manifest, root or manifest.parent)) if item.split == split]
    print(json.dumps(shortcuts(read_model(model), items), indent=1))


if __name__ == "__main__":
    typer.run(main)
