"""The life of a model: swapped under traffic, tested before it serves, in shadow, and swapped back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config.settings import ModelSettings, NodeSettings, SpoolSettings
from router.flow import CLASSES, Prediction, Seen
from router.inference import Inference, InferenceError, Shadow
from router.inference.shadow import MOST
from router.model.calibration import Calibration
from router.model.card import CARD, WEIGHTS, Card
from router.model.untrained import save_random_model
from router.node.model_store import FILES, ModelStore, State, StoreError
from router.node.orders import ModelOrder, SetShadow, parse
from router.node.serving_models import FIRST_PAUSE, LONGEST_PAUSE, ServingModels
from router.observe.metrics import SHADOW_PREDICTIONS
from router.pixels.wrap import wrap_image
from router.spool import open_spool
from router.training.candidate import compare, count_shadow, pinned_images
from router.training.data import DataError, Item, deal, digest_of
from router.training.evaluate import Answers
from tests.unit.peer import wait_for
from tests.unit.receiving import settings
from tests.unit.stubborn import save_stubborn_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models, and the folder of one whose weights are not those of its card."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("old", "new", "broken")):
        save_random_model(folder / name, size=64, seed=seed)
    (folder / "broken" / "model.safetensors").write_bytes((folder / "old" / "model.safetensors").read_bytes())
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def dx(tmp_path: Path) -> Path:
    return wrap_image(np.random.default_rng(0).integers(0, 4096, (300, 200), np.uint16), tmp_path / "dx.dcm")


@pytest.fixture(scope="module")
def started(models: dict[str, Path]) -> Iterator[Inference]:
    inference = Inference(ModelSettings(path=models["old"], device="cpu", engine="torch", workers=1))
    inference.start()
    yield inference
    inference.stop(5)


@dataclass
class Swap:
    """A running inference, the digest of its model, and another model with its digest."""

    inference: Inference
    old: str
    path: Path
    new: str


@pytest.fixture
def swap(started: Inference, models: dict[str, Path]) -> Swap:
    wait_for(lambda: started.is_ready)
    old = started.info()["model"]
    path = next(models[name] for name in ("old", "new") if Card.read(models[name]).digest != old)
    return Swap(started, old, path, Card.read(path).digest)


def answered_by(future: Future[Seen]) -> str:
    prediction = future.result(60).prediction
    assert prediction is not None
    return prediction.model


# -- the swap ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_swap_under_traffic_loses_nothing_and_nobody_waits_for_it(swap: Swap, dx: Path) -> None:
    inference, before = swap.inference, swap.inference.info()["pid"]
    asked: list[Future[Seen]] = []
    done = threading.Event()

    def traffic() -> None:
        while not done.is_set():
            asked.append(inference.look(dx, frozenset()))
            answered_by(asked[-1])

    def commit() -> None:  # the new process is warm, and the old one still answers
        assert answered_by(inference.look(dx, frozenset())) == swap.old

    threads = [threading.Thread(target=traffic), threading.Thread(target=inference.swap, args=(swap.path, commit))]
    for thread in threads:
        thread.start()
    threads[1].join(120)  # a child must outlive the thread that ordered it
    last = inference.look(dx, frozenset())
    done.set()
    threads[0].join(60)
    digests = [answered_by(future) for future in asked]
    assert digests == sorted(digests, key=[swap.old, swap.new].index), "the old one was asked after the new one"
    assert digests[0] == swap.old
    assert answered_by(last) == swap.new
    assert inference.info()["model"] == swap.new
    wait_for(lambda: not Path(f"/proc/{before}").exists())


@pytest.mark.slow
def test_what_the_old_process_was_asked_it_answers(swap: Swap, dx: Path) -> None:
    inference, pid = swap.inference, swap.inference.info()["pid"]
    waiting: list[Future[Seen]] = []

    def commit() -> None:
        os.kill(pid, signal.SIGSTOP)
        waiting.extend(inference.look(dx, frozenset()) for _ in range(5))

    inference.swap(swap.path, commit)
    assert answered_by(inference.look(dx, frozenset())) == swap.new
    assert not any(future.done() for future in waiting)
    os.kill(pid, signal.SIGCONT)
    assert {answered_by(future) for future in waiting} == {swap.old}


@pytest.mark.slow
@pytest.mark.parametrize("why", ["refused", "not written"])
def test_a_swap_that_fails_changes_nothing(swap: Swap, models: dict[str, Path], dx: Path, why: str) -> None:
    def commit() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InferenceError if why == "refused" else OSError, match=r"digest|space"):
        swap.inference.swap(models["broken"] if why == "refused" else swap.path, commit)
    assert answered_by(swap.inference.look(dx, frozenset())) == swap.old
    wait_for(lambda: len(swap.inference._all) == 1)


@pytest.mark.slow
def test_after_a_swap_it_is_the_new_model_that_is_restarted_however_early_it_dies(swap: Swap, dx: Path) -> None:
    inference = swap.inference

    def commit() -> None:
        (new,) = inference._all - {inference._current}
        new.kill()
        wait_for(lambda: new not in inference._all)

    inference.swap(swap.path, commit)
    wait_for(lambda: inference.is_ready)
    assert answered_by(inference.look(dx, frozenset())) == swap.new


# -- the store ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, models: dict[str, Path]) -> ModelStore:
    return ModelStore(tmp_path / "spool", models["old"])


def plan_of(store: ModelStore, name: str, **about: str | None) -> State:
    """What an order of `a test` would make of the state."""
    tested = {"tested": "by hand"} if name == "promote" else {}
    order: Any = parse(name, {"configured": store.configured} | tested | about)
    return store.plan(order, "a test")


def order(store: ModelStore, name: str, **about: str | None) -> State:
    plan = plan_of(store, name, **about)
    store.write(plan)
    assert ModelStore(store.folder.parent, store._model_path).state() == plan  # as after a restart
    return plan


def test_promoted_rolled_back_and_forth(store: ModelStore, models: dict[str, Path]) -> None:
    assert store.serving() == models["old"]
    with pytest.raises(StoreError, match="nothing to roll back to"):
        plan_of(store, "rollback")
    old, new = store.keep(models["old"]), store.keep(models["new"])
    order(store, "promote", model=new, before=old)
    assert Card.read(store.serving() or Path()) == Card.read(models["new"])
    with pytest.raises(StoreError, match="serves already"):
        plan_of(store, "promote", model=new, before=old)
    for name in (old, new):
        state = order(store, "rollback")
        assert state.serving
        assert (state.serving.name, state.serving.who, store.serving()) == (name, "a test", store.folder / name)


def test_a_shadow_stays_until_it_is_ended_or_serves(store: ModelStore, models: dict[str, Path]) -> None:
    old, new = store.keep(models["old"]), store.keep(models["new"])
    order(store, "shadow", model=new)
    assert order(store, "shadow", model=None).shadow is None
    new = store.keep(models["new"])
    assert order(store, "shadow", model=new).shadow
    assert order(store, "promote", model=new, before=store.keep(models["old"])).shadow is None
    assert order(store, "shadow", model=old).shadow
    assert order(store, "rollback").shadow


def test_copies_that_nothing_names_go_with_the_next_choice(store: ModelStore, models: dict[str, Path]) -> None:
    names = [store.keep(models[name]) for name in ("old", "new", "broken")]
    order(store, "promote", model=names[1], before=names[0])
    assert {path.name for path in store.folder.iterdir()} == {*names[:2], "state.json"}
    assert {oct(path.stat().st_mode & 0o777) for path in store.folder.parent.rglob("*")} == {"0o700", "0o600"}


def test_another_card_with_the_same_weights_is_another_model(store: ModelStore, tmp_path: Path) -> None:
    card = save_stubborn_model(tmp_path / "a", "spine")
    replace(card, calibration=Calibration(temperature=2.0)).write(tmp_path / "a")
    one = store.keep(tmp_path / "a")
    card.write(tmp_path / "a")
    assert store.keep(tmp_path / "a") != one


def test_a_copy_that_was_cut_short_or_damaged_is_made_again(store: ModelStore, models: dict[str, Path]) -> None:
    (store.folder / "part").mkdir(parents=True)
    (store.folder / "part" / "card.json").write_text("a crash left this")
    name = store.keep(models["new"])
    (store.folder / name / "model.safetensors").write_bytes(b"the disk lost some")
    assert store.keep(models["new"]) == name
    assert Card.read(store.folder / name) == Card.read(models["new"])


def test_a_failed_write_changes_nothing(
    store: ModelStore, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = store.keep(models["old"]), store.keep(models["new"])
    plan = plan_of(store, "promote", model=new, before=old)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="space"):
        store.write(plan)
    assert (store.state().serving, store.serving()) == (None, models["old"])


def test_another_path_in_the_file_holds_again(store: ModelStore, models: dict[str, Path]) -> None:
    order(store, "promote", model=store.keep(models["new"]), before=store.keep(models["old"]))
    changed = ModelStore(store.folder.parent, models["broken"])
    assert (changed.serving(), changed.is_overruled()) == (models["broken"], True)
    assert not store.is_overruled()
    with pytest.raises(StoreError, match="restart it first"):
        plan_of(store, "rollback", configured=changed.configured)


@pytest.mark.parametrize("name", ["", "../../etc", "0123456789abcdef-01234567", "/", "a" * 100])
def test_only_names_of_copies_are_taken(store: ModelStore, models: dict[str, Path], name: str) -> None:
    store.keep(models["old"])
    with pytest.raises(StoreError, match="no such model"):
        plan_of(store, "promote", model=name, before=name)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"configured": "", "serving": {"name": "../x", "since": 1, "who": ""}}']
)
def test_a_damaged_state_is_one_line_with_the_fix(store: ModelStore, text: str) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / "state.json").write_text(text)
    with pytest.raises(StoreError, match=r"state\.json: damaged; remove it"):
        store.serving()


def test_the_copied_files_are_those_of_a_card() -> None:
    assert FILES[:2] == (WEIGHTS, CARD)


# -- the test before it serves -----------------------------------------------------------------------------------------


def answers(*said: tuple[str, str]) -> Answers:
    """Pairs of label and class as the answers of a model."""
    items = [Item(Path(str(n)), label, patient=str(n)) for n, (label, _) in enumerate(said)]
    predictions = [
        Prediction((0.2,) * 5, "others" if name == "uncertain" else name, 0.9, 0.0, False, name, "0" * 64)
        for _, name in said
    ]
    return Answers(items, predictions, np.zeros((0, 5), np.float32), np.zeros(0, np.float32), [])


GOOD = (("spine", "spine"), ("spine", "spine"), ("others", "others"), ("adult_chest", "adult_chest"))


@pytest.mark.parametrize(
    ("at", "name", "why"),
    [
        (0, "spine", []),
        (2, "uncertain", []),
        (0, "uncertain", ["macro F1 falls", "share of spine that reaches its place falls from 1.0000 to 0.5000"]),
        (2, "spine", ["macro F1", "share of others", "1 images newly reach a wrong AI node"]),
    ],
)
def test_what_is_worse_is_refused_with_the_figures(at: int, name: str, why: list[str]) -> None:
    said = list(GOOD)
    said[at] = (said[at][0], name)
    found = compare(answers(*GOOD), answers(*said), allow=0.01, allow_wrong=0)
    assert len(found["refused"]) == len(why)
    assert all(part in line for part, line in zip(why, found["refused"], strict=True))
    assert compare(answers(*GOOD), answers(*said), allow=1.0, allow_wrong=1)["refused"] == []


def test_a_wrong_route_that_the_old_one_took_as_well_is_not_new() -> None:
    said = (*GOOD, ("others", "spine"))
    found = compare(answers(*said), answers(*said), allow=0, allow_wrong=0)
    assert (found["newly_wrong"], found["refused"], found["classes"]["spine"]["wrongly"]) == (0, [], [1, 1])
    elsewhere = compare(answers(*said), answers(*GOOD, ("others", "abdominal")), allow=0, allow_wrong=0)
    assert elsewhere["newly_wrong"] == 1


def test_other_images_cannot_be_compared() -> None:
    with pytest.raises(DataError):
        compare(answers(*GOOD), answers(*GOOD[1:]), allow=0, allow_wrong=0)


def pinned(*splits: str) -> list[Item]:
    """Twenty images of a class for each of these splits."""
    return [
        Item(Path(f"{name}{n}{split}.png"), name, patient=f"{name}{n}", split=split)
        for split in splits
        for name in CLASSES
        for n in range(20)
    ]


def test_what_the_candidate_was_trained_on_does_not_judge_it() -> None:
    items = pinned("")
    dealt = deal(items, seed=3)
    trained = {"recipe": {"seed": 3}, "set": digest_of(dealt)}
    images, left_out = pinned_images(items, trained)
    assert images == [item for item in dealt if item.split == "test"]
    assert left_out == len(items) - len(images) > 0
    assert pinned_images(items, trained | {"set": "of others"}) == (items, 0)


def test_written_splits_say_what_does_not_judge_a_model() -> None:
    test, new = pinned("test"), pinned("2027")
    assert pinned_images([*pinned("train", "val"), *test, *new], {}) == (test, 200)
    assert pinned_images([*pinned("train"), *new], {}) == (new, 100)
    with pytest.raises(DataError, match="all 200 pinned images are of the splits train and val"):
        pinned_images(pinned("train", "val"), {})


def test_shadow_predictions_are_counted_for_each_pair_of_models() -> None:
    def event(shadow: str, class_name: str, to: str) -> dict[str, Any]:
        served = {"model": "1", "class": "spine", "destinations": ["spine-ai"]}
        return {"served": served, "shadow": {"model": shadow, "class": class_name, "destinations": [to]}}

    events = [event("2", "spine", "spine-ai"), event("3", "others", "x"), event("2", "uncertain", "spine-ai")]
    first, second = count_shadow(events)
    assert first == {
        "served": "1", "shadow": "2", "n": 2, "agreed": 1, "elsewhere": 0,
        "classes": {"spine": {"spine": 1, "uncertain": 1}},
    }  # fmt: skip
    assert (second["shadow"], second["elsewhere"]) == ("3", 1)


# -- the shadow --------------------------------------------------------------------------------------------------------


class Silent:
    """Stands in for an inference that answers when it is told."""

    def __init__(self) -> None:
        self.is_ready = True
        self.asked: list[Future[Seen]] = []

    def look(self, path: Path, tags: frozenset[int]) -> Future[Seen]:
        self.asked.append(Future())
        return self.asked[-1]


def outcomes() -> dict[str, float]:
    (family,) = SHADOW_PREDICTIONS.collect()
    return {s.labels["outcome"]: s.value for s in family.samples if s.name.endswith("_total")}


def test_a_shadow_that_does_not_keep_up_is_passed_over_and_one_that_fails_is_counted() -> None:
    shadow, silent = Shadow(ModelSettings(), Path("x")), Silent()
    shadow._inference = silent  # type: ignore[assignment]
    served = answers(("spine", "spine")).predictions[0]
    before, recorded = outcomes(), list[Seen]()

    def look(times: int = 1) -> None:
        for _ in range(times):
            shadow.look(Path("y"), frozenset(), served, recorded.append)

    look(MOST + 3)
    assert len(silent.asked) == MOST
    silent.asked[0].set_result(Seen("decoded", prediction=served))
    silent.asked[1].set_result(Seen("decoded", prediction=replace(served, class_name="uncertain")))
    silent.asked[2].set_result(Seen("unparseable"))  # the blob has gone
    silent.asked[3].set_exception(InferenceError("inference died"))
    look(5)
    assert len(silent.asked) == MOST + 4
    silent.is_ready = False
    look()
    assert len(recorded) == 2
    counted = {name: value - before.get(name, 0) for name, value in outcomes().items()}
    assert counted == {"agreed": 1, "differed": 1, "failed": 2, "dropped": 3 + 1 + 1}


class Reluctant:
    """A shadow whose first starts fail."""

    failures, tried, stopped = 0, 0, 0

    def __init__(self, settings: ModelSettings, path: Path) -> None:
        self.name, self.digest, self.is_ready = path.name, "0" * 64, True

    def start(self) -> None:
        type(self).tried += 1
        if self.tried <= self.failures:
            raise InferenceError("no memory")

    def stop(self) -> None:
        type(self).stopped += 1


class Hasty(threading.Event):
    """Notes for how long it is waited, and waits less."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return super().wait(0.02)


@pytest.fixture
def reluctant(monkeypatch: pytest.MonkeyPatch, store: ModelStore, models: dict[str, Path]) -> Iterator[ServingModels]:
    """The serving of a node that starts with a shadow chosen before."""
    order(store, "shadow", model=store.keep(models["new"]))
    Reluctant.failures, Reluctant.tried, Reluctant.stopped = 10, 0, 0
    monkeypatch.setattr("router.node.serving_models.Shadow", Reluctant)
    spool = SpoolSettings(path=store.folder.parent, reserve=0)
    current = replace(settings(NodeSettings()), spool=spool, model=ModelSettings(path=models["old"]))
    opened = open_spool(spool)
    serving = ServingModels(opened, lambda: current, lambda: None)
    monkeypatch.setattr(serving, "_stopping", Hasty())
    monkeypatch.setattr(serving.inference, "start", lambda: None)
    yield serving
    serving.stop(1)
    opened.close()


def test_a_shadow_that_does_not_start_is_tried_again_after_growing_pauses(reluctant: ServingModels) -> None:
    reluctant.start()
    wait_for(lambda: reluctant.report()["shadow_ready"])
    assert (Reluctant.tried, Reluctant.stopped) == (Reluctant.failures + 1, Reluctant.failures)
    pauses = reluctant._stopping.pauses  # type: ignore[attr-defined]
    assert pauses == [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(len(pauses))]
    assert len(pauses) >= Reluctant.failures
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "shadow"])
    assert Reluctant.tried == Reluctant.failures + 1


def test_a_person_who_ends_a_shadow_that_does_not_start_is_not_overruled(reluctant: ServingModels) -> None:
    Reluctant.failures = 10_000
    reluctant.start()
    wait_for(lambda: Reluctant.tried > 1)
    wait_for(lambda: ordered(reluctant, SetShadow(None, reluctant._store.configured)))
    wait_for(lambda: not reluctant.report()["busy"])
    tried = Reluctant.tried
    time.sleep(0.2)
    assert (Reluctant.tried, reluctant.report()["shadow"]) == (tried, None)


def test_a_shadow_is_ended_once(reluctant: ServingModels) -> None:
    """By the running node: where there is none, nothing has changed and nothing is recorded."""
    end = SetShadow(None, reluctant._store.configured)
    for _ in range(2):
        wait_for(lambda: ordered(reluctant, end))
        wait_for(lambda: not reluctant.report()["busy"])
    reluctant._spool.event("flush")
    wait_for(lambda: [event.kind for event in reluctant._spool.views.events()] == ["shadow changed", "flush"])


def test_a_shadow_is_ended_once_without_a_node(tmp_path: Path, models: dict[str, Path]) -> None:
    (tmp_path / "routing.yaml").write_text(f"""
spool: {{path: spool, reserve: 1 MB}}
model: {{path: {models["old"]}}}
destinations: {{here: {{ae_title: HERE, host: 127.0.0.1, port: 1}}}}
rules: []
otherwise: {{send: here}}
""")

    def shadow(what: str) -> str:
        done = CliRunner().invoke(app, ["model", "shadow", what, "--config", str(tmp_path / "routing.yaml")])
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()[-1]

    assert shadow("off") == "there was no shadow"
    name = shadow(str(models["new"])).removesuffix(" shadows")
    assert shadow("off") == f"{name} shadows no longer"
    assert shadow("off") == "there was no shadow"
    spool = open_spool(SpoolSettings(path=tmp_path / "spool", reserve=0))
    assert [event.kind for event in spool.views.events()] == ["shadow changed"] * 2
    spool.close()


def ordered(serving: ServingModels, order: ModelOrder) -> bool:
    try:
        return bool(serving.begin(order, "a test"))
    except StoreError:  # a start is under way
        return False
