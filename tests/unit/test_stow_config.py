"""How a destination for STOW-RS is written, and what is refused. No message repeats what may be a secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from router.config import ConfigError, Settings, load
from router.config.settings import ClientTls, HttpAuth, Secret

URL = "https://pacs.example.org/dicom-web/studies"


def loaded(folder: Path, destination: str) -> Settings:
    file = folder / "routing.yaml"
    file.write_text(f"destinations:\n  cloud: {{{destination}}}\nrules: []\notherwise: {{send: cloud}}\n")
    (folder / "token").write_text("s3cret")
    return load(file, {})


def test_the_example_in_the_docs_loads(tmp_path: Path) -> None:
    docs = (Path(__file__).resolve().parents[2] / "docs" / "routing.md").read_text()
    (block,) = (one for one in re.findall(r"^```\n(destinations:.*?)^```$", docs, re.M | re.S) if "stow:" in one)
    (tmp_path / "routing.yaml").write_text(f"{block}rules: []\notherwise: {{send: chest-cloud}}\n")
    auth = load(tmp_path / "routing.yaml", {}).destinations["chest-cloud"].auth
    assert auth
    assert auth.client_secret == Secret(env="CHEST_CLOUD_SECRET")


def test_what_an_address_says(tmp_path: Path) -> None:
    to = loaded(tmp_path, f"stow: {URL}").destinations["cloud"]
    assert (to.stow, to.host, to.port, to.tls, to.ae_title) == (URL, "pacs.example.org", 443, ClientTls(), "")
    assert (to.place, to.call) == (URL, URL)
    to = loaded(tmp_path, "stow: 'http://127.0.0.1:8042/studies?site=1', ae_title: PACS").destinations["cloud"]
    assert (to.host, to.port, to.tls, to.ae_title) == ("127.0.0.1", 8042, None, "PACS")
    to = loaded(tmp_path, "stow: 'http://pacs/studies', allow_http: true").destinations["cloud"]
    assert (to.host, to.port, to.tls) == ("pacs", 80, None)
    to = loaded(tmp_path, f"stow: {URL}, tls: {{ca: token}}").destinations["cloud"]
    assert to.tls == ClientTls(ca=tmp_path / "token")


@pytest.mark.parametrize(
    ("written", "auth"),
    [
        ("{bearer: {file: token}}", HttpAuth(bearer=Secret(file=Path("token")))),
        ("{bearer: {env: TOKEN}}", HttpAuth(bearer=Secret(env="TOKEN"))),
        ("{user: us, password: {env: P}}", HttpAuth(user="us", password=Secret(env="P"))),
        (
            "{token_url: 'https://a.example/t', client_id: us, client_secret: {env: P}, scope: s t}",
            HttpAuth(token_url="https://a.example/t", client_id="us", client_secret=Secret(env="P"), scope="s t"),
        ),
    ],
)
def test_the_ways_to_identify_oneself(written: str, auth: HttpAuth, tmp_path: Path) -> None:
    found = loaded(tmp_path, f"stow: {URL}, auth: {written}").destinations["cloud"].auth
    if auth.bearer and auth.bearer.file:
        auth = HttpAuth(bearer=Secret(file=tmp_path / "token"))
    assert found == auth


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("stow: pacs.example.org/studies", "is not an address of a web server"),
        ("stow: 'ftp://pacs/studies'", "is not an address of a web server"),
        ("stow: 'https://pacs:70000/studies'", "is not an address of a web server"),
        ("stow: 'https://us:s3cret@pacs/studies'", "has a user or a password in it"),
        ("stow: 'https://pacs/stu dies'", "has characters that an address cannot have"),
        ("stow: 'https://pacs/studies#s3cret'", "has characters that an address cannot have"),
        ("stow: 'http://pacs/studies'", "would send unencrypted"),
        ("stow: 'http://pacs/studies', allow_http: false", "would send unencrypted"),
        ("stow: 'http://127.0.0.1/s', tls: {verify_host: no}", "has tls and an address that begins with http:"),
        (f"stow: {URL}, proxy: 'proxy.example.org:3128'", "is not the address of a proxy"),
        (f"stow: {URL}, proxy: 'http://proxy.example.org'", "is not the address of a proxy, with its port"),
        (f"stow: {URL}, proxy: 'https://proxy.example.org:3128'", "is not the address of a proxy"),
        (f"stow: {URL}, proxy: 'http://us:s3cret@proxy.example.org:3128'", "has a user or a password in it"),
        ("stow: 'http://127.0.0.1/s', proxy: 'http://proxy.example.org:3128'", "would send unencrypted"),
        ("ae_title: A, host: pacs, port: 104, proxy: 'http://p:1'", "is only for a destination with stow"),
        (f"stow: {URL}, archive: true", "has no storage commitment"),
        (f"stow: {URL}, host: pacs", "so its host is that of the address"),
        (f"stow: {URL}, port: 104", "so its port is that of the address"),
        (f"stow: {URL}, calling_ae_title: US", "has no calling AE title"),
        ("ae_title: A, host: pacs, port: 104, allow_http: true", "is only for a destination with stow"),
        ("ae_title: A, host: pacs, port: 104, auth: {bearer: {env: T}}", "is only for a destination with stow"),
        (f"stow: {URL}, auth: s3cret", "must be a mapping"),
        (f"stow: {URL}, auth: {{}}", "is not whole, or is of several kinds"),
        (f"stow: {URL}, auth: {{bearer: s3cret}}", "must be a mapping"),
        (f"stow: {URL}, auth: {{bearer: {{env: s3cret!}}}}", "is not the name of an environment variable"),
        (f"stow: {URL}, auth: {{bearer: {{file: none}}}}", "there is no file"),
        (f"stow: {URL}, auth: {{bearer: {{env: T, file: token}}}}", "must say where the secret is"),
        (f"stow: {URL}, auth: {{user: us}}", "is not whole, or is of several kinds"),
        (f"stow: {URL}, auth: {{bearer: {{env: T}}, scope: all}}", "is not whole, or is of several kinds"),
        (
            f"stow: {URL}, auth: {{bearer: {{env: T}}, user: us, password: {{env: P}}}}",
            "is not whole, or is of several",
        ),
        (
            f"stow: {URL}, auth: {{token_url: 'http://a.example/t', client_id: us, client_secret: {{env: P}}}}",
            "auth would send unencrypted",
        ),
    ],
)
def test_what_is_refused(written: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, written)
    assert [words in str(one) for one in caught.value.problems] == [True]
    assert "s3cret" not in str(caught.value)


def test_two_addresses_on_one_server_are_two_destinations(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"

    def warned(first: str, second: str) -> bool:
        text = (
            f"destinations:\n  a: {{stow: {first}}}\n  b: {{stow: {second}}}\nrules: []\notherwise: {{send: [a, b]}}\n"
        )
        file.write_text(text)
        return any("the same node" in one for one in load(file, {}).warnings)

    assert warned(URL, URL)
    assert not warned(URL, URL + "/1.2.3")
