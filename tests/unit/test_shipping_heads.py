"""Heads that are fitted on a finished network: they learn, they are judged fairly, and the class stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from router.flow import CLASSES, VIEWS
from router.model.calibration import Calibration
from router.model.mobilenet_v1 import MobileNetV1
from router.training.data import Item, deal, read_manifest
from shipping.head_fit import Head, balanced, fit, fit_polarity, fit_view, judge, polarity_figures, view_figures
from shipping.head_pictures import CLEAN, KINDS, Looked, framed, looked, pictures, shuttered
from shipping.heads import with_heads, with_views
from tests.unit.training_set import make_set, texture

SOURCES = ("north", "south", "east")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shipping.head_fit.STEPS", 15)


@pytest.fixture
def seen() -> Looked:
    """Features that hold view and polarity in a place each, and noise in others; synthetic images and a CT too."""
    rng = np.random.default_rng(0)
    items: list[Item] = []
    features: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in KINDS}
    for number in range(45):
        view, source = number % 3, number // 3 % 3
        item = Item(Path(f"spine/{number}.png"), "spine" if number % 2 else "others", str(number), "train",
                    SOURCES[source], "", ("AP", "LAT", "MLO")[view])  # fmt: skip
        items.append(replace(item, view=f"{item.view};synthetic") if number >= 42 else item)
        for kind, inverted in KINDS.items():
            row = np.zeros(1024)
            row[30:33] = rng.normal(0, 0.1, 3)
            row[view] += 1
            row[20] += inverted
            features[kind].append(row)
    items[0] = replace(items[0], part="ct")
    return Looked(items, {kind: np.array(rows, np.float16) for kind, rows in features.items()})


def test_the_class_has_the_same_bits_with_heads_behind_it() -> None:
    torch.manual_seed(0)
    network, rng = MobileNetV1().eval(), np.random.default_rng(0)
    heads = [Head(rng.normal(size=(k, 1024)).astype(np.float32), np.ones(k, np.float32)) for k in (3, 2)]
    fresh = with_heads(network, *heads)
    for count in (1, 7, 33):
        x = torch.randn(count, 1, 32, 32)
        with torch.inference_mode():
            before, after = network(x), fresh(x)
        assert after[0].shape == (count, 10)
        assert torch.equal(after[0][:, : len(CLASSES)], before[0])
        assert torch.equal(after[1], before[1])
    again = with_heads(fresh, heads[1])
    assert again.head.out_features == 7
    assert torch.equal(again.head.weight[:5], network.head.weight)


@pytest.mark.slow
def test_each_source_is_judged_by_heads_that_never_saw_it(seen: Looked) -> None:
    judged = judge(seen)
    found = view_figures(seen.items, judged.view, {"east"})
    assert (found["all"]["k"], found["all"]["n"]) == (41, 41)  # neither the CT nor what is synthetic
    assert found["with_an_ai"]["n"] + sum(r["n"] for r in found["sources"] if not r["with_an_ai"]) == 41
    assert found["new_sources"]["n"] == sum(row["n"] for row in found["sources"] if row["source"] == "east")
    told = polarity_figures(seen.items, judged.inverted, Calibration(inverted_threshold=0.2))
    assert (told["found"]["k"], told["found"]["n"]) == (41, 41)
    assert (told["alarms"]["k"], told["looked_at_twice"]["k"]) == (0, 0)
    assert told["no_radiographs"]["n"] == 1
    assert sum(row["n"] for row in told["sources"]) == 42
    swapped = judged.inverted | {
        CLEAN: judged.inverted["inverted"],
        "turned by mistake": judged.inverted["turned back"],
    }
    assert polarity_figures(seen.items, swapped, Calibration(inverted_threshold=0.2))["alarms"]["k"] == 41


def test_a_source_that_alone_shows_a_view_cannot_be_known_when_it_is_left_out(seen: Looked) -> None:
    items = [replace(item, source="only" if item.projection == "lateral" else item.source) for item in seen.items]
    found = view_figures(items, judge(Looked(items, seen.features)).view, set())
    assert found["views"]["lateral"]["k"] == 0
    assert found["views"]["frontal"]["k"] == found["views"]["frontal"]["n"]


def test_heads_on_all_images_say_what_they_were_taught(seen: Looked) -> None:
    everything = np.ones(len(seen.items), bool)
    view, polarity = fit_view(seen, everything), fit_polarity(seen, everything)
    said = view(seen.features[CLEAN]).argmax(axis=1)
    assert [VIEWS[n] for n in said[1:]] == [item.projection for item in seen.items[1:]]
    assert (polarity(seen.features["turned by mistake"]).argmax(axis=1) == 1).all()


def test_values_and_sources_are_balanced() -> None:
    weights = balanced([("a", "x")] * 100 + [("a", "y")] * 10 + [("b", "x")] * 5)
    assert weights[:110].sum() == pytest.approx(weights[110:].sum())
    assert 1 < weights[:100].sum() / weights[100:110].sum() < 4


def test_a_feature_that_never_moves_teaches_nothing() -> None:
    features = np.ones((40, 3), np.float32)
    features[:, 1] = np.repeat([0, 1], 20)
    head = fit(features, np.repeat([0, 1], 20), np.ones(40), 2)
    assert np.isfinite(head.weight).all()
    assert head(features).argmax(axis=1).tolist() == np.repeat([0, 1], 20).tolist()


def body() -> NDArray[np.uint8]:
    grey = np.zeros((96, 96), np.uint8)
    grey[16:80, 16:80] = texture(3, np.random.default_rng(0))
    return grey


def test_the_pictures_are_of_every_kind_and_inverted_where_they_say() -> None:
    found = dict(zip(KINDS, pictures(body(), 48, np.random.default_rng(0), []), strict=True))
    assert all(picture.shape == (48, 48) for picture in found.values())
    clean = found[CLEAN].ravel().astype(float)
    for kind in ("turned back", "inverted", "inverted, black shutter", "turned by mistake"):
        assert (np.corrcoef(clean, found[kind].ravel())[0, 1] < 0) == KINDS[kind], kind
    assert (shuttered(body())[:8] == 0).all()
    assert framed(body(), 255).shape == (120, 120)


def test_features_are_looked_at_once(tmp_path: Path) -> None:
    manifest = make_set(tmp_path / "set", each=2)
    items = read_manifest(manifest, manifest.parent, any_split=True)
    (manifest.parent / "spine" / "1.png").write_bytes(b"no picture")
    network, file = MobileNetV1().eval(), tmp_path / "kept.npz"
    first = looked(network, "one", items, 32, file)
    assert len(first.items) == len(items) - 1
    other = MobileNetV1().eval()
    again = looked(other, "one", first.items[:3], 32, file)
    assert all((again.features[kind] == first.features[kind][:3]).all() for kind in KINDS)
    looked(other, "two", first.items[:3], 32, file)
    assert str(np.load(file)["digest"]) == "two"


def test_a_view_is_added_only_where_the_set_has_none(tmp_path: Path) -> None:
    manifest = make_set(tmp_path / "set", each=12)
    items = deal(read_manifest(manifest, manifest.parent))
    items[0] = replace(items[0], view="LAT")
    (tmp_path / "views.csv").write_text("file,view\nabdominal/0.png,AP/PA\nabdominal/1.png,other\n")
    found = with_views(items, tmp_path / "views.csv")
    assert [item.projection for item in found[:3]] == ["lateral", "other", ""]
