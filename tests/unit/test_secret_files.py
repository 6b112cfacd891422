"""Files for TLS and with secrets that are there and broken: named with line and fix, and no reason not to start."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.config import ConfigError, Settings, load
from router.node.reloading import refuse_unusable_files
from tests.unit.test_expiry import certificate

URL = "https://pacs.example.org/dicom-web/studies"


def loaded(folder: Path, destination: str, more: str = "") -> Settings:
    file = folder / "routing.yaml"
    file.write_text(
        f"destinations:\n  pacs: {{ae_title: PACS, host: 127.0.0.1, port: 104}}\n  cloud: {{{destination}}}\n"
        f"rules: []\notherwise: {{send: pacs}}\n{more}"
    )
    return load(file, {})


@pytest.mark.parametrize(
    ("content", "written", "setting", "words"),
    [
        (b"no pem", "tls: {ca: broken}", "tls.ca", "cannot be used"),
        (b"", "tls: {ca: broken}", "tls.ca", "cannot be used"),
        (b"no pem", "tls: {certificate: broken, key: broken}", "tls.certificate", "cannot be used"),
        (b"no pem", "tls: {certificate: good.crt, key: broken}", "tls.certificate", "cannot be used"),
        (b"no pem", "tls: {certificate: good.crt, key: other.key}", "tls.certificate", "key values mismatch"),
        (b"", "auth: {bearer: {file: broken}}", "auth.bearer.file", "is empty"),
        (b" \n", "auth: {bearer: {file: broken}}", "auth.bearer.file", "is empty"),
        (b"two\nlines", "auth: {bearer: {file: broken}}", "auth.bearer.file", "is longer than one line"),
        (b"x" * 20_000, "auth: {bearer: {file: broken}}", "auth.bearer.file", "is longer than one line"),
        (
            b"no pem",
            "auth: {token_url: 'https://a.example/t', client_id: us, client_secret: {env: P}, ca: broken}",
            "auth.ca", "cannot be used",
        ),
    ],
)  # fmt: skip
def test_each_is_named_with_its_line_and_only_a_reload_refuses_it(
    content: bytes, written: str, setting: str, words: str, tmp_path: Path
) -> None:
    for name in ("good", "other"):
        certificate(tmp_path, 10, name)
    (tmp_path / "broken").write_bytes(content)
    old = loaded(tmp_path, f"stow: {URL}")
    new = loaded(tmp_path, f"stow: {URL}, {written}")
    (found,) = new.unusable
    assert str(found).startswith(f"{tmp_path / 'routing.yaml'}:3: destination 'cloud'.{setting}: the file {tmp_path}/")
    assert words in found.why
    assert found.fix
    with pytest.raises(ConfigError) as caught:
        refuse_unusable_files(old, new)
    (problem,) = caught.value.problems
    assert (problem.line, problem.fix) == (3, found.fix)
    refuse_unusable_files(new, new)  # it was so before: nobody is kept from changing something else


def test_good_ones_are_no_trouble(tmp_path: Path) -> None:
    certificate(tmp_path, 10, "good")
    (tmp_path / "token").write_text("s3cret\n")
    tls = "tls: {ca: good.crt, certificate: good.crt, key: good.key}"
    assert loaded(tmp_path, f"stow: {URL}, {tls}, auth: {{bearer: {{file: token}}}}").unusable == ()


def test_those_of_the_nodes_own_ports_are_refused_whatever_was_before(tmp_path: Path) -> None:
    for name in ("good", "other"):
        certificate(tmp_path, 10, name)
    (tmp_path / "broken").write_text("no pem")
    pair = "certificate: good.crt, key: other.key"
    new = loaded(tmp_path, f"stow: {URL}", f"node: {{tls: {{{pair}, ca: broken}}}}\nweb: {{tls: {{{pair}}}}}\n")
    assert sorted(one.setting for one in new.unusable) == ["node.tls.ca", "node.tls.certificate", "web.tls.certificate"]
    with pytest.raises(ConfigError) as caught:
        refuse_unusable_files(new, new)
    assert len(caught.value.problems) == 3


def test_a_secret_is_not_in_the_words(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\ns3cret")
    (found,) = loaded(tmp_path, f"stow: {URL}, auth: {{bearer: {{file: token}}}}").unusable
    assert "s3cret" not in str(found)


def test_a_key_with_a_passphrase_asks_nobody(tmp_path: Path) -> None:
    certificate(tmp_path, 10, "good")
    subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", tmp_path / "good.key", "-out",
         tmp_path / "locked.key"], check=True, capture_output=True,
    )  # fmt: skip
    (found,) = loaded(tmp_path, f"stow: {URL}, tls: {{certificate: good.crt, key: locked.key}}").unusable
    assert "without a passphrase" in found.fix


def test_check_fails_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.cli.check._model", lambda _: [])
    (tmp_path / "broken").write_text("no pem")
    loaded(tmp_path, f"stow: {URL}, tls: {{ca: broken}}, enabled: false")
    words = ["check", "--offline", "--config", str(tmp_path / "routing.yaml")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert f"failed   configuration: {tmp_path / 'routing.yaml'}:3: destination 'cloud'.tls.ca: the file" in done.output
