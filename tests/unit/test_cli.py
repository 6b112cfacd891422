"""The command line as a user meets it: what it says, and its exit codes."""

from __future__ import annotations

import getpass
import io
import json
import socket
import subprocess
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from router.cli import app, main
from router.config import load
from router.model.untrained import save_random_model
from router.pixels.wrap import wrap_image
from router.spool import open_spool, read_spool
from tests.peers import free_port
from tests.unit.receiving import served

GOOD = """
node: {{ae_title: ROUTER, address: 127.0.0.1, port: {port}}}
web: {{address: 127.0.0.1, port: {web}}}
spool: {{path: spool, reserve: 1 MB}}
model: {{path: model, device: cpu, workers: 1}}
destinations:
  here: {{ae_title: HERE, host: 127.0.0.1, port: 1}}
rules: []
otherwise: {{send: here}}
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The console script: here, or, for what serves, in a process of its own."""
    words = [*map(str, arguments)]
    command = [sys.executable, "-m", "router", *words]
    if "serve" in words:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dicom-router", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(command, int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    save_random_model(folder / "model", size=64)
    (folder / "routing.yaml").write_text(GOOD.format(port=free_port(), web=free_port()))
    images = folder / "images"
    images.mkdir()
    grey = np.random.default_rng(1).integers(0, 255, (80, 60), np.uint8)
    wrap_image(grey, images / "a.dcm")
    Image.fromarray(grey).save(images / "b.png")
    (images / "c.txt").write_text("no image")
    return folder


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, runpy; sys.argv = ['dicom-router', '--help']\n"
        "try: runpy.run_module('router', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pydicom', 'pynetdicom', 'sqlalchemy', 'numpy', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "router", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()[0].isdecimal()


@pytest.mark.parametrize("arguments", [("nonsense",), ("serve", "--nonsense"), ("send", "x"), ("queue", "retry")])
def test_wrong_use_is_two(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", [pytest.param("serve", marks=pytest.mark.slow), "check", "queue list", "events", "conformance"]
)
def test_a_missing_or_broken_configuration_is_one_line_and_two(tmp_path: Path, command: str) -> None:
    words = command.split()
    option = [] if command in ("check", "conformance") else ["--config"]
    done = run(*words, *option, tmp_path / "absent.yaml")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    (tmp_path / "routing.yaml").write_text(GOOD.format(port=1, web=2).replace("ae_title: ROUTER", "ae_titel: ROUTER"))
    done = run(*words, *option, tmp_path / "routing.yaml")
    assert done.returncode == 2
    assert "routing.yaml:2" in done.stderr
    assert "ae_title" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_serve_says_in_one_line_why_it_cannot(site: Path, tmp_path: Path) -> None:
    text = (site / "routing.yaml").read_text()
    (tmp_path / "file").write_text("not a folder")
    broken = (
        (text.replace("path: spool", f"path: {tmp_path / 'file' / 'spool'}"), "spool.path"),
        (text.replace("path: model", "path: images").replace("path: spool", "path: other"), "card.json"),
    )
    for content, expected in broken:
        config = site / "broken.yaml"
        config.write_text(content)
        done = run("serve", "--config", config)
        assert done.returncode in (1, 2)
        assert expected in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("key", ["port", "web"])
def test_an_address_that_cannot_be_had_is_one_line_and_one(site: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = {"port": free_port(), "web": free_port(), key: port}
        (site / "used.yaml").write_text(GOOD.format(**ports))
        done = run("serve", "--config", site / "used.yaml")
    assert done.returncode == 1  # the file may be right
    assert done.stderr.splitlines()[-1].startswith(f"127.0.0.1:{port}: Address already in use ("), done.stderr
    assert "inference" not in done.stderr


def test_a_demonstration_of_nothing_is_wrong_use(site: Path) -> None:
    done = run("demo", site / "none")
    assert (done.returncode, done.stderr) == (2, "nothing to send\n")
    assert "".join(done.stdout.split()).endswith("none:Nosuchfileordirectory")  # a line may be broken anywhere


@pytest.mark.slow
def test_check_names_what_is_not_ready(site: Path) -> None:
    done = run("check", site / "routing.yaml", "--json")
    *rows, failure = [json.loads(line) for line in done.stdout.splitlines()]
    assert (failure["exit_code"], failure["error"].partition(":")[0]) == (1, "destination here")
    states = {row["check"]: row["state"] for row in rows if row["state"] != "warning"}
    assert states == {
        "configuration": "ok", "model": "ok", "spool": "ok", "node.port": "ok", "web.port": "ok",
        "destination here": "failed",
    }  # fmt: skip
    assert done.returncode == 1
    assert run("check", site / "routing.yaml", "--offline").returncode == 0


@pytest.mark.slow
def test_classify_files_and_folders_with_rules(site: Path) -> None:
    done = run("classify", site / "images", "--config", site / "routing.yaml", "--json")
    rows = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == {"a.dcm", "b.png", "c.txt"}
    for name in ("a.dcm", "b.png"):
        assert set(rows[name]) == {
            "path",
            "top",
            "class",
            "confidence",
            "probabilities",
            "view",
            "view_confidence",
            "inverted",
            "rule",
            "destinations",
            "error",
        }
        assert (rows[name]["rule"], rows[name]["destinations"]) == ("otherwise", ["here"])
        assert sum(rows[name]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert rows["c.txt"]["error"]
    assert done.returncode == 1


@pytest.mark.slow
def test_classify_resumes_a_csv(site: Path, tmp_path: Path) -> None:
    first = run("classify", site / "images" / "a.dcm", "--model", site / "model", "--csv", tmp_path / "out.csv")
    assert first.returncode == 0, first.stderr
    words = ("classify", site / "images", "--model", site / "model", "--csv", tmp_path / "out.csv")
    refused = run(*words, "--body-part")
    assert (refused.returncode, "--body-part was False, now True" in refused.stderr) == (2, True)
    assert run(*words).returncode == 1  # c.txt is no image
    assert run(*words).returncode == 1  # and that is said again
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert sum("a.dcm" in line for line in lines) == 1
    assert sum("b.png" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("promote", "nope"), "model nope: no such folder"),
        (("shadow", "nope"), "model nope: no such folder"),
        (("promote", "model", "--pinned", "nope.csv"), "--pinned nope.csv: no such file"),
        (("promote", "model", "--pinned", "images/c.txt", "--root", "nope"), "--root nope: no such folder"),
    ],
)
def test_a_model_or_set_that_is_not_there_is_wrong_use(
    site: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], line: str
) -> None:
    monkeypatch.chdir(site)
    done = CliRunner().invoke(app, ["model", *words])
    assert (done.exit_code, done.output.strip()) == (2, line)


@pytest.mark.slow
def test_promote_says_how_many_pinned_images_it_left_out(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    save_random_model(site / "candidate", size=64, seed=1)
    words = ["model", "promote", "candidate", "--pinned", "pinned.csv", "--allow", "1", "--allow-wrong", "9"]
    lines = ["file,label,split", *(f"images/a.dcm,spine,{split}" for split in ("train", "val", "new"))]
    (site / "pinned.csv").write_text("\n".join(lines[:3]))
    refused = CliRunner().invoke(app, words)
    assert (refused.exit_code, "all 2 pinned images are of the splits train and val" in refused.output) == (1, True)
    (site / "pinned.csv").write_text("\n".join(lines))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "1 pinned images" in done.output
    assert "2 images of the splits train and val were left out" in done.output


def test_init_writes_what_check_accepts(tmp_path: Path) -> None:
    out = tmp_path / "routing.yaml"
    made = run("init", out, "--ai", "spine=SPINE@127.0.0.1:104", "--catch-all", "PACS@127.0.0.1:105")
    assert made.returncode == 0, made.stderr
    assert {d.ae_title for d in load(out, {}).destinations.values()} == {"SPINE", "PACS"}
    assert run("init", out).returncode == 2


def test_send_to_nobody_fails_and_says_which(site: Path) -> None:
    done = run("send", site / "images", "--to", f"X@127.0.0.1:{free_port()}", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert len(rows) == 3
    assert all(row["error"] for row in rows)


@pytest.mark.parametrize(
    ("to", "ours", "told"),
    [
        ("FAR_TOO_LONG_A_TITLE@127.0.0.1:104", "ROUTER", "has 20 characters"),
        ("ÄE@127.0.0.1:104", "ROUTER", "non-ASCII"),
        ("127.0.0.1:104/AE", "ROUTER", "is not AE@HOST:PORT"),
        ("nowhere", "ROUTER", "--to nowhere: use one of here"),
        ("AE@127.0.0.1:104", "FAR_TOO_LONG_A_TITLE", "--calling-ae: the AE title"),
    ],
)
def test_an_address_that_is_none_is_not_sent_to(site: Path, to: str, ours: str, told: str) -> None:
    options = ["--to", to, "--calling-ae", ours, "--config", str(site / "routing.yaml")]
    done = CliRunner().invoke(app, ["send", str(site / "images"), *options])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
    assert told in done.stderr


def test_a_test_image_is_taken_or_not_and_never_sent_unasked(site: Path, tmp_path: Path) -> None:
    text = (site / "routing.yaml").read_text().replace("path: spool,", f"path: {tmp_path / 'spool'},")
    (site / "own.yaml").write_text(text)
    config = ["--config", site / "own.yaml"]
    unasked = run("test", "here", *config)
    assert (unasked.returncode, "--yes is needed to send a synthetic X-ray to here" in unasked.stderr) == (2, True)
    failed = run("test", "here", *config, "--yes", "--json")
    (row,) = map(json.loads, failed.stdout.splitlines())
    assert (failed.returncode, row["destination"], row["arrived"], bool(row["error"])) == (1, "here", False, True)
    assert "this is not in the record: " in failed.stderr
    spool = load(site / "own.yaml", {}).spool
    open_spool(spool).close()
    assert run("test", "here", *config, "--yes").returncode == 1
    with served() as (port, handler):
        (site / "other.yaml").write_text(text.replace("port: 1}", f"port: {port}}}"))
        arrived = run("test", "here", "--config", site / "other.yaml", "--yes")
        assert (arrived.returncode, "it arrived, in " in arrived.stdout) == (0, True), arrived.stderr
        assert len(handler.stored) == 1
    with closing(read_spool(spool)) as opened:
        kept = opened.views.events(kind="test image sent")
    assert [(one.destination, one.detail["who"]) for one in kept] == [("here", getpass.getuser())] * 2
    assert [one.detail["error"] for one in kept] == [row["error"], ""]
    assert run("test", "nowhere", *config, "--yes").returncode == 2


def test_health_without_a_node_is_one(site: Path) -> None:
    done = run("health", "--config", site / "routing.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no node is running" in done.stderr


def test_queue_of_a_spool_that_never_ran(site: Path) -> None:
    config = site / "new.yaml"
    config.write_text((site / "routing.yaml").read_text().replace("path: spool", "path: new"))
    done = run("queue", "list", "--config", config)
    assert done.returncode == 1
    assert "no spool here" in done.stderr


def test_conformance_is_made_from_the_configuration(site: Path) -> None:
    done = run("conformance", site / "routing.yaml")
    assert done.returncode == 0
    settings = load(site / "routing.yaml", {})
    assert f"port {settings.node.port}" in done.stdout
    assert "| here | HERE | 127.0.0.1:1 |" in done.stdout
    assert "1.2.840.10008.1.2.4.90" in done.stdout


def test_the_conformance_statement_in_docs_is_that_of_the_shipped_configuration() -> None:
    """Make it again with: dicom-router conformance routing.yaml -o docs/conformance.md"""
    from router.commands.conformance import statement
    from router.config import shipped

    page = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text()
    assert page == statement(load(shipped(), {}))
    assert not [line for line in page.splitlines() if len(line) > 120 and not line.startswith("|")]


def test_events_shows_the_latest_and_all_when_told(tmp_path: Path) -> None:
    config = tmp_path / "routing.yaml"
    config.write_text(GOOD.format(port=1, web=2).replace("path: model, ", ""))
    spool = open_spool(load(config).spool)
    for number in range(5):
        spool.event(f"event {number}")
    spool.close()

    def shown(*words: str) -> list[str]:
        done = CliRunner().invoke(app, ["events", "--config", str(config), "--json", *words])
        assert done.exit_code == 0
        return [json.loads(line)["kind"] for line in done.stdout.splitlines()]

    assert shown("--last", "2") == ["event 3", "event 4"]
    assert shown() == shown("--all") == [f"event {number}" for number in range(5)]
