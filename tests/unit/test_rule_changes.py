"""Other rules in force: written into routing.yaml, read again, recorded; and the earlier file back where that fails."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config import ConfigError, load, shipped
from router.config.rule_text import with_rules
from router.errors import RouterError
from router.flow import Role
from router.node import settings_file
from router.node.orders import ApplyRules, OrderError, Reload, RollBackRules, parse
from router.node.rule_changes import RuleChanges, without_node
from router.spool.errors import UncertainCommitError
from tests.unit.paging import HOSTILE, Client, Elements, Node, client_of, decided, node_in, posted

RULES = """
# where they go
destinations:
  pacs: {ae_title: PACS, host: 127.0.0.1, port: 104}
  ai: {ae_title: AI, host: 127.0.0.1, port: 105}

# the order counts
rules:
- {name: first, when: {class: spine}, send: ai}  # why it is so
# of the night
- {name: second, when: {class: abdominal}, send: pacs}

# everything else
otherwise: {send: pacs}
# the end
"""
OTHER = (
    "otherwise:\n  send: ai  # both\n\nrules:\n- {name: 'new: one', when: {class: spine}, send: pacs}\n  # its end\n"
)
NOBODY = 65534


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with node_in(tmp_path, "sqlite", RULES) as node:
        yield node


def change(node: Node, order: ApplyRules | RollBackRules, who: str = "ann") -> dict[str, object]:
    return node.carry_out(order, who)


def written(node: Node) -> str:
    return node.loaded.file.read_text()


def test_only_the_rules_of_the_file_change(node: Node) -> None:
    before, old = written(node), node.loaded.rules.digest
    node.loaded.file.chmod(0o640)
    answer = change(node, ApplyRules(OTHER, " because "))
    assert written(node) == (
        before.split("# the order counts")[0] + "# the order counts\nrules:\n"
        "- {name: 'new: one', when: {class: spine}, send: pacs}\n  # its end\n\n# everything else\n"
        "otherwise:\n  send: ai  # both\n# the end\n"
    )
    assert [rule.name for rule in node.loaded.rules.rules] == ["new: one"]
    assert answer == {"done": True, "digest": node.loaded.rules.digest, "before": old,
                      "kept": f"{node.loaded.file}.before"}  # fmt: skip
    assert Path(f"{node.loaded.file}.before").read_text() == before
    assert node.loaded.file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in node.loaded.file.parent.iterdir()) == [
        "routing.yaml", "routing.yaml.before", "spool",
    ]  # fmt: skip


def test_who_and_why_are_kept_with_the_rules_and_in_the_record(node: Node) -> None:
    old = node.loaded.rules.digest
    change(node, ApplyRules(OTHER, "the new AI"))
    new, known = node.loaded.rules.digest, {one.digest: one for one in node.spool.rules.tables()}
    assert (known[new].author, known[new].comment, known[new].replaced) == ("ann", "the new AI", old)
    assert known[new].applied_at > 0
    assert known[old].applied_at == 0
    (event,) = node.spool.views.events(kind="rules applied")
    assert event.detail == {"who": "ann", "comment": "the new AI", "digest": new, "before": old}


def test_going_back_brings_the_comments_back_and_going_back_again_undoes_it(node: Node) -> None:
    before, old = written(node), node.loaded.rules.digest
    change(node, ApplyRules(OTHER, "try"))
    new, text = node.loaded.rules.digest, written(node)
    change(node, RollBackRules("it was wrong"), "bob")
    assert (node.loaded.rules.digest, written(node)) == (old, before)
    (event,) = node.spool.views.events(kind="rules rolled back")
    assert event.detail["who"] == "bob"
    change(node, RollBackRules("it was right"))
    assert (node.loaded.rules.digest, written(node)) == (new, text)
    change(node, RollBackRules("by its digest", old[:8]))
    assert node.loaded.rules.digest == old


def test_rules_that_only_decided_are_written_anew(node: Node, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(with_rules(written(node), 'rules:\n- {name: "a: #b", when: {class: spine}, send: ai}\n'
                                               "otherwise: {send: [ai, pacs]}\n", "x"))  # fmt: skip
    table = load(other, {}).rules
    decided(node.spool, rules=table)
    change(node, RollBackRules("as it was in spring", table.digest))
    assert node.loaded.rules.digest == table.digest
    assert [rule.name for rule in node.loaded.rules.rules] == ["a: #b"]


def test_who_reloads_rules_that_were_changed_by_hand_is_kept_too(node: Node) -> None:
    old, text = node.loaded.rules.digest, written(node)
    node.carry_out(Reload(), "ann")
    assert node.spool.rules.tables() == [], "nothing has changed"
    node.loaded.file.write_text(text.replace("first", "premier"))
    node.carry_out(Reload(), "ann")
    new = node.loaded.rules.digest
    (kept,) = node.spool.rules.tables(new)
    assert (kept.author, kept.comment, kept.replaced) == ("ann", "", old)
    assert node.spool.views.events(kind="rules applied") == []
    change(node, RollBackRules("back"), "bob")
    assert node.loaded.rules.digest == old
    change(node, RollBackRules("and again"), "bob")
    assert "# why it is so" in written(node), "the lines of the file were kept"


class EndedError(BaseException):
    """The process is gone."""


def test_a_node_that_ends_before_the_record_knows_who_and_why_at_its_next_start(node: Node) -> None:
    """Rolling back to rules that have a record: that of their first time must not stand for this one."""
    first = node.loaded.rules.digest
    change(node, ApplyRules(OTHER, "first", ""), "ann")

    def killed(_: str) -> None:
        raise EndedError

    with pytest.raises(EndedError):
        RuleChanges(node.settings, killed, node.spool).carry_out(RollBackRules("wrong at noon"), "bob")
    node.reload()
    RuleChanges(node.settings, node.reload, node.spool).finish()
    (now,) = [one for one in node.spool.rules.tables() if one.digest == node.loaded.rules.digest]
    assert (now.digest, now.author, now.comment) == (first, "bob", "wrong at noon")
    (event,) = node.spool.views.events(kind="rules rolled back")
    assert (event.detail["who"], event.detail["comment"]) == ("bob", "wrong at noon")
    RuleChanges(node.settings, node.reload, node.spool).finish()
    assert len(node.spool.views.events(kind="rules rolled back")) == 1, "once"


def test_a_change_that_never_came_into_force_is_nobodys_at_the_next_start(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise EndedError

    changes = RuleChanges(node.settings, node.reload, node.spool)
    monkeypatch.setattr(settings_file, "put", killed)
    with pytest.raises(EndedError):
        changes.carry_out(ApplyRules(OTHER, "why"), "ann")
    changes.finish()
    assert node.spool.views.events(kind="rules applied") == []
    assert [one.author for one in node.spool.rules.tables()] == [""]


def test_rules_that_were_refused_and_then_written_by_hand_are_not_those_of_who_was_refused(node: Node) -> None:
    def refuses(_: str) -> None:
        raise OrderError("the port is used")

    with pytest.raises(OrderError):
        RuleChanges(node.settings, refuses, node.spool).carry_out(ApplyRules(OTHER, "why"), "ann")
    (refused,) = node.spool.views.events(kind="rules change refused")
    assert (refused.detail["who"], "the port is used" in refused.detail["reason"]) == ("ann", True)
    node.loaded.file.write_text(with_rules(written(node), OTHER, "the file"))
    node.reload()
    RuleChanges(node.settings, node.reload, node.spool).finish()
    assert node.spool.views.events(kind="rules applied") == []


@pytest.mark.parametrize("failure", [OrderError("the certificate is none"), OSError(5, "Input/output error")])
def test_a_reload_that_fails_puts_the_earlier_file_back(node: Node, failure: Exception) -> None:
    before, old = written(node), node.loaded.rules.digest

    def reload(_: str) -> None:
        assert written(node) != before
        raise failure

    changes = RuleChanges(node.settings, reload, node.spool)
    with pytest.raises(OrderError, match="the earlier file is back: "):
        changes.carry_out(ApplyRules(OTHER, "why"), "ann")
    assert written(node) == before
    assert node.loaded.rules.digest == old
    assert node.spool.views.events(kind="rules applied") == []


def test_rules_that_may_be_in_force_are_not_said_to_be_refused(node: Node) -> None:
    """PostgreSQL did not answer the COMMIT by which they are published."""

    def reload(_: str) -> None:
        raise UncertainCommitError("no answer", 5)

    changes = RuleChanges(node.settings, reload, node.spool)
    with pytest.raises(OrderError, match="has not said whether the rules are in force") as said:
        changes.carry_out(ApplyRules(OTHER, "why"), "ann")
    assert "nothing has changed" not in str(said.value)


def test_a_file_that_cannot_be_put_back_is_said_with_where_the_earlier_one_is(node: Node) -> None:
    def reload(_: str) -> None:
        node.loaded.file.write_text("a person's change in this moment")
        raise OrderError("refused")

    with pytest.raises(OrderError, match=r"put .*routing\.yaml\.before back by hand"):
        RuleChanges(node.settings, reload, node.spool).carry_out(ApplyRules(OTHER, "why"), "ann")
    assert written(node) == "a person's change in this moment"


def test_what_others_changed_in_the_file_is_not_overwritten(node: Node) -> None:
    seen = settings_file.fingerprint(node.loaded.file)
    node.loaded.file.write_text(written(node) + "# a note\n")
    before = written(node)
    with pytest.raises(OrderError, match="has changed since you looked"):
        change(node, ApplyRules(OTHER, "why", seen))
    node.loaded.file.write_text(before.replace("port: 105", "port: 106"))
    with pytest.raises(OrderError, match=r"not in force \(destinations\)"):
        change(node, ApplyRules(OTHER, "why"))
    assert "port: 106" in written(node)
    assert "new: one" not in written(node)


def test_on_a_shared_database_no_older_file_is_published(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other nodes' settings are in force, and this file says what was before."""
    shared = replace(node.loaded, spool=replace(node.loaded.spool, database="postgresql://db/router"))
    with pytest.raises(OrderError, match="on one where a node runs"):
        without_node(shared, node.spool)
    node.loaded = replace(node.loaded, destinations={})
    monkeypatch.setattr(node.spool.database, "is_sqlite", False)
    with pytest.raises(OrderError, match="in force on all nodes \\(destinations\\): copy the file"):
        change(node, ApplyRules(OTHER, "why"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: []\notherwise: {send: nowhere}\n", "nowhere"),
        ("rules: []\notherwise: {send: new}\ndestinations: {new: {ae_title: N, host: h, port: 1}}\n", "new"),
        ("rules: [{name: '${HOME}', when: {class: spine}, send: ai}]\notherwise: {send: pacs}\n", "no environment"),
        ("{rules: [], otherwise: {send: pacs}}\n", "on a line of its own"),
        ("rules: []\n", "otherwise is missing"),
        ("&a", "anchor"),
        (RULES, "these are the rules in force"),
    ],
)
def test_rules_that_cannot_be_applied_change_nothing(node: Node, text: str, words: str) -> None:
    before = written(node)
    with pytest.raises(RouterError, match=words):
        change(node, ApplyRules(text, "why"))
    assert written(node) == before
    assert not Path(f"{node.loaded.file}.before").exists()


def test_a_copy_of_the_shipped_file_with_other_rules_is_applied(node: Node) -> None:
    """Its comments speak of ${NAME}, and each new file begins as such a copy."""
    text = shipped().read_text()
    assert "${" in text
    node.loaded.file.write_text(text)
    node.reload()
    change(node, ApplyRules(text.replace("name: raw image", "name: raw  # not ${NAME}"), "why"))
    assert "name: raw  # not ${NAME}" in written(node)
    assert "raw" in [rule.name for rule in node.loaded.rules.rules]


def test_it_must_be_said_why_and_one_person_changes_at_a_time(node: Node) -> None:
    for comment in ("", "  ", "x" * 501):
        with pytest.raises(OrderError, match="say why"):
            change(node, ApplyRules(OTHER, comment))
    change(node, ApplyRules(OTHER, "\u202ewhy\x1b[2J<b>"))
    (event,) = node.spool.views.events(kind="rules applied")
    assert event.detail["comment"] == "why [2J<b>"
    change(node, RollBackRules("back"))
    errors: list[str] = []

    def reload(_: str) -> None:
        try:
            changes.carry_out(ApplyRules(OTHER, "at the same time"), "bob")
        except OrderError as error:
            errors.append(str(error))
        node.reload()

    changes = RuleChanges(node.settings, reload, node.spool)
    changes.carry_out(ApplyRules(OTHER, "why"), "ann")
    assert ["somebody else" in error for error in errors] == [True]


def test_a_variable_that_replaces_rules_is_noticed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_ROUTER__OTHERWISE__SEND", "ai")
    node.loaded = load(node.loaded.file)
    with pytest.raises(OrderError, match="environment variable"):
        change(node, ApplyRules(RULES.replace("first", "premier"), "why"))


def test_the_files_line_ends_and_mark_stay(node: Node) -> None:
    text = b"\xef\xbb\xbf" + written(node).replace("\n", "\r\n").encode()
    node.loaded.file.write_bytes(text)
    node.reload()
    change(node, ApplyRules(OTHER, "why"))
    now = node.loaded.file.read_bytes()
    assert now.startswith(b"\xef\xbb\xbf")
    assert now.count(b"\n") == now.count(b"\r\n") > 10
    change(node, RollBackRules("back"))
    assert node.loaded.file.read_bytes() == text


def test_header_words_come_and_go_with_the_rules(node: Node) -> None:
    before = written(node)
    change(node, ApplyRules(OTHER + "header_words: {spine: [rachis]}\n", "words"))
    assert written(node).endswith("# the end\nheader_words: {spine: [rachis]}\n")
    change(node, RollBackRules("no words"))
    assert written(node) == before


def test_a_link_stays_a_link(node: Node) -> None:
    file = node.loaded.file
    real = file.rename(file.with_name("real.yaml"))
    file.symlink_to(real.name)
    change(node, ApplyRules(OTHER, "why"))
    assert file.is_symlink()
    assert "new: one" in real.read_text()


@pytest.mark.parametrize("after", range(3))
def test_a_full_disk_changes_nothing_and_is_said(node: Node, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """At the trial, at the copy of the earlier file, and at the new file."""
    fsync, calls = os.fsync, iter([None] * after)

    def full(fd: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{fd}")).name.startswith(".routing.yaml") and next(calls, 0) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(fd)

    before = written(node)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OrderError, match="is full: make room there"):
        change(node, ApplyRules(OTHER, "why"))
    assert written(node) == before
    assert [path.name for path in node.loaded.file.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become nobody")
@pytest.mark.parametrize("lacks", ["file", "folder", "owner"])
def test_a_file_that_the_node_may_not_write_is_said_with_the_way_out(lacks: str) -> None:
    """In a folder of its own below the one for temporary files, which nobody may enter too."""
    with tempfile.TemporaryDirectory() as name, node_in(Path(name), "sqlite", RULES) as node:
        before, file = written(node), node.loaded.file
        file.parent.chmod(0o755 if lacks == "folder" else 0o777)
        file.chmod(0o644 if lacks == "file" else 0o666)
        try:
            os.seteuid(NOBODY)
            with pytest.raises(OrderError, match="by hand, then run: dicom-router reload"):
                RuleChanges(node.settings, node.reload, node.spool).carry_out(ApplyRules(OTHER, "why"), "ann")
        finally:
            os.seteuid(0)
        assert written(node) == before
        assert not [path for path in file.parent.iterdir() if path.name not in ("routing.yaml", "spool")]


def test_a_long_text_of_rules_fits_into_an_order() -> None:
    assert parse("apply-rules", {"text": "x" * 60_000, "comment": "c"}) == ApplyRules("x" * 60_000, "c")
    with pytest.raises(OrderError, match="65536"):
        parse("apply-rules", {"text": "x" * 70_000, "comment": "c"})
    with pytest.raises(OrderError, match="4096"):
        parse("apply-rules", {"text": "x", "comment": "c" * 5000})


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with client_of(node, Role.VIEW, Role.RULES) as client:
        yield client


def tried(client: Client, text: str) -> dict[str, str]:
    """The form that applies what was tried."""
    forms = Elements(client.get("/rules/candidate").text).forms
    proof = next(form["csrf"] for form in forms if form["action"] == "/rules/candidate")
    answer = client.post("/rules/candidate", data={"csrf": proof, "text": text, "last": "500", "since": ""})
    (form,) = [one for one in Elements(answer.text).forms if one["action"] == "/rules/apply"]
    return {name: value for name, value in form.items() if name not in ("action", "method")}


def test_what_was_tried_is_applied_and_taken_back(node: Node, client: Client) -> None:
    old = node.loaded.rules.digest
    answer = client.post("/rules/apply", data=tried(client, OTHER) | {"comment": HOSTILE})
    assert (answer.status_code, answer.headers["location"]) == (303, "/rules?done=rules-applied")
    assert [rule.name for rule in node.loaded.rules.rules] == ["new: one"]
    for page in ("/rules", "/rules/tables", f"/rules/tables/{node.loaded.rules.digest}"):
        shown = client.get(page).text
        assert "<script>alert" not in shown
        assert "&lt;script&gt;alert" in shown, page
    assert f"/rules/tables/{old}" in Elements(client.get("/rules").text).links
    answer = posted(client, f"/rules/tables/{old}", "/rules/rollback", comment="back")
    assert answer.status_code == 303
    assert node.loaded.rules.digest == old
    assert [who for _, who in node.ordered] == ["view-rules"] * 2


def test_a_file_that_changed_meanwhile_is_refused_on_the_page(node: Node, client: Client) -> None:
    form = tried(client, OTHER)
    node.loaded.file.write_text(written(node) + "# a note\n")
    answer = client.post("/rules/apply", data=form | {"comment": "why"})
    assert answer.status_code == 409
    assert "has changed since you looked" in answer.text
    assert "new: one" not in written(node)


@pytest.mark.parametrize("proof", [None, "", "x"])
def test_rules_from_a_form_without_proof_are_refused(node: Node, client: Client, proof: str | None) -> None:
    fields = tried(client, OTHER) | {"comment": "why"}
    others = {name: value for name, value in fields.items() if name != "csrf"}
    assert client.post("/rules/apply", data=others | ({} if proof is None else {"csrf": proof})).status_code == 403
    assert node.ordered == []
    assert client.post("/rules/apply", data=fields).status_code == 303


def test_others_may_not_apply_or_go_back(node: Node) -> None:
    change(node, ApplyRules(OTHER, "why"))
    node.ordered.clear()
    old = next(one.digest for one in node.spool.rules.tables() if not one.applied_at)
    with client_of(node, Role.VIEW, Role.OPERATE) as client:
        assert "rollback" not in client.get(f"/rules/tables/{old}").text
        proof = next(form["csrf"] for form in Elements(client.get("/logout").text).forms if "csrf" in form)
        fields = {"csrf": proof, "comment": "c", "looked_at": ""}
        assert client.post("/rules/apply", data=fields | {"text": RULES}).status_code == 403
        assert client.post("/rules/rollback", data=fields | {"digest": old}).status_code == 403
    assert node.ordered == []


def test_where_the_node_cannot_write_the_page_says_what_to_do(
    node: Node, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    forms = Elements(client.get("/rules/candidate").text).forms
    proof = next(form["csrf"] for form in forms if form["action"] == "/rules/candidate")
    answer = client.post("/rules/candidate", data={"csrf": proof, "text": OTHER, "last": "500", "since": ""})
    assert "The node cannot do it: " in answer.text
    assert "cp NEW.yaml" in answer.text
    assert "/rules/apply" not in [form["action"] for form in Elements(answer.text).forms]


# -- the commands ------------------------------------------------------------------------------------------------------


def run(node: Node, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["rules", *words, "--config", str(node.loaded.file)])
    return result.exit_code, result.output


def test_the_commands_without_a_node(node: Node, tmp_path: Path) -> None:
    node.spool.close()
    (tmp_path / "new.yaml").write_text(OTHER)
    code, said = run(node, "apply", str(tmp_path / "new.yaml"), "--comment", "why")
    assert (code, "nothing has changed: --yes" in said, "+- name: 'new: one'" in said) == (2, True, True)
    code, said = run(node, "apply", str(tmp_path / "new.yaml"), "--comment", "why", "--yes", "--json")
    answer = json.loads(said)
    assert (code, answer["before"]) == (0, node.loaded.rules.digest)
    assert load(node.loaded.file, {}).rules.digest == answer["digest"]
    code, said = run(node, "list", "--json")
    listed = {one["digest"]: one for one in map(json.loads, said.splitlines())}
    assert (listed[answer["digest"]]["comment"], listed[answer["digest"]]["in_force"]) == ("why", True)
    assert listed[answer["digest"]]["author"]
    assert "why" in run(node, "list")[1]
    code, said = run(node, "apply", str(tmp_path / "new.yaml"), "--comment", "again")
    assert (code, "already" in said) == (1, True), "nobody is asked about nothing"
    code, said = run(node, "rollback", "--comment", "back")
    assert (code, "--yes is needed to put the rules" in said, "-- name: 'new: one'" in said) == (2, True, True)
    assert run(node, "rollback", "--comment", "back", "--yes")[0] == 0
    assert load(node.loaded.file, {}).rules.digest == node.loaded.rules.digest
    code, said = run(node, "rollback", "ffff", "--comment", "back", "--yes", "--json")
    assert (code, "no such rules are kept" in json.loads(said)["error"]) == (1, True)


def test_a_mistake_names_the_file_of_the_person(node: Node) -> None:
    with pytest.raises(ConfigError) as caught:
        change(node, ApplyRules("rules: []\notherwise: {send: new}\ndestinations: {new: {}}\n", "why"))
    assert [problem.file for problem in caught.value.problems] == [str(node.loaded.file)]
