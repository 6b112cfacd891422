"""`scope: study` in a node, and where people meet it: rules, dry runs, replay, explanations, commands and the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.cli.classify import _row, _to_terminal, columns, flat
from router.commands.classify_files import Looked, look
from router.commands.tables import write_csv
from router.commands.walking import Found
from router.config import ConfigError, load
from router.decide import RuleTable, decide
from router.decide.explain import explain
from router.decide.replay import replay
from router.flow import Caller, Decision, Header, Instance, Prediction, Seen
from router.node.bulk_worker import BulkWorker
from router.spool import Spool, open_spool
from router.spool.keyed import STUDY
from tests.unit.peer import wait_for
from tests.unit.spooling import CALLERS, accept, settings_of
from tests.unit.test_classify import Stage
from tests.unit.test_studies import comes, sent, work_off

TABLE = """
spool: {path: spool}
destinations:
  chest-ai: {ae_title: C, host: 127.0.0.1, port: 104}
  pacs: {ae_title: P, host: 127.0.0.1, port: 105}
rules:
  - {name: raw, when: {PresentationIntentType: FOR PROCESSING}, discard: true, reason: the PACS has them}
  - {name: chests, when: {class: adult_chest}, send: chest-ai, scope: study}
otherwise: {send: pacs}
"""
ALL = frozenset({"chest-ai", "pacs"})
CHEST = Prediction((0.01, 0.96, 0.01, 0.01, 0.01), "adult_chest", 0.96, 0.1, False, "adult_chest", "f" * 64)
RAW: Header = {0x00080068: ("FOR PROCESSING",)}
CAME: dict[str, tuple[str, bool, Header]] = {
    "a": ("1.8", False, {}),
    "b": ("1.8", True, {}),
    "c": ("1.8", False, RAW),
    "d": ("1.9", False, {}),
    "e": ("", True, {}),
}
"""By name: the study, whether it is a chest, and what else the header says."""


def seen(name: str) -> Seen:
    study, is_chest, header = CAME[name]
    header = {**header, **({STUDY: (study,)} if study else {})}
    return Seen("decoded" if is_chest else "none", header, CHEST if is_chest else None)


def table(folder: Path, text: str = TABLE) -> RuleTable:
    file = folder / "routing.yaml"
    file.write_text(text)
    return load(file, {}).rules


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(open_spool(settings_of(tmp_path / "spool"))) as opened:
        yield opened


def decide_all(spool: Spool, rules: RuleTable) -> dict[str, str]:
    """Everything of CAME through the spool. Returns the id of each."""
    ids = {}
    for name in CAME:
        ids[name] = accept(spool, name.encode(), f"1.2.{ord(name)}").instance_id
        (claim,) = spool.decisions.claim(1)
        decision = decide(rules, claim.instance, seen(name), enabled=ALL)
        assert spool.decisions.record(claim, seen(name), decision, dict.fromkeys(ALL), rules).result()
    while spool.studies.step(dict.fromkeys(ALL)) is not None:
        pass
    return ids


# -- the table


def test_a_rule_says_its_scope(tmp_path: Path) -> None:
    assert [rule.study for rule in table(tmp_path).rules] == [False, True]
    for wrong, said in (
        (TABLE.replace("scope: study", "scope: studies"), "use one of: instance, study"),
        (TABLE.replace("discard: true,", "discard: true, scope: study,"), "has both discard and scope: study"),
    ):
        with pytest.raises(ConfigError, match=said):
            table(tmp_path, wrong)


def test_scope_hides_no_rule_and_no_mistake(tmp_path: Path) -> None:
    """A rule below one with the same conditions can never fire, whatever the scope of either is."""
    for scopes in (("scope: study, ", ""), ("", "scope: study, ")):
        again = f"  - {{{scopes[1]}name: again, when: {{class: adult_chest}}, send: pacs}}\notherwise"
        text = TABLE.replace(", scope: study", "").replace("send: chest-ai", scopes[0] + "send: chest-ai")
        with pytest.raises(ConfigError, match="rule 'again' can never fire"):
            table(tmp_path, text.replace("otherwise", again))


# -- in a node


@pytest.mark.parametrize("dry_run", [False, True])
def test_in_a_node_the_study_follows_and_in_a_dry_run_nothing_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    monkeypatch.setattr("router.classify.classifier.AGAIN_AFTER", 0.05)
    stage = Stage(tmp_path)
    table(tmp_path)
    loaded = load(tmp_path / "routing.yaml", {})
    stage.settings = replace(loaded, node=replace(loaded.node, dry_run=dry_run))
    bulk = BulkWorker(stage.spool, lambda: stage.spool.studies.step(loaded.limits))
    stage.classifier.start()
    bulk.start()
    try:
        ids = {}
        for name in CAME:
            ids[name] = stage.receive(name.encode(), seen(name))
            stage.decided(ids[name])
        if dry_run:
            assert all(sent(stage.spool, which) == ["pacs"] for which in ids.values())
            return
        wait_for(lambda: sent(stage.spool, ids["a"]) == ["chest-ai", "pacs"])
        assert {name: sent(stage.spool, which) for name, which in ids.items()} == {
            "a": ["chest-ai", "pacs"], "b": ["chest-ai"], "c": [], "d": ["pacs"], "e": ["chest-ai"],
        }  # fmt: skip
    finally:
        bulk.stop(0.0)
        stage.classifier.stop(0.0)
        stage.spool.close()


# -- before it is live


class Eyes:
    """Inference that knows the files of CAME by their names."""

    def look(self, path: Path, tags: frozenset[int], *_: Any) -> Future[Seen]:
        future: Future[Seen] = Future()
        found = seen(path.stem)
        future.set_result(replace(found, header={tag: found.header[tag] for tag in tags & found.header.keys()}))
        return future


def looked(folder: Path, rules: str = TABLE) -> list[Looked]:
    table(folder, rules)
    paths = []
    for name in CAME:
        paths.append(folder / f"{name}.dcm")
        paths[-1].write_bytes(b"\0" * 128 + b"DICM")
    eyes: Any = Eyes()
    return list(look(map(Found, paths), eyes, load(folder / "routing.yaml", {}), Caller("XRAY", "ROUTER", "127.0.0.1")))


def test_a_folder_is_classified_study_by_study(tmp_path: Path) -> None:
    assert [(one.path.stem, [(name, path.stem) for name, path in one.follows]) for one in looked(tmp_path)] == [
        ("a", [("chest-ai", "b")]), ("b", []), ("c", []), ("d", []), ("e", []),
    ]  # fmt: skip
    assert not any(one.follows for one in looked(tmp_path, TABLE.replace(", scope: study", "")))


def test_its_csv_and_lines_name_what_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [_row(one, body_part=False) for one in looked(tmp_path)]
    assert (rows[0]["destinations"], rows[0]["follows"]) == (
        ["pacs", "chest-ai"], {"chest-ai": str(tmp_path / "b.dcm")}
    )  # fmt: skip
    _to_terminal(rows, None, rules=True)
    assert f"chest-ai: follows {tmp_path / 'b.dcm'}" in capsys.readouterr().out
    write_csv(tmp_path / "out.csv", columns(body_part=False), map(flat, rows))
    assert ",pacs chest-ai," in (tmp_path / "out.csv").read_text().splitlines()[1]


def test_replay_moves_whole_studies(spool: Spool, tmp_path: Path) -> None:
    alone = TABLE.replace(", scope: study", "")
    ids = decide_all(spool, table(tmp_path, alone))
    found = replay(table(tmp_path), spool.rules.came(), ALL)
    assert (found.instances, found.moved, found.same) == (5, 1, 4)
    (change,) = found.changes
    assert (change.from_destinations, change.to_destinations) == (("pacs",), ("pacs", "chest-ai"))
    assert change.examples == (ids["a"],)


def test_replay_knows_what_followed(spool: Spool, tmp_path: Path) -> None:
    ids = decide_all(spool, table(tmp_path))
    assert replay(table(tmp_path), spool.rules.came(), ALL).same == 5
    found = replay(table(tmp_path, TABLE.replace(", scope: study", "")), spool.rules.came(), ALL)
    (change,) = [one for one in found.changes if one.moves]
    assert (change.from_destinations, change.to_destinations) == (("pacs", "chest-ai"), ("pacs",))
    assert change.examples == (ids["a"],)
    assert spool.orders.send_also(ids["d"], "chest-ai", "ann", study=True)  # no rule has done that
    assert replay(table(tmp_path), spool.rules.came(), ALL).same == 5


# -- afterwards


def test_commands_say_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = table(tmp_path)
    with closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        ids = decide_all(spool, rules)
    run = CliRunner()
    config = ["--config", str(tmp_path / "routing.yaml")]
    found = json.loads(run.invoke(app, ["find", ids["a"], "--json", *config]).stdout)
    assert {one["destination"]: one["follows"] for one in found["deliveries"]} == {"pacs": None, "chest-ai": ids["b"]}
    shown = run.invoke(app, ["queue", "show", ids["a"], *config]).stdout
    assert f"chest-ai: waiting (follows instance {ids['b']})" in shown
    why = run.invoke(app, ["rules", "explain", ids["a"], *config]).stdout
    assert "with its study: chest-ai" in why
    leads = run.invoke(app, ["rules", "explain", ids["b"], *config]).stdout
    assert "chests -> chest-ai, with its study" in leads
    sends = run.invoke(app, ["queue", "send", ids["d"], "--to", "chest-ai", "--study", *config])
    assert (sends.exit_code, sends.stdout) == (0, "the study goes to chest-ai too\n")
    no = run.invoke(app, ["queue", "send", ids["e"], "--to", "pacs", "--study", *config])
    assert no.exit_code == 1
    assert "its study is not known" in no.stderr
    ends = run.invoke(app, ["queue", "end-study", ids["d"], "--to", "chest-ai", *config])
    assert (ends.exit_code, ends.stdout) == (0, "nothing more of the study follows to chest-ai\n")
    no = run.invoke(app, ["queue", "end-study", ids["d"], "--to", "chest-ai", *config])
    assert no.exit_code == 1
    assert "its study does not follow to chest-ai" in no.stderr


def test_an_explanation_says_the_scope(tmp_path: Path) -> None:
    rules = table(tmp_path)
    one = Instance("0" * 32, 0.0, CALLERS[0], "1.2", "1.2", "1.2", 0, 0, "")
    assert [rule.study for rule in explain(rules, one, seen("b"), enabled=ALL).rules] == [False, True]


def test_metrics_count_who_follows(spool: Spool) -> None:
    from router.observe.metrics import REGISTRY

    def followed() -> float:
        return REGISTRY.get_sample_value("dicom_router_followed_total", {"destination": "ai"}) or 0.0

    before = followed()
    leads = Decision("chest study", ("ai",), "because", study=True)
    rests = Decision("otherwise", ("pacs",), "because")
    comes(spool, "1.1", rests)
    comes(spool, "1.2", leads)
    work_off(spool)
    comes(spool, "1.3", rests)
    wait_for(lambda: followed() == before + 2, 10)  # counted behind the commit, by the thread that writes
