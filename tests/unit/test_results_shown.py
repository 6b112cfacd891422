"""Results in routing.yaml, in a node, and where people meet them: rules, replay, commands and the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.commands.status import status_of
from router.config import ConfigError, Settings, load
from router.config.kept_rules import table_of
from router.config.settings import ResultsFrom
from router.decide import conditions as c
from router.decide import decide
from router.decide.explain import explain
from router.decide.replay import replay
from router.flow import Decision, Seen
from router.page.conditions import written
from router.spool import Claim, Spool, SpoolError, open_spool
from router.spool.matching import Match
from tests.unit.paging import client_of, node_in
from tests.unit.spooling import instance_for, sealed, settings_of, turned_by_hand
from tests.unit.test_classify import Stage
from tests.unit.test_results import CHEST, GIVERS, LIMITS, SR, answer, image, miss, send

TABLE = """
spool: {path: spool}
destinations:
  chest-ai: {ae_title: CHEST_AI, host: 127.0.0.1, port: 104}
  bone-ai: {ae_title: BONE_AI, host: 127.0.0.1, port: 106}
  cloud: {stow: "https://example.org/studies"}
  old: {ae_title: OLD, host: 127.0.0.1, port: 107, archive: true}
  pacs: {ae_title: PACS, host: 127.0.0.1, port: 105}
rules:
  - {name: results, when: {result_of: chest-ai}, send: pacs}
  - {name: all, when: {Modality: DX}, send: [chest-ai, bone-ai, cloud, old, pacs]}
otherwise: {send: pacs}
"""
ENABLED = frozenset({"chest-ai", "bone-ai", "cloud", "old", "pacs"})


def loaded(folder: Path, text: str = TABLE) -> Settings:
    file = folder / "routing.yaml"
    file.write_text(text)
    return load(file, {})


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with closing(open_spool(settings_of(tmp_path / "spool"))) as opened:
        yield opened


# -- routing.yaml


def test_who_gives_results(tmp_path: Path) -> None:
    found = loaded(tmp_path).results_from
    assert found == {
        "chest-ai": ResultsFrom(frozenset({"CHEST_AI"}), True),
        "bone-ai": ResultsFrom(frozenset({"BONE_AI"}), False),
        "cloud": ResultsFrom(frozenset(), False),
    }
    text = TABLE.replace('studies"}', 'studies", results_from: [A, B], expect_result: 5min, fallback: pacs}')
    settings = loaded(tmp_path, text)
    assert settings.results_from["cloud"] == ResultsFrom(frozenset({"A", "B"}), True)
    assert settings.expects == {"cloud": (300.0, "pacs")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("result_of: chest-ai", "result_of: chest-a", "unknown destination 'chest-a'.*did you mean 'chest-ai'"),
        ("port: 104", "port: 104, fallback: pacs", "fallback without expect_result"),
        ("port: 104", "port: 104, expect_result: 5min, fallback: pac", "unknown destination 'pac'.*'pacs'"),
        ("port: 104", "port: 104, expect_result: 5min, fallback: chest-ai", "fallback is itself"),
        ("port: 104", "port: 104, expect_result: 400d", "longer than spool.keep_records"),
        ('studies"', 'studies", expect_result: 5min', "not known where its results come from"),
    ],
)
def test_what_is_wrong(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TABLE
    with pytest.raises(ConfigError, match=said):
        loaded(tmp_path, TABLE.replace(old, new))


def test_a_disabled_fallback_is_wrong(tmp_path: Path) -> None:
    text = TABLE.replace("port: 104", "port: 104, expect_result: 5min, fallback: old").replace("archive", "enabled")
    with pytest.raises(ConfigError, match="fallback is disabled"):
        loaded(tmp_path, text.replace("enabled: true", "enabled: false"))


def test_an_ai_that_is_not_accepted_is_warned_of(tmp_path: Path) -> None:
    text = "node: {accept: [{ae_title: XRAY}]}\n" + TABLE
    (warning,) = [one for one in loaded(tmp_path, text).warnings if "results of" in one]
    assert "results of 'chest-ai' come from CHEST_AI, which node.accept refuses" in warning
    for accept in ("[{ae_title: XRAY}, {ae_title: CHEST_AI}]", "[{peer: 10.0.0.0/8}]"):
        text = f"node: {{accept: {accept}}}\n" + TABLE
        assert not [one for one in loaded(tmp_path, text).warnings if "results of" in one]


def test_a_fallback_is_used_though_no_rule_sends_there(tmp_path: Path) -> None:
    text = TABLE.replace("port: 104", "port: 104, expect_result: 5min, fallback: old").replace("old, pacs]", "pacs]")
    assert not [one for one in loaded(tmp_path, text).warnings if "no rule sends" in one]


@pytest.mark.parametrize(
    ("rule", "nowhere", "fix"),
    [
        ("when: {result_of: chest-ai}, send: chest-ai", ["chest-ai"], "name another destination"),
        ("when: {result_of: [old, chest-ai], frames: 1}, send: chest-ai", ["chest-ai"], "name another destination"),
        ("when: {result_of: chest-ai}, send: {one_of: [chest-ai, pacs]}", ["chest-ai"], "leave it out of one_of"),
        ("when: {result_of: chest-ai}, send: [chest-ai, pacs]", [], ""),
        ("when: {result_of: chest-ai}, send: bone-ai", [], ""),
        ("when: {not: {result_of: chest-ai}}, send: chest-ai", [], ""),
        ("when: {result_of: chest-ai}, send: chest-ai, shadow: true", [], ""),
    ],
)
def test_results_that_a_rule_sends_nowhere_are_warned_of(
    tmp_path: Path, rule: str, nowhere: list[str], fix: str
) -> None:
    text = TABLE.replace("when: {result_of: chest-ai}, send: pacs", rule)
    found = [one for one in loaded(tmp_path, text).warnings if "none goes back" in one]
    assert found == [
        f"{tmp_path}/routing.yaml:10: rule 'results' sends results of '{name}' nowhere, "
        f"as none goes back to its AI: {fix}"
        for name in nowhere
    ]


@pytest.mark.parametrize(
    ("chest", "bone", "send", "way"),
    [
        ("bone-ai", "", "chest-ai", "(chest-ai -> bone-ai)"),
        ("bone-ai", "", "[chest-ai, bone-ai]", "(chest-ai -> bone-ai)"),
        ("bone-ai", "", "{one_of: [chest-ai, old]}", "(chest-ai -> bone-ai)"),
        ("bone-ai", ", fallback: chest-ai", "chest-ai", "(chest-ai -> bone-ai -> chest-ai)"),
        ("bone-ai", ", fallback: pacs", "chest-ai", ""),
        ("bone-ai", "", "[chest-ai, pacs]", ""),
        ("pacs", "", "chest-ai", ""),
        ("bone-ai", "", "bone-ai", ""),
    ],
)
def test_fallbacks_that_may_reach_nobody_are_warned_of(
    tmp_path: Path, chest: str, bone: str, send: str, way: str
) -> None:
    text = TABLE.replace("port: 104", f"port: 104, expect_result: 5min, fallback: {chest}")
    text = text.replace("port: 106", f"port: 106, expect_result: 5min{bone}")
    text = text.replace("send: [chest-ai, bone-ai, cloud, old, pacs]", f"send: {send}")
    found = [one for one in loaded(tmp_path, text).warnings if "each fallback" in one]
    assert len(found) == bool(way)
    assert all("/routing.yaml:4: each" in one and way in one and "what rule 'all' sends;" in one for one in found)


def test_fallbacks_in_a_circle_that_is_entered_from_outside_are_warned_of(tmp_path: Path) -> None:
    text = TABLE.replace("port: 104", "port: 104, expect_result: 5min, fallback: bone-ai")
    text = text.replace("port: 106", "port: 106, expect_result: 5min, fallback: old")
    text = text.replace("archive: true", "expect_result: 5min, fallback: bone-ai")
    text = text.replace("send: [chest-ai, bone-ai, cloud, old, pacs]", "send: chest-ai")
    (found,) = [one for one in loaded(tmp_path, text).warnings if "each fallback" in one]
    assert "(chest-ai -> bone-ai -> old -> bone-ai)" in found


def test_fallbacks_of_results_are_not_warned_of(tmp_path: Path) -> None:
    text = TABLE.replace("port: 104", "port: 104, expect_result: 5min, fallback: bone-ai")
    text = text.replace("port: 106", "port: 106, expect_result: 5min")
    text = text.replace("{result_of: chest-ai}, send: pacs", "{result_of: any}, send: chest-ai")
    assert not [one for one in loaded(tmp_path, text).warnings if "each fallback" in one]


def test_fallbacks_of_otherwise_are_looked_at_too(tmp_path: Path) -> None:
    text = TABLE.replace("port: 104", "port: 104, expect_result: 5min, fallback: bone-ai")
    text = text.replace("port: 106", "port: 106, expect_result: 5min").replace("{send: pacs}", "{send: chest-ai}")
    (found,) = [one for one in loaded(tmp_path, text).warnings if "each fallback" in one]
    assert "only they have what otherwise sends;" in found


# -- the condition


@pytest.mark.parametrize(
    ("names", "of", "holds"),
    [({"a"}, ("a",), True), ({"a", "b"}, ("b", "c"), True), ({"a"}, ("b",), False), ({"a"}, (), False),
     ({"any"}, ("b",), True), ({"any"}, (), False)],
)  # fmt: skip
def test_it_is_true_or_false(names: set[str], of: tuple[str, ...], holds: bool, spool: Spool) -> None:
    blob = sealed(spool, b"x")
    one = instance_for(blob)
    condition = c.ResultOf(frozenset(names))
    for seen in (Seen("none", result_of=of), Seen("unparseable", result_of=of)):
        assert condition.holds(c.Facts(one, seen)) is holds
        assert c.Not(condition).holds(c.Facts(one, seen)) is not holds
    assert written(condition) == f"result_of is {' or '.join(sorted(names))}"
    blob.discard()


def test_a_rule_below_one_that_takes_all_results_never_fires(tmp_path: Path) -> None:
    below = "  - {name: more, when: {result_of: [chest-ai, bone-ai]}, send: pacs}\n"
    text = TABLE.replace("  - {name: all", below + "  - {name: all")
    assert [rule.name for rule in loaded(tmp_path, text).rules.rules] == ["results", "more", "all"]
    for wider in ("any", "[bone-ai, chest-ai]"):
        with pytest.raises(ConfigError, match="rule 'more' can never fire"):
            loaded(tmp_path, text.replace("result_of: chest-ai}", f"result_of: {wider}}}"))


def test_kept_rules_are_read_whatever_destinations_there_are(tmp_path: Path) -> None:
    rules = loaded(tmp_path).rules
    assert table_of(json.loads(rules.text)).rules == rules.rules


# -- in a node


def test_the_classifier_asks_and_the_rule_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question fails: the instance is asked about again."""
    monkeypatch.setattr("router.classify.classifier.AGAIN_AFTER", 0.05)
    stage = Stage(tmp_path)
    stage.settings = loaded(tmp_path)
    asked = stage.spool.results.match
    failures = iter([True])

    def fails_once(*of: object) -> Match:
        if next(failures, False):
            raise SpoolError("the database does not answer")
        return asked(*of)  # type: ignore[arg-type]

    monkeypatch.setattr(stage.spool.results, "match", fails_once)
    stage.classifier.start()
    try:
        first = stage.receive(b"image", Seen("decoded", {0x00080060: ("DX",)}))
        stage.decided(first)
        end = stage.spool.deliveries.claim("chest-ai", 1)
        assert end
        uid = end[0].instance.sop_instance
        which = stage.receive(b"report", Seen("none", references=(uid,)), "CHEST_AI")
        row = stage.decided(which)
        assert (row.rule, row.destinations) == ("results", ["pacs"])
        assert [one.instance_id for one in stage.spool.results.answered_by(which)] == [first]
        assert next(failures, None) is None
    finally:
        stage.classifier.stop(0.0)
        stage.spool.close()


# -- where people meet it


def test_explain_and_replay_know_what_was_a_result(spool: Spool, tmp_path: Path) -> None:
    rules = loaded(tmp_path).rules
    first = image(spool, "1.1")
    send(spool)
    result = answer(spool, refers_to=("1.1",))
    came = {one.instance.id: one for one in spool.rules.came()}
    assert came[result].seen.result_of == ("chest-ai",)
    assert came[first].seen.result_of == ()
    one = spool.rules.came_one(result)
    assert one is not None
    explained = explain(rules, one.instance, one.seen, enabled=ENABLED)
    assert explained.decision.rule == "results"
    (said,) = explained.rules[0].conditions
    assert (said.subject, said.answer, said.wanted, said.found) == ("result_of", True, "chest-ai", "chest-ai")
    (said,) = explain(rules, one.instance, replace(one.seen, result_of=()), enabled=ENABLED).rules[0].conditions
    assert (said.answer, said.found) == (False, "no result")
    found = replay(rules, spool.rules.came(), ENABLED)
    assert {hits.rule: hits.after for hits in found.rules}["results"] == 1


def test_status_and_find_name_what_is_missing(spool: Spool, tmp_path: Path) -> None:
    settings = loaded(tmp_path, TABLE.replace("port: 104", "port: 104, expect_result: 10min"))
    with turned_by_hand() as clock:
        first = image(spool, "1.1")
        send(spool)
        clock.turn(601)
        miss(spool, settings.expects)
        found = status_of(settings, spool, None, 0)
        (problem,) = [one for one in found.problems if one.kind == "result"]
        assert problem.what == "chest-ai gave no result for 1 delivery"
        assert problem.do.startswith("dicom-router find --to chest-ai --result missing")
        assert {one.name: one.missing for one in found.destinations}["chest-ai"] == 1
        clock.turn(13 * 3600)
        spool.database.run(lambda _: None)
        assert not [one for one in status_of(settings, spool, None, 0).problems if one.kind == "result"]
    done = CliRunner().invoke(
        app, ["find", "--result", "missing", "--config", str(tmp_path / "routing.yaml"), "--json"]
    )  # fmt: skip
    assert json.loads(done.stdout)["id"] == first
    done = CliRunner().invoke(app, ["find", "--result", "lost", "--config", str(tmp_path / "routing.yaml")])
    assert done.exit_code == 2


def test_queue_show_names_the_results_and_what_they_answer(spool: Spool, tmp_path: Path) -> None:
    loaded(tmp_path)
    first = image(spool, "1.1")
    send(spool)
    result = answer(spool, refers_to=("1.1",))

    def shown(which: str, *more: str) -> str:
        done = CliRunner().invoke(app, ["queue", "show", which, "--config", str(tmp_path / "routing.yaml"), *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert f"{result} from chest-ai" in next(line for line in shown(first).splitlines() if line.startswith("result "))
    assert f"result of instance {first}, which went to chest-ai" in shown(result)
    (one,) = json.loads(shown(first, "--json"))["results"]
    assert (one["result_id"], one["destination"], one["how"]) == (result, "chest-ai", "reference")
    assert json.loads(shown(first, "--json"))["result_of"] == []


def test_the_page_shows_results_and_what_is_missing(tmp_path: Path) -> None:
    rules = TABLE.replace("spool: {path: spool}", "").replace("port: 104", "port: 104, expect_result: 10min")
    with node_in(tmp_path, "sqlite", rules) as node, client_of(node) as client:
        first, silent = image(node.spool, "1.1"), image(node.spool, "1.2", study="1.8")
        send(node.spool, expect=-1.0)
        result = answer(node.spool, refers_to=("1.1",))
        miss(node.spool, node.settings().expects)
        story = client.get(f"/instances/{first}").text
        assert f'<a href="/instances/{result}">{result[:12]}</a> from chest-ai' in story
        assert "it refers to this instance" in story
        assert f'for <a href="/instances/{first}">{first[:12]}</a>' in client.get(f"/instances/{result}").text
        story = client.get(f"/instances/{silent}").text
        assert "No result came in time" in story
        assert "No result came from chest-ai in time" in story
        assert "chest-ai gave no result for 1 delivery" in client.get("/").text
        destinations = client.get("/destinations").text
        assert "Result after" in destinations
        assert "/instances?to=chest-ai&amp;result=missing" in destinations
        found = client.get("/instances?to=chest-ai&result=missing").text
        assert silent in found
        assert first not in found
        assert client.get("/instances?result=lost").status_code == 400


def test_without_a_result_decide_is_as_before(tmp_path: Path, spool: Spool) -> None:
    blob = sealed(spool, b"x")
    decision = decide(loaded(tmp_path).rules, instance_for(blob), Seen("none"), enabled=ENABLED)
    assert decision.rule == "otherwise"
    assert "unknown (result_of)" not in decision.reason
    blob.discard()


def test_a_lost_claim_writes_no_result(spool: Spool) -> None:
    first = image(spool, "1.1")
    send(spool)
    blob = sealed(spool, b"report")
    one = replace(instance_for(blob, "2.1", CHEST, 2e9), sop_class=SR)
    spool.intake.accept(blob, one)
    (claim,) = spool.decisions.claim(1)
    found = spool.results.match(one, None, ("1.1",), GIVERS)
    assert found.names == ("chest-ai",)
    lost = Claim(claim.instance, claim.path, claim.token + 1, 0)
    assert not spool.decisions.record(lost, Seen("none"), Decision("r", ("pacs",), "r"), LIMITS, found=found).result()
    assert spool.results.answering(first) == []
