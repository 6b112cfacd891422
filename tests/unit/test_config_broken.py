"""Broken configurations: each mistake is reported with its file, its line and what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from router.config import ConfigError, Problem, load, problems
from router.config.settings import SpoolSettings
from router.config.values import database, hidden_password

GOOD = """\
node: {ae_title: ROUTER, port: 11112}
destinations:
  chest: {ae_title: CHEST_AI, host: 10.1.0.21, port: 104}
  catch-all: {ae_title: REST, host: 10.1.0.25, port: 104}
rules:
  - name: chest
    when: {class: adult_chest}
    send: chest
otherwise: {send: catch-all}
"""


@dataclass(frozen=True)
class Broken:
    """`old` of GOOD becomes `new`; the problem must stand on `line` with these words."""

    old: str
    new: str
    line: int
    message: str
    fix: str


NODE = "node: {ae_title: ROUTER, port: 11112}"
BLOBS = "spool: {database: 'postgresql://h/d', blobs: '"
CHEST = "chest: {ae_title: CHEST_AI, host: 10.1.0.21, port: 104}"
WHEN = "when: {class: adult_chest}"
BROKEN = {
    "misspelt key": Broken("port: 11112", "prot: 11112", 1, "unknown key 'prot' in node", "did you mean 'port'?"),
    "misspelt section": Broken("otherwise:", "otherwize:", 9, "unknown key 'otherwize'", "did you mean 'otherwise'?"),
    "no otherwise": Broken("otherwise: {send: catch-all}\n", "", 1, "otherwise is missing", "otherwise: {send:"),
    "otherwise to nobody": Broken(
        "otherwise: {send: catch-all}", "otherwise: {}", 9, "sends nowhere", "send: catch-all"
    ),
    "otherwise disabled": Broken(
        "host: 10.1.0.25,", "host: 10.1.0.25, enabled: no,", 9, "destination of otherwise is disabled", "enable one"
    ),
    "port as a word": Broken("port: 11112", "port: dicom", 1, "'dicom' is not a port", "1 to 65535"),
    "port beyond 65535": Broken(
        "10.1.0.21, port: 104", "10.1.0.21, port: 70000", 3, "'70000' is not a port", "1 to 65535"
    ),
    "port missing": Broken("10.1.0.21, port: 104", "10.1.0.21", 3, "destination 'chest' has no port", "port: 104"),
    "long AE title": Broken("CHEST_AI", "CHEST_AI_OF_THE_THIRD_FLOOR", 3, "has 27 characters", "at most 16"),
    "backslash in AE title": Broken("CHEST_AI", "CHEST\\AI", 3, "contains a backslash", "use A-Z"),
    "host with scheme": Broken("10.1.0.21", '"http://ai/"', 3, "is not a host", "without scheme"),
    "host with port": Broken("10.1.0.21", '"ai:104"', 3, "is not a host", "host: ai and port: 104"),
    "address beyond 255": Broken("10.1.0.21", "10.1.0.321", 3, "'10.1.0.321' is not a host", "10.1.0.21"),
    "ports in use twice": Broken(
        NODE, NODE + "\nweb: {port: 11112}", 2, "web.port and node.port are both 11112", "another"
    ),
    "unknown destination": Broken("send: chest\n", "send: chets\n", 8, "unknown destination 'chets'", "'chest'?"),
    "sends nowhere": Broken("send: chest\n", "send: []\n", 6, "rule 'chest' sends nowhere", "discard: true"),
    "discards silently": Broken(
        "send: chest\n",
        "discard: true\n",
        6,
        "rule 'chest' discards without a reason",
        "say why they need no destination",
    ),
    "discards and sends": Broken(
        "send: chest\n", "send: chest\n    discard: true\n", 6, "both discard and send", "remove one"
    ),
    "unknown class": Broken("adult_chest", "adult_chets", 7, "'adult_chets' is not allowed", "'adult_chest'?"),
    "unknown keyword": Broken(WHEN, "when: {Modalty: CR}", 7, "'Modalty' is neither", "did you mean 'Modality'?"),
    "patient's name": Broken(
        WHEN, "when: {PatientName: A}", 7, "'PatientName' identifies a patient", "who the patient"
    ),
    "patient's ID by tag": Broken(WHEN, 'when: {"(0010,0020)": A}', 7, "identifies a patient", "who the patient"),
    "accession number": Broken(WHEN, "when: {AccessionNumber: A}", 7, "identifies a patient", "who the patient"),
    "physician's name": Broken(WHEN, "when: {ReferringPhysicianName: A}", 7, "identifies a patient", "who the patient"),
    "age by keyword": Broken(WHEN, "when: {PatientAge: 016Y}", 7, "has its own condition", "use age"),
    "probability above one": Broken(
        WHEN, 'when: {confidence: "> 1.5"}', 7, "at most 1", "write for instance '> 0.015'"
    ),
    "per cent": Broken(WHEN, 'when: {probability.chest: ">= 90"}', 7, "a probability is at most 1", "'>= 0.9'"),
    "always true": Broken(WHEN, 'when: {confidence: ">= 0"}', 7, "is always true or always false", "between 0 and 1"),
    "confidence in a word": Broken(WHEN, "when: {confidence: high}", 7, "'high' is not a comparison", "'>= 0.90'"),
    "probability of nothing": Broken(
        WHEN, 'when: {probability.spin: "> 0.5"}', 7, "'probability.spin' is not", "'probability.spine'?"
    ),
    "text compared": Broken(
        WHEN, 'when: {KVP: "> 100"}', 7, "is a text element and cannot be compared", "list the values"
    ),
    "age without unit": Broken(WHEN, 'when: {age: "< 16"}', 7, "the age '< 16' has no unit", "write '< 16y' for years"),
    "impossible age": Broken(WHEN, 'when: {age: "> 130y"}', 7, "the age '> 130y' is impossible", "0 to 120 years"),
    "no frames": Broken(WHEN, 'when: {frames: "< 1"}', 7, "at least one frame", "'> 1'"),
    "back-reference": Broken(
        WHEN, "when: {Modality: {regex: '(a)\\1'}}", 7, "not a google-re2 expression", "back-references"
    ),
    "pattern as text": Broken(
        WHEN, "when: {StudyDescription: 'THORAX*'}", 7, "is compared literally", "{glob: 'THORAX*'}"
    ),
    "empty when": Broken(WHEN, "when: {}", 7, "rule 'chest'.when is empty", "use otherwise"),
    "no when": Broken("    " + WHEN + "\n", "", 6, "rule 'chest' has no when", "add when"),
    "text of a sequence": Broken(WHEN, "when: {ViewCodeSequence: A}", 7, "holds no text", "{exists: true}"),
    "bits in the network": Broken(WHEN, "when: {peer: 10.1.0.5/16}", 7, "is not a network", "write 10.1.0.0/16"),
    "hidden rule": Broken(
        "otherwise:",
        "  - {name: late, when: {class: adult_chest, age: '< 16y'}, send: catch-all}\notherwise:",
        9,
        "rule 'late' can never fire",
        "'chest' on line 6 always fires first",
    ),
    "two of a name": Broken(
        "otherwise:", "  - {name: chest, when: {class: spine}, send: chest}\notherwise:", 9, "two rules", "on line 6"
    ),
    "duplicate key": Broken(
        "host: 10.1.0.21,", "host: 10.1.0.21, host: a,", 3, "key 'host' appears twice", "already on line 3"
    ),
    "unquoted comparison": Broken(WHEN, "when:\n      age: >= 16y", 8, "not YAML", 'write age: ">= 16y"'),
    "unquoted comparison in braces": Broken(
        WHEN, "when: {class: spine, age: >= 16y}", 7, "not YAML", 'write age: ">= 16y"'
    ),
    "unquoted pattern": Broken(WHEN, "when: {Modality: {glob: *R}}", 7, "alias", 'write glob: "*R"'),
    "colon in a name": Broken("name: chest", "name: chest: all", 6, "not YAML", 'write name: "chest: all"'),
    "tag": Broken("host: 10.1.0.21", "host: !ai 10.1.0.21", 3, "tag", 'write host: "!ai 10.1.0.21"'),
    "anchor": Broken("host: 10.1.0.21", "host: &ai 10.1.0.21", 3, "anchor", 'write host: "&ai 10.1.0.21"'),
    "tab": Broken("    send: chest\n", "\tsend: chest\n", 8, "not YAML", "spaces, not tabs"),
    "duration without unit": Broken(NODE, NODE + "\nspool: {keep: 24}", 2, "'24' has no unit of time", "24s"),
    "size without unit": Broken(NODE, NODE + "\nspool: {limit: 50}", 2, "'50' has no unit of size", "50 GB"),
    "rate without time": Broken("port: 11112", "least_rate: 50 kB", 1, "bytes per second", "50 kB/s"),
    "device": Broken(NODE, NODE + "\nmodel: {device: gpu}", 2, "'gpu' is not allowed", "cuda"),
    "missing certificate": Broken(
        "port: 11112",
        "tls: {certificate: no.crt, key: routing.yaml}",
        1,
        "node.tls.certificate: there is no file",
        "folder",
    ),
    "half a certificate": Broken(
        "host: 10.1.0.21", "tls: {certificate: routing.yaml}, host: a", 3, "only one of certificate and key", "both"
    ),
    "accepts everybody": Broken("port: 11112", "accept: [{}]", 1, "accepts every caller", "ae_title, peer"),
    "commitment for anybody": Broken(
        "port: 11112",
        "accept: [{peer: 10.1.0.1, commitment: same association}]",
        1,
        "commitment needs an ae_title",
        "add its ae_title",
    ),
    "commitment without a port": Broken(
        "port: 11112",
        "accept: [{ae_title: X, commitment: {host: a}}]",
        1,
        "node.accept.commitment has no port",
        "port: 104",
    ),
    "variable not set": Broken("host: 10.1.0.21", "host: '${AI_HOST}'", 3, "AI_HOST is not set", "set AI_HOST"),
    "transfer syntax": Broken(
        "host: 10.1.0.21", "syntaxes: [JPEG2000Loseless], host: a", 3, "is not a Transfer Syntax", "'JPEG2000Lossless'?"
    ),
    "blobs without a database for all": Broken(
        NODE, NODE + "\nspool: {blobs: 's3://images'}", 2, "outlives this machine", "postgresql://"
    ),
    "blobs elsewhere": Broken(NODE, f"{NODE}\n{BLOBS}gs://images'}}", 2, "not the address of a bucket", "s3://images"),
    "bucket": Broken(NODE, f"{NODE}\n{BLOBS}s3://key:secret@images'}}", 2, "no valid bucket", "from the environment"),
    "prefix": Broken(NODE, f"{NODE}\n{BLOBS}s3://images/../a'}}", 2, "a prefix that it cannot have", "letters"),
    "option": Broken(NODE, f"{NODE}\n{BLOBS}s3://images?regoin=a'}}", 2, "an unknown option", "'region'"),
    "option twice": Broken(NODE, f"{NODE}\n{BLOBS}s3://images?sse=AES256&sse=AES256'}}", 2, "sse twice", "once"),
    "endpoint": Broken(NODE, f"{NODE}\n{BLOBS}s3://images?endpoint=s3.example.org'}}", 2, "not an endpoint", "https"),
    "unencrypted": Broken(NODE, f"{NODE}\n{BLOBS}s3://images?endpoint=http://s3'}}", 2, "without TLS", "allow_http"),
    "encryption": Broken(NODE, f"{NODE}\n{BLOBS}s3://images?sse=AES'}}", 2, "not allowed", "aws:kms"),
    "key without kms": Broken(NODE, f"{NODE}\n{BLOBS}s3://images?kms_key=a'}}", 2, "without sse", "sse=aws:kms"),
    "no credentials": Broken(NODE, f"{NODE}\n{BLOBS}s3://images?credentials=no.ini'}}", 2, "no file", "relative"),
    "database": Broken(NODE, NODE + "\nspool: {database: mysql://u:secret@h/d}", 2, "neither sqlite", "postgresql://"),
    "list as a file": Broken(GOOD, "- a\n- b\n", 1, "must be a mapping", "begin with 'destinations:'"),
    "text for a section": Broken(NODE, "node: ROUTER", 1, "node must be a mapping", "indented below 'node:'"),
}


def problems_of(text: str, folder: Path) -> tuple[Problem, ...]:
    file = folder / "routing.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    return caught.value.problems


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_mistake_is_reported_where_it_stands_with_its_fix(broken: Broken, tmp_path: Path) -> None:
    assert GOOD.count(broken.old) >= 1
    problems = problems_of(GOOD.replace(broken.old, broken.new, 1), tmp_path)
    expected = [p for p in problems if p.line == broken.line and broken.message in p.message and broken.fix in p.fix]
    assert len(expected) == 1, "\n".join(map(str, problems))
    assert expected[0].file == str(tmp_path / "routing.yaml")
    assert str(expected[0]).startswith(f"{tmp_path / 'routing.yaml'}:{broken.line}: ")
    others = [p for p in problems if p is not expected[0]]
    assert not others or broken.old in ("otherwise:", GOOD), f"one mistake, one problem: {others}"


def test_the_good_one_is_good(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(GOOD)
    assert [rule.name for rule in load(file, {}).rules.rules] == ["chest"]


def test_a_problem_reads_as_one_line() -> None:
    problem = Problem("routing.yaml", 12, "unknown key 'prot' in node", "did you mean 'port'?")
    assert str(problem) == "routing.yaml:12: unknown key 'prot' in node (did you mean 'port'?)"


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("port: 11112", "prot: 1").replace("10.1.0.21", "a b").replace("adult_chest", "chets")
    text = text.replace("send: chest\n", "send: nobody\n").replace("port: 104", "port: 0")
    problems = problems_of(text, tmp_path)
    assert [p.line for p in problems] == [1, 3, 3, 4, 7, 8]
    assert str(ConfigError(problems)).count("\n") == 5


def test_a_rule_is_not_blamed_for_its_destinations_mistake(tmp_path: Path) -> None:
    assert [p.line for p in problems_of(GOOD.replace("10.1.0.21", "a b"), tmp_path)] == [3]


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2@h/d", "postgres://u:hunter2@h/d", "postgresql://u:hunter2@h:port/d",
        "postgresql://u:hunter2/x@h/d", "postgresql://u:hunter2@x@h/d", "postgresql://u:hunter2#@h/d",
        "postgresql://u:hunter2?@h/d", "postgresql://u:12/hunter2@h/d", "postgresql://u:12?hunter2@h/d",
        "postgresql://u:hunter2@[::1/d", "postgresql://u:hunter2:x@h/d", "host=h password=hunter2",
    ],
)  # fmt: skip
def test_a_secret_is_not_repeated(tmp_path: Path, url: str) -> None:
    """Not a part of it either: what stands behind an @ or / in it would be taken for the host."""
    text = GOOD.replace(NODE, NODE + f"\nspool: {{database: '{url}'}}")
    assert "hunter2" not in str(ConfigError(problems_of(text, tmp_path)))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d", "postgresql://u:p%40%2F%23@h:5432/d", "postgresql+psycopg://u@h/d?sslmode=require",
        "postgresql://u@/d?host=/run/postgresql", "postgresql://u:p@[::1]:5432/d", "postgresql://u:p@h",
    ],
)  # fmt: skip
def test_a_database_url_that_reads_in_one_way_is_taken(url: str) -> None:
    assert database(url) == url


def test_a_drivers_words_do_not_hold_the_password() -> None:
    for url in ("postgresql://u:s%40cret@h/d", "postgresql://h/d?password=s%40cret"):
        assert hidden_password("no s@cret and no s%40cret", url) == "no *** and no ***"
    assert "cab" not in hidden_password("a cab", "postgresql://u:cab@h/d")
    assert "cab" not in hidden_password("a cab", "postgresql://u:c/ab@h/d")
    assert hidden_password("a cab", "sqlite://") == "a cab"
    assert "s@cret" not in repr(SpoolSettings(database="postgresql://u:s@cret@h/d"))


def test_a_missing_file_has_no_line_and_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "routing.yaml", {})
    (problem,) = caught.value.problems
    assert problem.line == 0
    assert str(problem) == f"{tmp_path / 'routing.yaml'}: cannot be read: No such file or directory " + (
        "(create one with 'dicom-router init')"
    )


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"node: {}\n" + b"#" * 1024 * 1024, "larger than 1 MiB"),
        (b"node:\n  ae_title: \xff\n", "is not UTF-8"),
        (b"node: \x00\n", "a character that YAML does not allow"),
        (b"node: " + b"[" * 5000, "nested too deeply"),
        (b"a: &a [x]\n" + b"b: &b [*a, *a, *a, *a]\n" * 50, "anchors are not used here"),
        (b"node: {}\n---\nnode: {}\n", "not YAML"),
        (b"", "there are no destinations"),
        (b"destinations: []\nrules: []\notherwise: []\n", "there are no destinations"),
    ],
    ids=["large", "latin", "null", "deep", "bomb", "two documents", "empty", "wrong kinds"],
)
def test_hostile_files_are_refused_in_words(data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        load(file, {})


@pytest.mark.parametrize(
    ("web", "message", "fix"),
    [
        ("{address: 0.0.0.0, page: true}", "web.page: 0.0.0.0 is open to others", "set web.tls"),
        ("{address: 10.1.0.9, page: yes}", "web.page: 10.1.0.9 is open to others", "web.behind_proxy"),
        ("{behind_proxy: 0.0.0.0/0}", "is every address", "the proxy's own address"),
        ("{behind_proxy: []}", "is an empty list", "write a value"),
        ("{sign_on: {header: X-Remote-User}}", "web.sign_on has no from", "from: [10.0.0.5]"),
        ("{sign_on: {header: X-Remote-User, from: '::/0'}}", "is every address", "own address"),
        ("{sign_on: {header: Cookie, from: 10.0.0.5}}", "a browser itself sends", "X-Remote-User"),
        ("{sign_on: {header: 'X Y', from: 10.0.0.5}}", "is not the name of a header", "X-Remote-User"),
        ("{tls: {certificate: routing.yaml}}", "web.tls has no key", "key: node.key"),
    ],
)
def test_a_page_that_others_could_read_along_is_refused(web: str, message: str, fix: str, tmp_path: Path) -> None:
    (problem,) = problems_of(GOOD.replace(NODE, f"{NODE}\nweb: {web}"), tmp_path)
    assert message in problem.message
    assert fix in problem.fix
    assert problem.line == 2


@pytest.mark.parametrize("more", ["", ", behind_proxy: 10.0.0.5, page: true", ", page: false"])
def test_an_open_address_is_good_for_health_alone(more: str, tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(GOOD.replace(NODE, f"{NODE}\nweb: {{address: 0.0.0.0{more}}}"))
    assert (load(file, {}).web.why_no_page is None) == ("behind" in more)


def test_a_file_of_mistakes_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To find the nearest keyword takes a while for each."""
    monkeypatch.setattr(problems, "MOST", 3)
    rules = "".join(f"  - {{name: r{n}, when: {{Nonsense{n}: x}}, send: chest}}\n" for n in range(9))
    path = tmp_path / "routing.yaml"
    path.write_text(GOOD.partition("  - name")[0] + rules + "otherwise: {send: catch-all}\n")
    with pytest.raises(ConfigError) as failed:
        load(path)
    assert len(failed.value.problems) == 3 + 1
    assert str(failed.value).endswith("there may be more mistakes (correct these)")


def test_a_mistake_is_told_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(GOOD.replace("name: chest", r'name: "\e[31mchest"'))
    with pytest.raises(ConfigError, match="control character") as failed:
        load(path)
    assert str(failed.value).isprintable()
