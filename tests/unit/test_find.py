"""Every instance can be found again: by what a person knows of it, by each database, a page at a time."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.flow import Caller, Decision, Prediction, Seen
from router.spool import DeliveryState, Spool, SpoolError, open_spool
from router.spool.find import Filter, State
from router.spool.keyed import ACCESSION, KEY_BYTES, KEY_FILE, STUDY, key_of, make_key
from tests.unit.spooling import CALLERS, accept, instance_for, sealed, settings_of

SPINE = Prediction((0.01, 0.01, 0.01, 0.96, 0.01), "spine", 0.96, 0.1, False, "spine", "m", view="lateral")


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def decided(
    spool: Spool, uid: str = "1.2.3", caller: Caller = CALLERS[0], study: str = "1.9.1", accession: str = "A1",
    prediction: Prediction | None = SPINE, to: tuple[str, ...] = ("spine-ai", "pacs"), rule: str = "spine by pixels",
) -> str:  # fmt: skip
    """An instance with its decision. Returns its id."""
    accept(spool, uid.encode(), uid, caller)
    (claim,) = spool.decisions.claim(1)
    seen = Seen("decoded", {STUDY: (study,), ACCESSION: (accession,)}, prediction)
    assert spool.decisions.record(claim, seen, Decision(rule, to, "because", table="d" * 32), {}).result()
    return claim.instance.id


def ids(spool: Spool, **wanted: object) -> list[str]:
    return [one.id for one in spool.views.find(Filter(**wanted))]  # type: ignore[arg-type]


def test_it_is_found_by_all_that_a_person_may_have(spool: Spool) -> None:
    one, other = decided(spool, "1.2.3"), decided(spool, "1.2.4", study="1.9.2", accession="B/2 ")
    assert ids(spool) == [other, one]
    for text in (one, one.upper(), one[:12] + one[12:20], "1.2.3", "1.9.1", " 1.9.1 ", "A1", "a1"):
        assert ids(spool, text=text) == [one], text
    assert ids(spool, text="b/2") == [other]
    for text in ("1.9", "1.2.3.4", "A", "%", "'; DROP TABLE instance; --", "\0", "\ud800" * 100):
        assert ids(spool, text=text) == [], text


def test_each_filter_and_all_together(spool: Spool) -> None:
    one = decided(spool, "1.2.3")
    other = decided(spool, "1.2.4", CALLERS[1], prediction=None, rule="otherwise", to=("pacs",))
    assert ids(spool, class_name="spine") == ids(spool, rule="spine by pixels") == ids(spool, to="spine-ai") == [one]
    assert ids(spool, calling_ae="XRAY_2") == ids(spool, peer="10.0.0.2") == [other]
    assert ids(spool, to="pacs") == [other, one]
    both = {"class_name": "spine", "to": "pacs", "calling_ae": "XRAY_1", "peer": "10.0.0.1", "text": "1.9.1"}
    assert ids(spool, **both) == [one]
    assert ids(spool, **both | {"calling_ae": "XRAY_2"}) == []
    assert int(other[:16], 16) - int(one[:16], 16) > 1e5
    begin = int(other[:16], 16) / 1e9 - 1e-5  # a float holds the time to a microsecond
    assert ids(spool, since=begin) == [other]
    assert ids(spool, until=begin) == [one]
    assert ids(spool, since=-1e6, until=time.time() + 1e6) == [other, one]


def test_what_has_become_of_it(spool: Spool) -> None:
    one = decided(spool, "1.2.3", to=("ai",))
    accept(spool, b"new", "1.2.9")
    new = spool.views.instances(limit=1)[0].id
    assert ids(spool, state=State.WAITING) == [new, one]
    assert ids(spool, state=State.WAITING, to="ai") == [one]
    for end, state in ((DeliveryState.BURIED, State.BURIED), (DeliveryState.DONE, State.DONE)):
        (owed,) = spool.deliveries.claim("ai", 1)
        spool.deliveries.close(owed, end, reason="why").result()
        assert ids(spool, state=state) == ids(spool, state=state, to="ai") == [one]
        assert ids(spool, state=state, to="nowhere") == []
        spool.orders.retry_now([owed.id], "a person")
    assert ids(spool, state=State.DISCARDED) == []


def test_it_is_found_before_it_is_decided_and_if_it_cannot_be_read_later(spool: Spool) -> None:
    blob = sealed(spool, b"new")
    new = instance_for(blob, "1.2.9")
    spool.intake.accept(blob, new, {STUDY: ("1.9.7",), ACCESSION: ("A7",)})
    assert ids(spool, text="a7") == ids(spool, text="1.9.7") == [new.id]
    (claim,) = spool.decisions.claim(1)
    assert spool.decisions.record(claim, Seen("failed"), Decision("otherwise", ("pacs",), "why"), {}).result()
    assert ids(spool, text="a7") == ids(spool, text="1.9.7") == [new.id]


def test_what_is_shown_of_it(spool: Spool) -> None:
    one = decided(spool)
    (found,) = spool.views.find(Filter(text=one))
    assert (found.class_name, found.confidence, found.view, found.rule) == ("spine", 0.96, "lateral", "spine by pixels")
    assert found.table == "d" * 32
    assert found.destinations == ("spine-ai", "pacs")
    assert [(d.destination, d.state) for d in found.deliveries] == [("spine-ai", "open"), ("pacs", "open")]


def test_pages_follow_each_other_without_a_gap(spool: Spool) -> None:
    every = [decided(spool, f"1.2.{n}", prediction=replace(SPINE, view="")) for n in range(7)]
    for wanted in (Filter(), Filter(class_name="spine"), Filter(to="pacs"), Filter(state=State.WAITING)):
        seen, before = [], "g"
        while page := spool.views.find(wanted, before=before, limit=2):
            seen += [one.id for one in page]
            before = page[-1].id
        assert seen == every[::-1]


@pytest.mark.parametrize("few", [1, 2, 3, 100])
def test_a_look_is_bounded_and_says_how_far_it_came(spool: Spool, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.spool.find.FEW", few)
    one = decided(spool, "1.2.0", rule="chest")
    for n in range(1, 6):
        decided(spool, f"1.2.{n}", CALLERS[n % 2], rule="spine by pixels" if n % 2 else "chest")
    wanted = Filter(rule="chest", calling_ae="XRAY_1", class_name="spine", state=State.WAITING, to="pacs")
    assert ids(spool, rule="chest", calling_ae="XRAY_2") == []
    looks, seen = 0, []
    before: str | None = "g"
    while before is not None:
        page = spool.views.find_page(wanted, before=before, limit=10)
        looks, before = looks + 1, page.go_on
        seen += [found.id for found in page.found]
    every = ids(spool, rule="chest", calling_ae="XRAY_1")
    assert every[-1] == one
    assert seen == every == [found.id for found in spool.views.find(wanted, limit=10)]
    assert len(every) == 3
    assert looks == {1: 4, 2: 2, 3: 2, 100: 1}[few]


def test_the_database_holds_no_study_and_no_accession_number(spool: Spool, tmp_path: Path) -> None:
    one = decided(spool, study="1.2.840.99999.1", accession="SECRET77")
    row = spool.views.instance(one)
    assert row is not None
    assert row.study
    assert "99999" not in repr(row)
    assert "SECRET77" not in repr(row)
    key = key_of(tmp_path / "spool")
    assert key
    assert (row.study, row.accession) == (key.study("1.2.840.99999.1"), key.accession("secret77"))


def test_two_spools_have_two_keys_and_one_spool_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert key_of(tmp_path / "a") is None
    one = make_key(tmp_path / "a")
    assert make_key(tmp_path / "a") == one == key_of(tmp_path / "a")
    assert make_key(tmp_path / "b") != one
    assert stat.S_IMODE((tmp_path / "a" / KEY_FILE).stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "a") == [KEY_FILE]
    assert one.study("1.2.3") != one.accession("1.2.3")
    (tmp_path / "a" / KEY_FILE).write_bytes(b"x" * (KEY_BYTES - 1))
    with pytest.raises(SpoolError, match="damaged"):
        key_of(tmp_path / "a")


def test_a_node_starts_without_a_key(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "spool")
    open_spool(settings).close()
    (tmp_path / "spool" / KEY_FILE).write_bytes(b"short")
    spool = open_spool(settings)
    try:
        assert accept(spool).instance_id
    finally:
        spool.close()


CONFIG = """
spool: {path: spool}
destinations: {pacs: {ae_title: PACS, host: 127.0.0.1, port: 104}}
rules: []
otherwise: {send: pacs}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "routing.yaml").write_text(CONFIG)
    spool = open_spool(settings_of(tmp_path / "spool"))
    decided(spool, "1.2.3")
    decided(spool, "1.2.4", CALLERS[1], rule='=cmd|" /C calc"!A0')
    spool.close()
    return tmp_path / "routing.yaml"


def run(config: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["find", *arguments, "--config", str(config)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_one_line_each(config: Path) -> None:
    code, out, _ = run(config, "--class", "spine", "--since", "1h", "--from", "10.0.0.1")
    assert code == 0
    (line,) = out.splitlines()
    assert "XRAY_1" in line
    assert "spine 0.96" in line
    assert "spine-ai waiting" in line
    code, out, err = run(config, "nothing like that")
    assert (code, out, err) == (
        1,
        "",
        "no instance matches; type a number in full, and see 'It never came' in docs/operations.md\n",
    )


def test_the_command_says_that_there_is_no_such_destination(config: Path) -> None:
    code, out, err = run(config, "--to", "pac", "--result", "missing")
    assert (code, out) == (1, "")
    assert err == "no instance matches; there is no destination 'pac' now (did you mean 'pacs'?)\n"
    assert run(config, "--to", "pacs", "--result", "missing") == (1, "", "no instance matches\n")


def test_the_command_prints_json(config: Path) -> None:
    code, out, err = run(config, "--json", "--limit", "1")
    assert code == 0
    found = json.loads(out)
    assert set(found) == {
        "id", "received_at", "calling_ae", "peer", "sop_class", "top", "class", "confidence", "view", "rule", "table",
        "destinations", "deliveries",
    }  # fmt: skip
    assert set(found["deliveries"][0]) == {
        "id", "destination", "state", "tries", "done_at", "reason", "follows",
    }  # fmt: skip
    assert "--limit" in err
    code, out, _ = run(config, "--json", "nothing like that")
    assert code == 1
    assert json.loads(out)["exit_code"] == 1


def test_a_csv_holds_no_formula(config: Path, tmp_path: Path) -> None:
    code, out, _ = run(config, "--csv", str(tmp_path / "found.csv"))
    assert code == 0
    assert out.startswith("2 rows")
    text = (tmp_path / "found.csv").read_text()
    assert text.count("\n") == 3
    assert "'=cmd" in text
    assert run(config, "--csv", str(tmp_path / "no" / "found.csv"))[0] == 1


@pytest.mark.parametrize(
    "arguments",
    [("--since", "yesterday"), ("--since", "1h", "--until", "2h"), ("--class", "hand"), ("--state", "lost"),
     ("--since", "99999999-01-01"), ("--limit", "0")],
)  # fmt: skip
def test_wrong_use_is_code_2(config: Path, arguments: tuple[str, ...]) -> None:
    assert run(config, *arguments)[0] == 2
