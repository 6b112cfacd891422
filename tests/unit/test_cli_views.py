"""Views and orders of the page as commands: devices, causes and what is done for one of them, hits, labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router.cli import app
from tests.unit.paging import DOUBT, HOSTILE, SPINE, Node, bury, decided, node_in
from tests.unit.spooling import CALLERS

PART, STATION = 0x00180015, 0x00081010


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path, "sqlite") as node:
        yield node


def run(node: Node, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words, "--config", str(node.loaded.file)])
    return done.exit_code, done.stdout


def objects(node: Node, *words: str) -> list[dict[str, Any]]:
    code, said = run(node, *words, "--json")
    assert code == 0, said
    return [json.loads(line) for line in said.splitlines()]


def seen(node: Node) -> None:
    for n, (part, station, prediction) in enumerate((
        ("LSPINE", "ROOM 1", SPINE), ("", "ROOM 1", SPINE), ("CHEST", "=ROOM 2", replace(SPINE, inverted=True)),
        ("CHEST", "=ROOM 2", DOUBT), ("", "ROOM 1", None),
    )):  # fmt: skip
        header = {tag: (text,) for tag, text in ((PART, part), (STATION, station)) if text}
        decided(node.spool, f"1.2.{n}", prediction=prediction, header=header)
    decided(node.spool, "1.3", CALLERS[1])


def test_devices_as_json(node: Node) -> None:
    seen(node)
    rows = {(row["calling_ae"], row["station"]): row for row in objects(node, "devices")}
    assert set(rows) == {
        ("XRAY_1", None), ("XRAY_1", "ROOM 1"), ("XRAY_1", "=ROOM 2"), ("XRAY_2", None), ("XRAY_2", ""),
    }  # fmt: skip
    whole, second = rows["XRAY_1", None], rows["XRAY_1", "=ROOM 2"]
    names = ("looked_at", "pictures", "agrees", "missing", "contradicts", "inverted", "doubt", "without_picture")
    assert [whole[name] for name in names] == [5, 4, 1, 1, 1, 1, 1, 1]
    assert [second[name] for name in names] == [2, 2, 0, 0, 1, 1, 1, 0]
    assert whole["classes"] == {"spine": 3, "uncertain": 1}
    assert (whole["silent"], whole["drift"]) == (False, [])


def test_devices_for_people_and_as_csv_without_formulas(node: Node, tmp_path: Path) -> None:
    assert run(node, "devices")[0] == 1
    seen(node)
    code, said = run(node, "devices")
    assert code == 0
    assert "    ROOM 1: 3 images, agrees 50%, missing 50%, contradicts 0%" in said
    assert run(node, "devices", "--csv", str(tmp_path / "x.csv")) == (0, f"5 rows in {tmp_path / 'x.csv'}\n")
    every = csv.DictReader((tmp_path / "x.csv").read_text().splitlines())
    rows = [row for row in every if row["calling_ae"] == "XRAY_1"]
    assert [row["station"] for row in rows] == ["all stations", "ROOM 1", "'=ROOM 2"]
    assert rows[0]["classes"] == "spine=3 uncertain=1"
    assert run(node, "devices", "--csv", str(tmp_path / "no" / "x.csv"))[0] == 1


def test_one_cause_is_found_and_retried_and_no_other(node: Node) -> None:
    ids: dict[str, list[str]] = {}
    for n, reason in enumerate(("refused", HOSTILE, "refused")):
        ids.setdefault(reason, []).append(decided(node.spool, f"1.2.{n}"))
        bury(node.spool, reason=reason)
    assert [(one["n"], one["reason"]) for one in objects(node, "queue", "causes")] == [(2, "refused"), (1, HOSTILE)]
    assert "2  ai                   refused  (first" in run(node, "queue", "causes")[1]
    assert objects(node, "queue", "causes", "--to", "pacs") == []
    assert [one["id"] for one in objects(node, "find", "--cause", HOSTILE)] == ids[HOSTILE]
    assert {one["id"] for one in objects(node, "find", "--cause", "refused", "--to", "ai")} == set(ids["refused"])
    node.spool.close()
    for words in (("retry",), ("discard", "--yes"), ("move", "--from", "ai", "--to", "pacs")):
        code, said = run(node, "queue", *words, "--cause", HOSTILE, "--dry-run")
        assert (code, said.splitlines()[-1]) == (0, "1 would be changed"), words
    assert run(node, "queue", "retry", "--cause", "refused")[1].endswith("2 of 2 changed\n")
    left = objects(node, "queue", "causes")
    assert [(one["n"], one["reason"]) for one in left] == [(1, HOSTILE)]


def test_hits_name_the_rules_that_never_fire(node: Node) -> None:
    decided(node.spool, rule="apart")
    found = {one["rule"]: one for one in objects(node, "rules", "hits")}
    assert [(name, one["day"], bool(one["last_at"])) for name, one in found.items()] == [
        ("<b>'spine'", 0, False), ("apart", 1, True), ("otherwise", 0, False),
    ]  # fmt: skip
    assert "<b>'spine'  (never" in run(node, "rules", "hits")[1]


def test_a_label_is_kept_as_the_page_keeps_it(node: Node) -> None:
    which = decided(node.spool)
    node.spool.close()
    assert run(node, "queue", "label", which, "abdominal") == (0, "the label is kept\n")
    assert run(node, "queue", "label", which, "skull")[0] == 2
    (event,) = [one for one in objects(node, "events") if one["kind"] == "labelled"]
    assert event["detail"]["label"] == "abdominal"
