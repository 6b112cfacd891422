"""The choice of models that several nodes share: made at one, followed by all that classify, or they say why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from router.config.settings import ModelSettings, NodeSettings, Settings, SpoolSettings
from router.node.model_store import ModelStore, StoreError, opened
from router.node.orders import Promote, RollBack, SetShadow
from router.node.other_models import OtherModels
from router.node.serving_models import ServingModels
from router.spool import Spool, open_spool
from router.spool.nodes import NodeState
from router.spool.shared import OvertakenError
from tests.unit.peer import wait_for
from tests.unit.receiving import settings
from tests.unit.spooling import settings_of

pytestmark = pytest.mark.postgresql


class Shadow:
    """One that starts at once."""

    is_ready = True

    def __init__(self, _: ModelSettings, path: Path) -> None:
        self.name, self.digest = path.name, "0" * 64

    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass
class Site:
    """Nodes that classify, each with a folder of its own."""

    folder: Path
    database: str
    spools: list[Spool] = field(default_factory=list)
    serving: list[ServingModels] = field(default_factory=list)

    def settings(self, name: str) -> Settings:
        spool: SpoolSettings = settings_of(self.folder / name, self.database)
        return replace(settings(NodeSettings()), spool=spool, model=ModelSettings(path=self.model("shipped")))

    def add(self, name: str) -> tuple[ServingModels, list[Path]]:
        """The models of a node, and the folders of the models that have come to serve there."""
        if self.spools:
            (self.folder / name).mkdir()
            shutil.copy(self.spools[0].settings.path / "spool-id", self.folder / name)
        current = self.settings(name)
        spool = open_spool(current.spool)
        spool.nodes.begin(name, "host", ["classify"], "1", name)
        models, served = ServingModels(spool, lambda: current, lambda: None), list[Path]()

        def swap(path: Path, commit: Callable[[], object]) -> None:
            commit()
            served.append(path)

        inference: Any = models.inference
        inference.swap, inference.start = swap, lambda: None
        self.spools.append(spool)
        self.serving.append(models)
        return models, served

    def model(self, name: str) -> Path:
        """A folder that looks like a model's to the store."""
        folder = self.folder / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("model.safetensors", "card.json"):
            (folder / file).write_text(f"{name} {file}")
        return folder

    def store(self, number: int) -> ModelStore:
        return self.serving[number]._store


@pytest.fixture
def site(tmp_path: Path, postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("router.node.serving_models.Shadow", Shadow)
    monkeypatch.setattr("router.node.serving_models.FIRST_PAUSE", 0.0)
    made = Site(tmp_path, postgresql())
    yield made
    for serving in made.serving:
        serving.stop()
    for spool in made.spools:
        spool.close()


def done(models: ServingModels) -> dict[str, Any]:
    return wait_for(lambda: None if (found := models.report())["busy"] else found)


def followed(models: ServingModels, version: int) -> None:
    def follows() -> bool:
        models.follow()
        return models.version == version

    wait_for(follows)


def promote(site: Site, name: str) -> str:
    """The first node promotes a model."""
    one, store = site.serving[0], site.store(0)
    before, new = store.keep(site.model("shipped")), store.keep(site.model(name))
    one.begin(Promote(new, before, "by hand", store.configured), "ann")
    assert done(one)["error"] == ""
    return new


def test_a_promotion_at_one_reaches_the_other(site: Site) -> None:
    (_, at_one), (other, at_other) = site.add("one"), site.add("two")
    site.store(1).keep(site.model("better"))
    new = promote(site, "better")
    assert [path.name for path in at_one] == [new]
    assert [each["node"] for each in site.serving[0].report()["behind"]] == ["one", "two"], "none has said so yet"
    followed(other, 1)
    assert at_other == [site.folder / "two" / "models" / new]
    for spool in site.spools:
        spool.nodes.seen(NodeState(choice=1))
    assert site.serving[0].report()["behind"] == []
    other.begin(RollBack("another path"), "bob")
    assert done(other)["error"] == ""
    assert at_other[-1] == site.model("shipped"), "it has no copy, but its file names the same model"
    followed(site.serving[0], 2)


def test_who_has_not_the_model_says_so_and_follows_when_it_is_there(site: Site) -> None:
    site.add("one")
    other, served = site.add("two")
    new = promote(site, "better")
    other.follow()
    wait_for(lambda: f"has no model {new}" in other.problem)
    assert (other.version, served) == (0, [])
    site.spools[1].nodes.seen(NodeState(problem=other.problem))
    assert f"has no model {new}" in site.serving[0].report()["behind"][-1]["problem"]
    site.store(1).keep(site.model("better"))
    followed(other, 1)
    assert other.problem == ""


def test_a_model_that_the_file_names_needs_no_copy(site: Site) -> None:
    """As in an image of a container that has the new model already."""
    site.add("one")
    promote(site, "better")
    site.model("shipped")
    settings_of_two = replace(site.settings("one"), model=ModelSettings(path=site.model("better")))
    store = opened(settings_of_two)
    shutil.rmtree(store.folder)
    assert store.serving() == site.model("better")


def test_a_shadow_is_followed_and_ended(site: Site) -> None:
    one, _ = site.add("one")
    other, served = site.add("two")
    for number in (0, 1):
        name = site.store(number).keep(site.model("better"))
    one.begin(SetShadow(name, site.store(0).configured), "ann")
    assert done(one)["shadow"]["name"] == name
    followed(other, 1)
    assert other.digests()["shadow"] == "0" * 64
    one.begin(SetShadow(None, site.store(0).configured), "ann")
    done(one)
    followed(other, 2)
    assert "shadow" not in other.digests()
    assert served == []


def test_a_node_without_a_model_takes_the_order_too(site: Site) -> None:
    one, served = site.add("one")
    current = site.settings("one")
    others = OtherModels(site.spools[0], lambda: current)
    before, new = (site.store(0).keep(site.model(name)) for name in ("shipped", "better"))
    with pytest.raises(StoreError, match="has no model 0000"):
        others.begin(Promote(f"{'0' * 16}-{'0' * 8}", before, "by hand", ""), "ann")
    others.begin(Promote(new, before, "by hand", "another path"), "ann")
    followed(one, 1)
    assert [path.name for path in served] == [new]
    shutil.rmtree(site.store(0).folder / before)
    others.begin(RollBack(""), "ann")
    followed(one, 2)
    assert served[-1] == site.model("shipped")


def test_the_choice_of_an_earlier_version_stays_in_force(site: Site) -> None:
    """It was a file of the folder."""
    file = ModelStore(site.folder / "one", site.model("shipped"))
    before, new = (file.keep(site.model(name)) for name in ("shipped", "better"))
    file.write(file.plan(Promote(new, before, "by hand", file.configured), "ann"))
    site.add("one")
    state = site.store(0).state()
    assert (state.version, state.serving and state.serving.name, state.serving and state.serving.who) == (1, new, "ann")
    assert site.store(0).serving() == file.folder / new


def test_of_two_orders_at_once_one_is_refused(site: Site) -> None:
    site.add("one")
    site.add("two")
    one, other = site.store(0).state(), site.store(1).state()
    site.store(0).write(one, "ann")
    with pytest.raises(OvertakenError, match="another choice of models was made meanwhile"):
        site.store(1).write(other, "bob")
