"""A good routing.yaml becomes settings: text stays text, units are read, the environment overrides."""

from __future__ import annotations

import re
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.config import ConfigError, Settings, load, shipped, values
from router.config.settings import (
    Accept,
    ClientTls,
    DestinationSettings,
    ModelSettings,
    NodeSettings,
    NotifySettings,
    ObjectStore,
    ReportTo,
    SpoolSettings,
    WebSettings,
)
from router.decide import conditions as c
from router.decide import unreachable

LEAST = """\
destinations:
  ai: {ae_title: AI, host: ai.example.org, port: 104}
rules: []
otherwise: {send: ai}
"""


def loaded(folder: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    file = folder / "routing.yaml"
    file.write_text(text)
    return load(file, environ or {})


def condition(folder: Path, when: str) -> c.Condition:
    rules = f"rules:\n  - name: one\n    when: {when}\n    send: ai\n"
    return loaded(folder, LEAST.replace("rules: []\n", rules)).rules.rules[0].when


def test_everything_but_destinations_and_rules_has_a_default(tmp_path: Path) -> None:
    settings = loaded(tmp_path, LEAST)
    assert settings.node == NodeSettings()
    assert settings.spool == SpoolSettings(path=tmp_path / "spool")
    assert (settings.model, settings.web) == (ModelSettings(), WebSettings())
    assert settings.destinations == {"ai": DestinationSettings("ai", "AI", "ai.example.org", 104)}
    assert settings.rules.otherwise.send == ("ai",)
    assert settings.file == tmp_path / "routing.yaml"


def test_every_setting_can_be_written(tmp_path: Path) -> None:
    for name in ("node.crt", "node.key", "ca.crt", "s3.ini"):
        (tmp_path / name).touch()
    (tmp_path / "model").mkdir()
    settings = loaded(
        tmp_path,
        """\
node:
  {ae_title: HUB, address: "::1", port: 104, require_called_ae: yes, dry_run: true, unknown_sop_classes: on,
   associations: 9, associations_per_peer: 3, unspoken_connections: 2, artim: 5s, idle: 1min, least_rate: 1 kB/s,
   instance_limit: 1 GiB, log: json,
   accept: [{ae_title: XRAY_1}, {peer: 10.1.0.0/16}, {ae_title: XRAY_2, commitment: same association},
    {ae_title: XRAY_3, commitment: {host: 10.1.0.31, port: 105, tls: {ca: ca.crt}}}],
   commitment_deadline: 1h, name: hub-1, roles: [forward, receive], drain: 20s,
   tls: {port: 2763, certificate: node.crt, key: node.key, ca: ca.crt}}
spool: {path: /var/spool/x, database: "postgresql://h/d", keep: 1h, keep_records: 7d, limit: 1 TB, reserve: 512 MiB,
  cache: 1 GB,
  blobs: "s3://images/router/a?endpoint=https://s3.example.org:9000&region=eu-central-1&credentials=s3.ini\\
    &sse=aws:kms&kms_key=alias/images&ca=ca.crt&virtual_host=yes&allow_http=yes"}
model: {path: model, device: cpu, engine: torch, threads: 2, workers: 1, pixel_timeout: 500ms, pixel_memory: 1.5 GB}
web:
  {address: 0.0.0.0, port: 81, page: true, tls: {certificate: node.crt, key: node.key}, behind_proxy: 10.0.0.5,
   sign_on: {header: X-Remote-User, roles_header: X-Remote-Roles, from: [10.0.0.0/28]}}
notify: {to: "https://example.org/", remind: 1h, quiet: {from: "22:00", until: "06:00"}, buried: 2, circuit: 1h,
  silent: {XRAY_1: 1h}, disk: 1h, room: 1 GB, certificate: 1d, inference: 1h, disagreement: 10%,
  result_missing: 3}
destinations:
  ai:
    {ae_title: AI, host: 10.1.0.21, port: 104, calling_ae_title: HUB2, enabled: true, associations: 4, idle: 1s,
     echo: no, syntaxes: [JPEG2000Lossless, 1.2.840.10008.1.2], limit: 100, give_up_after: 1d, connect_timeout: 1s,
     response_timeout: 2s, least_rate: 2 kB/s, archive: true, limit_rate: 60/min, gather: 20s, gather_limit: 2min,
     hours: "18:00-07:00 Mon-Fri", results_from: [AI_OUT], expect_result: 5min, fallback: web,
     tls: {ca: ca.crt, certificate: node.crt, key: node.key, verify_host: false}}
  web: {stow: "http://pacs.example.org/studies", allow_http: true, auth: {bearer: {file: s3.ini}},
        proxy: "http://proxy.example.org:3128"}
rules: []
otherwise: {send: [ai, web]}
""",
    )
    assert settings.node.accept == (
        Accept("XRAY_1", None),
        Accept(None, ip_network("10.1.0.0/16")),
        Accept("XRAY_2", None, ReportTo()),
        Accept("XRAY_3", None, ReportTo("10.1.0.31", 105, ClientTls(tmp_path / "ca.crt"))),
    )
    assert settings.node.roles == ("receive", "forward")
    assert settings.model.pixel_timeout == 0.5
    assert settings.model.pixel_memory == 1_500_000_000
    assert settings.spool.reserve == 512 * 1024**2
    assert settings.spool.blobs == ObjectStore(
        "images", "router/a", "https://s3.example.org:9000", "eu-central-1", tmp_path / "s3.ini", "aws:kms",
        "alias/images", tmp_path / "ca.crt", virtual_host=True, allow_http=True,
    )  # fmt: skip
    assert settings.spool.path == Path("/var/spool/x")
    assert settings.destinations["ai"].syntaxes == ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2")
    for section, default in (
        (settings.node, NodeSettings()),
        (settings.spool, SpoolSettings()),
        (settings.model, ModelSettings()),
        (settings.web, WebSettings()),
        (settings.notify, NotifySettings()),
        (settings.destinations["ai"], DestinationSettings("", "", "", 0, enabled=False)),
    ):
        same = [f.name for f in fields(section) if getattr(section, f.name) == getattr(default, f.name)]
        if section is settings.destinations["ai"]:  # these are those of the other kind of destination
            same = [name for name in same if getattr(settings.destinations["web"], name) == getattr(default, name)]
        assert same == [], "a setting that cannot be written is no setting"


def test_the_shipped_file_shows_every_setting_with_its_default() -> None:
    text = shipped().read_text()
    shown = re.sub(r"^( *)# ( *[a-z_]+:)", r"\1\2", text, flags=re.MULTILINE)
    for line in ("unspoken_connections: 64", "artim: 30s", "least_rate: 10 kB/s", "keep: 24h", "reserve: 1 GB"):
        assert re.search(rf"^ *{line}\b", shown, re.MULTILINE), line
    for section in (
        NodeSettings(),
        SpoolSettings(),
        ModelSettings(),
        WebSettings(),
        NotifySettings(),
        DestinationSettings("", "", "", 1),
    ):
        for field in fields(section):
            if field.name != "name":
                assert re.search(rf"\b{field.name}:", text), f"{field.name} is not shown"


def test_text_stays_what_was_written(tmp_path: Path) -> None:
    words = frozenset({"no", "01", "12:30", "1e3", "0x10", "2024-06-15"})
    expected = c.Text(0x00081010, "StationName", c.Equal(words))
    assert condition(tmp_path, "{StationName: [NO, 01, 12:30, 1e3, 0x10, 2024-06-15]}") == expected


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("{class: spine}", c.ClassIs(frozenset({"spine"}))),
        ("{class: [spine, uncertain]}", c.ClassIs(frozenset({"spine", "uncertain"}))),
        ("{confidence: '>= 0.90'}", c.Confidence(c.Comparison(">=", 0.9))),
        ("{confidence: < 0.5}", c.Confidence(c.Comparison("<", 0.5))),
        (
            "{probability.chest: '>0.9'}",
            c.Probability(frozenset({"adult_chest", "pediatric_chest"}), c.Comparison(">", 0.9)),
        ),
        ("{frames: 1}", c.Frames(c.Comparison("==", 1))),
        ("{age: '>= 2y and < 16y'}", c.AllOf((c.AgeIs(">=", 2, "Y"), c.AgeIs("<", 16, "Y")))),
        ("{age: '< 28d'}", c.AgeIs("<", 28, "D")),
        ("{calling_ae: [XRAY_1, XRAY_2]}", c.FromAe("calling_ae", c.Equal(frozenset({"xray_1", "xray_2"})))),
        ("{called_ae: {glob: 'R*'}}", c.FromAe("called_ae", c.glob("R*"))),
        ("{peer: 10.1.0.0/16}", c.PeerIn((ip_network("10.1.0.0/16"),))),
        (
            "{sop_class: ComputedRadiographyImageStorage}",
            c.SopClass(c.Equal(frozenset({"1.2.840.10008.5.1.4.1.1.1"}))),
        ),
        ("{'(0018,5101)': PA}", c.Text(0x00185101, "ViewPosition", c.Equal(frozenset({"pa"})))),
        ("{'(0019,10ab)': x}", c.Text(0x001910AB, "(0019,10ab)", c.Equal(frozenset({"x"})))),
        ("{'(0019,ACME,AB)': x}", c.PrivateText(c.Private(0x0019, "ACME", 0xAB), c.Equal(frozenset({"x"})))),
        ("{'(0019, GE, MS 1, ab)': {exists: no}}", c.PrivateExists(c.Private(0x0019, "GE, MS 1", 0xAB), False)),
        ("{ViewCodeSequence: {exists: yes}}", c.Exists(0x00540220, "ViewCodeSequence", True)),
        ("{not: {any: [{novel: true}, {pixels: none}]}}", None),
        (
            "{StudyDescription: {regex: 'thorax|chest.*'}}",
            c.Text(0x00081030, "StudyDescription", c.Regex("thorax|chest.*")),
        ),
    ],
)
def test_conditions_read_as_they_are_written(when: str, expected: c.Condition | None, tmp_path: Path) -> None:
    expected = expected or c.Not(c.AnyOf((c.Novel(True), c.PixelsAre(frozenset({"none"})))))
    assert condition(tmp_path, when) == expected


def test_the_environment_overrides_a_key(tmp_path: Path) -> None:
    environ = {
        "DICOM_ROUTER__NODE__PORT": "104",
        "DICOM_ROUTER__DESTINATIONS__MY_AI__HOST": "other.example.org",
        "DICOM_ROUTER_TEST_DATA": "nothing of ours",
    }
    text = LEAST.replace("  ai:", "  my-ai:").replace("send: ai", "send: my-ai")
    settings = loaded(tmp_path, text, environ)
    assert settings.node.port == 104
    assert settings.destinations["my-ai"].host == "other.example.org"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DICOM_ROUTER__NODE__PROT", "104", "unknown key 'prot' in node (did you mean 'port'?)"),
        ("DICOM_ROUTER__NODE__PORT", "x", "node.port: 'x' is not a port"),
        ("DICOM_ROUTER__NODE", "x", "node must be a mapping"),
        ("DICOM_ROUTER__NODE__", "x", "has an empty part"),
        ("DICOM_ROUTER__" + "A__" * 3000 + "A", "x", "is nested too deeply"),
        ("DICOM_ROUTER__RULES__NAME", "x", "'rules' has no keys to override"),
    ],
)
def test_a_wrong_override_names_its_variable(name: str, value: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, LEAST, {name: value})
    assert str(caught.value).startswith(f"environment variable {name}: {said}")


def test_a_variable_in_a_value_is_read(tmp_path: Path) -> None:
    text = LEAST + "spool: {database: 'postgresql://u:${PASSWORD}@h/d'}\n"
    assert loaded(tmp_path, text, {"PASSWORD": "p"}).spool.database == "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LEAST, "routing.yaml:1: node.accept is left out"),
        (
            LEAST.replace("rules:", "  ai2: {ae_title: AI, host: AI.example.org, port: 104}\nrules:"),
            "routing.yaml:3: destinations 'ai' and 'ai2' are the same node",
        ),
        (
            LEAST.replace("rules:", "  idle: {ae_title: AI2, host: b, port: 104}\nrules:"),
            "routing.yaml:3: no rule sends to destination 'idle'",
        ),
        (
            "node: {accept: [{ae_title: X, commitment: same association}]}\n" + LEAST,
            "routing.yaml:1: node.accept lets callers ask for storage commitment, but no destination has archive: true",
        ),
        ("node: {dry_run: true}\n" + LEAST, "routing.yaml:1: node.dry_run is on"),
    ],
)
def test_what_is_probably_not_meant_is_a_warning(text: str, said: str, tmp_path: Path) -> None:
    assert any(said in warning for warning in loaded(tmp_path, text).warnings)


@pytest.mark.parametrize(
    ("earlier", "later", "hidden"),
    [
        ("{view: [lateral, other]}", "{view: other}", True),
        ("{header_part: [spine, unknown]}", "{header_part: spine}", True),
        ("{header_part: spine}", "{header_part: [spine, unknown]}", False),
        ("{header_view: lateral}", "{header_view: frontal}", False),
        ("{part_confidence: '< 0.98'}", "{part_confidence: '< 0.5'}", True),
        ("{class: [spine, others]}", "{class: spine}", True),
        ("{class: spine}", "{class: [spine, others]}", False),
        ("{class: spine}", "{age: '< 5y', class: spine}", True),
        ("{age: '< 5y', class: spine}", "{class: spine}", False),
        ("{age: '< 16y'}", "{age: '< 5y', class: spine}", True),
        ("{age: '< 16y'}", "{age: '<= 16y'}", False),
        ("{age: '< 16y'}", "{age: '< 5m'}", False),
        ("{confidence: '> 0.5'}", "{confidence: '>= 0.5'}", False),
        ("{confidence: '>= 0.5'}", "{confidence: '> 0.5'}", True),
        ("{confidence: '>= 0.5'}", "{confidence: '< 0.9'}", False),
        ("{frames: '> 1'}", "{frames: 2}", True),
        ("{any: [{class: spine}, {novel: true}]}", "{novel: true}", True),
        ("{novel: true}", "{any: [{class: spine}, {novel: true}]}", False),
        ("{Modality: [CR, DX]}", "{Modality: dx}", True),
        ("{Modality: [CR, DX]}", "{ViewPosition: dx}", False),
    ],
)
def test_a_rule_that_can_never_fire_is_found(earlier: str, later: str, hidden: bool, tmp_path: Path) -> None:
    rules = f"rules:\n  - {{name: a, when: {earlier}, send: ai}}\n  - {{name: b, when: {later}, send: ai}}\n"
    text = LEAST.replace("rules: []\n", rules)
    if hidden:
        with pytest.raises(ConfigError, match="rule 'b' can never fire"):
            loaded(tmp_path, text)
    else:
        loaded(tmp_path, text)
    loaded(tmp_path, text.replace("name: a,", "name: a, shadow: true,"))


PLAIN = "{any: [{not: {Modality: [CR, DX]}}, {Modality: {exists: false}}]}"


@pytest.mark.parametrize(
    ("earlier", "later", "reason"),
    [
        (PLAIN, "{Modality: CT}", "'a' on line 4"),
        (PLAIN, "{class: spine, Modality: [CT, MR]}", "'a' on line 4"),
        (PLAIN, "{Modality: [CT, CR]}", ""),
        (PLAIN, "{ViewPosition: AP}", ""),
        ("{ImageType: SECONDARY}", "{ImageType: [SECONDARY]}", "error"),
        ("{not: {ImageType: PRIMARY}}", "{ImageType: SECONDARY}", ""),  # it may have both values
        ("{novel: true}", "{class: spine, top: adult_chest}", "contradict"),
        ("{frames: '> 1'}", "{novel: true, class: spine}", "contradict"),
        ("{frames: '> 1'}", "{not: {top: spine}, class: spine}", "contradict"),
        ("{frames: '> 1'}", "{age: '< 5y and > 10y'}", "contradict"),
        ("{frames: '> 1'}", "{age: '< 5m and >= 1y'}", "contradict"),
        ("{frames: '> 1'}", "{age: '< 13m and >= 1y'}", ""),
        ("{age: '< 16y'}", "{age: '< 5m'}", "'a' on line 4"),
        ("{age: '< 16y'}", "{age: '< 16y and > 10m', class: spine}", "error"),
        ("{any: [{age: '< 16y'}, {age: '>= 16y'}]}", "{class: spine}", ""),  # an age may be unknown
        ("{novel: true}", "{confidence: '> 0.9 and < 0.5'}", "contradict"),
        ("{novel: true}", "{frames: '> 1 and < 2'}", "contradict"),
        ("{frames: '>= 2'}", "{frames: '> 1', class: spine}", "'a' on line 4"),
        ("{pixels: [decoded, none, undecodable, unparseable, failed]}", "{class: spine}", "'a' on line 4"),
        ("{calling_ae: {glob: '*'}}", "{class: spine}", "'a' on line 4"),
        ("{StationName: {glob: '*'}}", "{class: spine}", ""),  # it may be absent
        ("{StationName: {glob: '*'}}", "{StationName: XRAY_1}", "'a' on line 4"),
        ("{calling_ae: A}", "{calling_ae: [A, B], not: {calling_ae: B}}", "'a' on line 4"),
        ("{peer: 10.0.0.0/8}", "{peer: [10.1.0.0/16, 10.2.3.4]}", "'a' on line 4"),
        ("{peer: 10.1.0.0/16}", "{peer: 10.0.0.0/8}", ""),
        ("{novel: true}", "{Modality: {exists: false}, not: {Modality: CT}}", "contradict"),
        ("{not: {class: spine}}", "{class: [others, abdominal]}", "'a' on line 4"),
        ("{top: spine}", "{class: spine}", "'a' on line 4"),
        ("{'(0019,ACME,ab)': [x, y]}", "{'(0019,ACME,ab)': x}", "'a' on line 4"),
        ("{'(0019,ACME,ab)': x}", "{'(0019,OTHER,ab)': x}", ""),
        ("{Modality: {exists: true}}", "{Modality: CR}", ""),  # a data set that breaks off may have shown it
        ("{Modality: {exists: true}}", "{Modality: CR, not: {pixels: unparseable}}", "'a' on line 4"),
    ],
)
def test_a_rule_that_can_never_fire_for_another_reason_is_a_warning(
    earlier: str, later: str, reason: str, tmp_path: Path
) -> None:
    rules = f"rules:\n  - {{name: a, when: {earlier}, send: ai}}\n  - {{name: b, when: {later}, send: ai}}\n"
    text = LEAST.replace("rules: []\n", rules)
    line = text[: text.index("{name: a")].count("\n") + 1
    if reason == "error":
        with pytest.raises(ConfigError, match="rule 'b' can never fire"):
            loaded(tmp_path, text)
        return
    warnings = [w for w in loaded(tmp_path, text).warnings if "never fire" in w]
    assert len(warnings) == bool(reason), warnings
    assert all(reason.replace("line 4", f"line {line}") in warning for warning in warnings)
    assert all(f"routing.yaml:{line + 1}: rule 'b' can never fire: " in warning for warning in warnings)


def test_two_rules_can_leave_nothing_to_a_third(tmp_path: Path) -> None:
    rules = (
        "rules:\n  - {name: a, when: {calling_ae: A}, send: ai}\n"
        "  - {name: b, when: {not: {calling_ae: A}}, send: ai}\n"
        "  - {name: c, when: {calling_ae: [A, B], class: spine}, send: ai}\n"
    )
    (warning,) = [w for w in loaded(tmp_path, LEAST.replace("rules: []\n", rules)).warnings if "never fire" in w]
    assert warning.partition(": ")[2] == (
        "rule 'c' can never fire: 'a' on line 4 and 'b' on line 5 take its instances first"
    )


@pytest.mark.parametrize(
    "rule",
    [
        "{{name: r{n}, when: {{StationName: S{n}, class: spine}}, send: ai}}",
        "{{name: r{n}, when: {{class: spine, confidence: '> 0.{n} and < 0.{n}5'}}, send: ai}}",
        "{{name: r{n}, when: {{any: [{{age: '< {n}d'}}, {{ViewPosition: V{n}}}], novel: true}}, send: ai}}",
    ],
)
def test_a_long_table_is_checked_in_bounded_steps(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = "\n".join("  - " + rule.format(n=n) for n in range(10, 60))
    parsed = loaded(tmp_path, LEAST.replace("rules: []", f"rules:\n{rules}")).rules.rules
    asked = 0
    deny = unreachable._deny

    def counted(*given: Any) -> None:
        nonlocal asked
        asked += 1
        deny(*given)

    monkeypatch.setattr(unreachable, "_deny", counted)
    assert unreachable.never_fire(parsed, [True] * len(parsed)) == {}
    assert asked < 10 * unreachable.MOST_STEPS
    monkeypatch.setattr(unreachable, "MOST_STEPS", 40)
    asked = 0
    assert unreachable.never_fire(parsed, [True] * len(parsed)) == {}
    assert asked <= 10 * 40


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.duration, "24h", 86400.0),
        (values.duration, "365d", 365 * 86400.0),
        (values.duration, "500ms", 0.5),
        (values.duration, "15 min", 900.0),
        (values.size, "50 GB", 50 * 10**9),
        (values.size, "512 MiB", 512 * 2**20),
        (values.size, "0.5kB", 500),
        (values.rate, "50 kB/s", 50_000),
        (values.host, "[::1]", "::1"),
        (values.host, "pacs_1.example.org", "pacs_1.example.org"),
        (values.ae_title, " XRAY 1 ", "XRAY 1"),
    ],
)
def test_units(parse: object, text: str, value: object) -> None:
    assert callable(parse)
    assert parse(text) == value


@pytest.mark.slow
@settings(deadline=None)
@given(st.text(max_size=30))
def test_no_text_breaks_a_parser(text: str) -> None:
    said: list[values.WrongError] = []
    for parse in (values.duration, values.size, values.rate, values.port, values.host, values.ae_title, values.network):
        try:
            parse(text)
        except values.WrongError as error:
            said.append(error)
    assert all(error.message and error.fix for error in said)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("abc:{}[]-,&*!|>'\"#%@` \n\t${}"), max_size=60))
def test_no_file_breaks_load(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file, {})
