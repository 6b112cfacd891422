"""The training loop: one file to read from top to bottom.

An epoch draws its images and augmentations from (seed, epoch) alone, so a resumed run goes exactly as an
uninterrupted one. After each epoch the state is saved whole, the best by validation beside it.
"""

from __future__ import annotations

import copy
import io
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name

from router.flow import VIEWS
from router.model import files
from router.model.architecture import WIDTH
from router.model.calibration import HEADS, Calibration
from router.model.mobilenet_v1 import Head, MobileNetV1, scale
from router.model.saving import save_model
from router.pixels.prepare import field, prepare
from router.training import augment
from router.training.data import DataError, Item, digest_of, read_all
from router.training.metrics import macro_f1
from router.training.networks import Learner
from router.training.recipe import Recipe, rate_at

EPOCH = "epoch {epoch} loss {loss:.4f} val F1 {val_f1:.4f} val loss {val_loss:.4f} {seconds:.0f} s"
VIEW, INVERTED = "view", "inverted"
LEAST = 8
"""Images. A value that fewer images have is not learned."""


@dataclass(slots=True)
class Set:
    """Images of one split in memory, with the exposed field of each, found once."""

    items: list[Item]
    images: list[Image.Image]
    fields: list[tuple[int, int, int, int]]
    prepared: NDArray[np.uint8]


def load_set(
    items: Sequence[Item], size: int, progress: Callable[[int], None] = lambda _: None
) -> tuple[Set, list[Any]]:
    """Read, find the field, prepare. Returns the set and what had to be skipped; raises DataError if all was."""
    kept, images, skipped = read_all(items, longest=max(256, size * 9 // 5), progress=progress)
    if not kept:
        raise DataError(f"none of {len(items)} images can be read; the first: {skipped[0].path if skipped else '-'}")
    fields = [field(image) for image in images]
    prepared = np.stack([prepare(np.asarray(image), size=size)[0] for image in images])
    return Set(kept, images, fields, prepared), skipped


def train(
    recipe: Recipe,
    items: Sequence[Item],
    out: Path,
    *,
    weights: Path | None = None,
    device: str = "auto",
    workers: int = 2,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    stop_after: int | None = None,
) -> Path:
    """Train on the items of split train, choose by val, write runs and the best model into `out`.

    Resumes by itself where `out` holds the state of the same recipe and set; raises DataError where of another.
    `weights` is an ImageNet start. Returns the folder with `model.safetensors` and `card.json`.
    """
    where = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    out.mkdir(parents=True, exist_ok=True)
    (train_set, skipped), (val_set, also) = (
        load_set([item for item in items if item.split == split], recipe.size) for split in ("train", "val")
    )
    for one in (*skipped, *also):
        say(f"skipped {one.path}: {one.reason}")
    say(f"{len(train_set.items)} train, {len(val_set.items)} val, {len(skipped) + len(also)} skipped")

    torch.manual_seed(recipe.seed)
    tasks = _tasks(train_set.items, recipe) if recipe.helpers else {}
    learner = Learner(recipe.network, {task: len(names) for task, names in tasks.items()}, weights)
    learner.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    _freeze(learner, recipe.frozen_blocks)
    averaged = copy.deepcopy(learner).eval()
    optimizer = _optimizer(recipe, learner)
    targets = _targets(train_set.items, tasks)
    share = _shares(recipe, train_set.items)
    draws = recipe.draws or len(train_set.items)
    steps = math.ceil(draws / recipe.batch)
    scaler = torch.amp.GradScaler(enabled=where.type == "cuda")
    identity = {"recipe": asdict(recipe), "set": digest_of(items)}
    history: list[dict[str, float]] = []
    start = _resume(out / "state.pt", identity, learner, averaged, optimizer, scaler, history)

    with ThreadPoolExecutor(workers) as pool:
        for epoch in range(start, min(recipe.epochs, stop_after or recipe.epochs)):
            began, losses = time.monotonic(), []
            rng = np.random.default_rng((recipe.seed, epoch))
            torch.manual_seed(recipe.seed * 100_003 + epoch)
            _still(learner.train(), recipe.frozen_blocks)
            batches = _batches(train_set, _order(rng, share, draws), recipe, (recipe.seed, epoch), pool)
            for step, (chosen, pictures, inverted) in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = rate_at(recipe, epoch + step / steps)
                x = scale(torch.from_numpy(pictures).to(where)).contiguous(memory_format=torch.channels_last)
                with torch.autocast(where.type, enabled=_has_fast_halves(where)):
                    outputs = learner(x)
                    wanted = {task: t.to(where) for task, t in _wanted(targets, chosen, inverted).items()}
                    loss = _loss(recipe, outputs, wanted)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
                _follow(averaged, learner, recipe.average, epoch * steps + step)
                losses.append(float(loss.detach()))
                progress(epoch * steps + step + 1, recipe.epochs * steps)
            logits = predict(averaged, val_set.prepared)
            truth = np.array([item.target for item in val_set.items])
            score = macro_f1(truth, logits.argmax(axis=1))
            nll = float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth)))
            history.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "val_f1": score, "val_loss": nll,
                            "rate": rate_at(recipe, epoch + 1), "seconds": time.monotonic() - began})  # fmt: skip
            say(EPOCH.format(**history[-1]))
            if _better(history):
                _write_best(averaged, out, recipe, identity, history)
            _save(out / "state.pt", {
                "identity": identity, "learner": learner.state_dict(), "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), "history": history,
            })  # fmt: skip
            (out / "history.json").write_text(json.dumps(history, indent=1))
    return out / "best"


def predict(learner: nn.Module, prepared: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
    """Logits (n, 5) for prepared pictures (n, size, size)."""
    learner.eval()
    where = next(learner.parameters()).device
    rows = []
    with torch.inference_mode():
        for begin in range(0, len(prepared), batch):
            x = scale(torch.from_numpy(prepared[begin : begin + batch]).to(where))
            rows.append(learner(x.contiguous(memory_format=torch.channels_last))["class"].float().cpu().numpy())
    return np.concatenate(rows)


def _has_fast_halves(where: torch.device) -> bool:
    """Whether mixed precision pays: float16 on CUDA, bfloat16 on a CPU with instructions for it (twice the rate)."""
    return where.type == "cuda" or (where.type == "cpu" and torch.cpu._is_avx512_bf16_supported())


def _batches(
    data: Set, order: NDArray[np.int64], recipe: Recipe, seed: tuple[int, int], pool: ThreadPoolExecutor
) -> Any:
    """Chosen indices, augmented pictures (n, size, size), which are inverted; one batch is made while one is used."""
    flip = np.random.default_rng((*seed, len(order))).random(len(order)) < recipe.inverted
    flip &= recipe.augmentation == "robust"

    def make(place: int) -> NDArray[np.uint8]:
        rng, index = np.random.default_rng((*seed, place)), order[place]
        if recipe.augmentation == "robust":
            image, field = data.images[index], data.fields[index]
            return augment.robust(image, field, rng, recipe.size, data.images, inverted=bool(flip[place]))
        if recipe.augmentation == "paper":
            return augment.paper(data.prepared[index], rng)
        picture: NDArray[np.uint8] = data.prepared[index]
        return picture

    places = [range(begin, min(begin + recipe.batch, len(order))) for begin in range(0, len(order), recipe.batch)]
    places = [batch for batch in places if len(batch) > 1]
    waiting = [pool.submit(make, place) for place in places[0]]
    for number, batch in enumerate(places):
        pictures = np.stack([future.result() for future in waiting])
        waiting = [pool.submit(make, place) for place in places[number + 1]] if number + 1 < len(places) else []
        taken = slice(batch.start, batch.stop)
        yield torch.from_numpy(order[taken]), pictures, torch.from_numpy(flip[taken])


def _shares(recipe: Recipe, items: Sequence[Item]) -> NDArray[np.float64] | None:
    """The chance of each image to be drawn; None where the recipe takes them as they come."""
    if recipe.class_shares is None:
        return None
    sizes = Counter((item.label, item.source) for item in items)
    # A source of a handful of images must not be drawn as if it were a hospital.
    weight = {key: n**recipe.source_power * n / (n + 4) for key, n in sizes.items()}
    total: dict[str, float] = defaultdict(float)
    for (label, _), w in weight.items():
        total[label] += w
    chance = np.array([
        recipe.class_shares[item.target] * weight[item.label, item.source] / total[item.label]
        / sizes[item.label, item.source] for item in items
    ])  # fmt: skip
    normal: NDArray[np.float64] = chance / chance.sum()
    return normal


def _order(rng: np.random.Generator, share: NDArray[np.float64] | None, draws: int) -> NDArray[np.int64]:
    if share is None:
        return rng.permutation(draws)
    # Systematic drawing: as even as the shares allow, so that no image is missed or doubled by luck.
    points = (np.arange(draws) + rng.random()) / draws
    shuffled = rng.permutation(len(share))
    drawn = shuffled[np.searchsorted(np.cumsum(share[shuffled]), points).clip(max=len(share) - 1)]
    return rng.permutation(drawn)


def _tasks(items: Sequence[Item], recipe: Recipe) -> dict[str, list[str]]:
    """What is learned beside the class: the frequent values of `part`, and view and polarity if possible."""
    tasks: dict[str, list[str]] = {}
    parts = Counter(item.part for item in items)
    names = sorted(name for name, n in parts.items() if name and n >= LEAST)
    if len(names) > 1:
        tasks["part"] = names
    if all(sum(item.projection == name for item in items) >= LEAST for name in VIEWS):
        tasks[VIEW] = list(VIEWS)
    if recipe.augmentation == "robust" and recipe.inverted > 0:
        tasks[INVERTED] = ["right", "inverted"]
    return tasks


def _targets(items: Sequence[Item], tasks: dict[str, list[str]]) -> dict[str, Tensor]:
    """Class and helper targets for every item; −1 where a helper has none. Polarity is that of the image as it is."""
    targets = {"class": torch.tensor([item.target for item in items])}
    for task, names in tasks.items():
        place = {name: index for index, name in enumerate(names)}
        if task == INVERTED:
            found = [0 if item.is_radiograph else -1 for item in items]
        else:
            found = [place.get(item.projection if task == VIEW else item.part, -1) for item in items]
        targets[task] = torch.tensor(found)
    return targets


def _wanted(targets: dict[str, Tensor], chosen: Tensor, inverted: Tensor) -> dict[str, Tensor]:
    """The targets of the pictures of a batch, of which some were inverted."""
    wanted = {task: target[chosen] for task, target in targets.items()}
    if INVERTED in wanted:
        wanted[INVERTED][inverted & (wanted[INVERTED] >= 0)] = 1
    return wanted


def _loss(recipe: Recipe, outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    loss = F.cross_entropy(outputs["class"], targets["class"], label_smoothing=recipe.smoothing)
    for task in outputs:
        if task != "class" and bool((targets[task] >= 0).any()):
            loss = loss + recipe.helpers * F.cross_entropy(outputs[task], targets[task], ignore_index=-1)
    return loss


def _optimizer(recipe: Recipe, learner: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in learner.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return (torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam)(groups, lr=recipe.rate)


def _early(learner: Learner, blocks: int) -> list[nn.Module]:
    if blocks == 0 or not isinstance(learner.net, MobileNetV1):
        return []
    names = ["conv1", "conv1_bn"]
    for number in range(1, blocks + 1):
        names += [f"conv_{kind}_{number}{norm}" for kind in ("dw", "pw") for norm in ("", "_bn")]
    return [getattr(learner.net, name) for name in names]


def _freeze(learner: Learner, blocks: int) -> None:
    for module in _early(learner, blocks):
        module.requires_grad_(False)


def _still(learner: Learner, blocks: int) -> None:
    for module in _early(learner, blocks):
        module.eval()


@torch.no_grad()
def _follow(averaged: nn.Module, learner: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the learner; early on faster, so that the start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    own, new = averaged.state_dict(), learner.state_dict()
    for name, tensor in own.items():
        if tensor.is_floating_point():
            tensor.lerp_(new[name], 1 - decay)
        else:
            tensor.copy_(new[name])


def _better(history: list[dict[str, float]]) -> bool:
    """Best by validation F1; the loss decides between equals."""
    key = [(entry["val_f1"], -entry["val_loss"]) for entry in history]
    return key[-1] == max(key)


def joined(learner: Learner) -> tuple[MobileNetV1, tuple[str, ...]]:
    """The network with the heads that serve (class, view, polarity) as one, one above the other; and their names."""
    network: MobileNetV1 = copy.deepcopy(learner.net)
    heads = ("class", *(name for name in HEADS if name in learner.helpers))
    states = [network.head.state_dict(), *(learner.helpers[name].state_dict() for name in heads[1:])]
    network.head = Head(WIDTH, sum(HEADS[name] for name in heads))
    network.head.load_state_dict({key: torch.cat([state[key] for state in states]) for key in ("weight", "bias")})
    return network, heads


def _write_best(learner: Learner, out: Path, recipe: Recipe, identity: dict[str, Any], history: list[Any]) -> None:
    trained = identity | {"epoch": history[-1]["epoch"]}
    figures = {"val_macro_f1": round(history[-1]["val_f1"], 4)}
    if isinstance(learner.net, MobileNetV1):
        network, heads = joined(learner)
        calibration = Calibration(heads=heads)
        save_model(network, out / "best", size=recipe.size, calibration=calibration, figures=figures, trained=trained)
    else:
        (out / "best").mkdir(exist_ok=True)
        _save(out / "best" / "network.pt", {"recipe": asdict(recipe), "state": learner.net.state_dict()})


def _save(path: Path, state: dict[str, Any]) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    files.replace(path, content.getvalue())


def _resume(path: Path, identity: dict[str, Any], learner: nn.Module, averaged: nn.Module, optimizer: Any, scaler: Any,
            history: list[dict[str, float]]) -> int:  # fmt: skip
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if json.dumps(state["identity"], sort_keys=True) != json.dumps(identity, sort_keys=True):
        raise DataError(f"{path}: the state of another recipe or set; choose another folder, or delete this one")
    learner.load_state_dict(state["learner"])
    averaged.load_state_dict(state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    scaler.load_state_dict(state["scaler"])
    history.extend(state["history"])
    return len(history)
