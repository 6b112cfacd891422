"""A running node's model as a person changes it: tested, in shadow, promoted under traffic, restarted, and back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from router.cli import app
from router.commands.send_files import read_meta
from router.demo.network import Downstream
from router.model.card import Card
from router.node.client import state
from router.pixels.wrap import wrap_image
from tests.acceptance.corpus import database, node_as_destination, settled, store
from tests.peers import NodeUnderTest, wait_for
from tests.unit.stubborn import save_stubborn_model

RULES = "rules: [{name: spine, when: {class: spine}, send: spine-ai}]\notherwise: {send: catch-all}\n"


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Models that say one thing of everything: two that say `others`, and one that says `spine`."""
    says = {"old": "others", "new": "others", "wrong": "spine"}
    for seed, (name, class_name) in enumerate(says.items()):
        save_stubborn_model(tmp_path / name, class_name, seed=seed)
    return {name: tmp_path / name for name in says}


@pytest.fixture
def node(tmp_path: Path, models: dict[str, Path]) -> Iterator[NodeUnderTest]:
    places = [Downstream("spine-ai", "SPINE_AI"), Downstream("catch-all", "CATCH_ALL")]
    for one in places:
        one.start()
    model = f"model: {{path: {models['old']}, device: cpu, engine: torch, threads: 1, workers: 1}}\n"
    yield NodeUnderTest(tmp_path / "node", {one.name: one.port for one in places}, rules=RULES, extra=model)
    for one in places:
        one.stop()


def router(node: NodeUnderTest, *words: str | Path) -> Result:
    """`dicom-router model WORDS` in this process, which has PyTorch already; each new one would take two seconds."""
    return CliRunner().invoke(app, ["model", *map(str, words), "--config", str(node.config)])


def ask(node: NodeUnderTest, *words: str | Path) -> Any:
    done = router(node, *words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def digests(node: NodeUnderTest) -> list[str]:
    """Of the models that decided, in the order of arrival."""
    with database(node) as connection:
        return [row[0] for row in connection.execute("SELECT model FROM instance ORDER BY id")]


def pictures(folder: Path, name: str, count: int) -> list[Path]:
    rng = np.random.default_rng(len(name))
    grey = rng.integers(0, 4096, (200, 150), np.uint16)
    return [wrap_image(grey, folder / f"{name}{n}.dcm") for n in range(count)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_life_of_a_model(node: NodeUnderTest, models: dict[str, Path], tmp_path: Path) -> None:
    old, new, wrong = (Card.read(models[name]).digest for name in ("old", "new", "wrong"))
    sent: list[Path] = []

    def send(name: str, count: int) -> None:
        paths = pictures(tmp_path, name, count)
        answers = store([read_meta(path) for path in paths], node_as_destination(node), "MODALITY")
        assert set(answers.values()) == {0}
        sent.extend(paths)

    with node.running():
        refused = router(node, "promote", models["wrong"])
        assert refused.exit_code == 1, refused.output
        assert "newly reach a wrong AI node" in refused.output
        assert ask(node, "show")["serving"] is None

        # In shadow it sees everything, and decides nothing.
        ask(node, "shadow", models["wrong"])
        send("a", 5)
        wait_for(lambda: settled(node, 5) and 'outcome="differed"} 5.0' in node.metrics(), 180, "shadow predictions")
        pair = ask(node, "compare")
        assert pair == {
            "served": old[:16], "shadow": ask(node, "show")["shadow"]["name"], "n": 5, "agreed": 0, "elsewhere": 5,
            "classes": {"others": {"spine": 5}},
        }  # fmt: skip
        assert f'dicom_router_model{{digest="{wrong}",role="shadow"}} 1.0' in node.metrics()
        assert digests(node) == [old] * 5

        # Promoted while instances arrive.
        promoted = threading.Event()

        def traffic() -> None:
            n = 0
            while not promoted.wait(0.3):  # steady, and no faster than two models look at it
                send(f"b{n}-", 3)
                n += 1

        thread = threading.Thread(target=traffic)
        thread.start()
        result = ask(node, "promote", models["new"])
        promoted.set()
        thread.join(180)
        send("c", 3)
        wait_for(lambda: settled(node, len(sent)), 180, "every instance")
        assert (result["digest"], result["n"], result["refused"]) == (new, 5, [])
        decided = digests(node)
        assert len(decided) == len(sent)
        assert (decided[0], decided[-1], set(decided)) == (old, new, {old, new})

    with node.running():  # a restart changes nothing
        shown = ask(node, "show")
        assert (shown["digests"], shown["running"]) == ({"serving": new, "previous": old, "shadow": wrong}, True)
        spool = node.folder / "spool"
        wait_for(lambda: state(spool, "models")["shadow_ready"], 180, "the shadow to come back")
        assert ask(node, "show")["shadow_ready"]
        assert ask(node, "shadow", "off") == {"shadow": None}

        # What does not start changes nothing, and says so.
        weights = node.folder / "spool" / "models" / shown["previous"]["name"] / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1])
        command = [sys.executable, "-m", "router", "model", "rollback", "--config", str(node.config)]
        failed = subprocess.run(command, capture_output=True, text=True, check=False)
        assert failed.returncode == 1
        assert "nothing has changed" in failed.stderr
        assert "digest" in failed.stderr
        assert ask(node, "show")["serving"] == shown["serving"]
        send("e", 1)
        weights.write_bytes(whole)

        ask(node, "rollback")
        send("d", 3)
        wait_for(lambda: settled(node, len(sent)), 180, "every instance")
        assert digests(node)[-4:] == [new, old, old, old]
    stopped = router(node, "rollback")  # without a node it is written down
    assert stopped.exit_code == 0, stopped.output
    shown = ask(node, "show")
    assert (shown["digests"], shown["running"]) == ({"serving": new, "previous": old}, False)
