"""The documentation against the program: links, commands, options, log events, metrics and settings that it names."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from router.cli import app
from router.config import load
from router.observe import metrics

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/*/*.md")])


def log_events() -> set[str]:
    """Every event that the code may log, from its syntax trees."""
    found = set()
    for path in (ROOT / "router").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
                and node.func.attr in ("debug", "info", "warning", "error")
            ):
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: an event must be a plain text"
                found.add(str(node.args[0].value))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"dicom-router ([a-z][^`\n]*)", page.read_text()):
        words = line.split("#")[0].split()
        command = commands.get(words[0])
        assert command is not None, f"{page.name}: dicom-router {words[0]}"
        if hasattr(command, "commands") and len(words) > 1:
            command = command.commands.get(words[1].strip(",;."))
            assert command is not None, f"{page.name}: dicom-router {words[0]} {words[1]}"
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.strip(",.;)").split("=")[0] in options | {"--help"}, f"{page.name}: {line}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(
            r"`?make ([a-z-]+)\b", " ".join(re.findall(r"```.*?```|`[^`]+`", page.read_text(), re.S))
        ):
            assert target in targets, f"{page.name}: make {target}"


def test_every_log_event_is_documented_and_no_other() -> None:
    table = (ROOT / "docs" / "logging.md").read_text().split("## Log events")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {event for row in rows for event in re.findall(r"`([^`]+)`", row)}
    assert documented == log_events()


def test_every_metric_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "logging.md").read_text().split("## Metrics")[1].split("\n## ")[0]
    source = (ROOT / "router" / "web" / "gauges.py").read_text() + Path(metrics.__file__).read_text()
    named = set(re.findall(r'"(dicom_router_\w+)"', source))
    assert set(re.findall(r"`(dicom_router_\w+)`", text)) == named


def test_the_path_of_an_instance_is_told_by_files_and_names_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    hops = re.findall(r"^\| [0-9]+ \|.*\| `([a-z_/]+\.py)`(?: `([a-z_]+)`)? \|", text, re.MULTILINE)
    assert len(hops) == len(re.findall(r"^\| [0-9]+ \|", text, re.MULTILINE)) >= 15
    for file, name in hops:
        code = (ROOT / "router" / file).read_text()
        assert not name or re.search(rf"^ *def {name}\(", code, re.MULTILINE), (file, name)


def test_where_to_begin_a_change_names_files_and_folders_that_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## Where to begin a change")[1].split("\n## ")[0]
    named = re.findall(r"`([a-z_/0-9]+(?:/|\.py|\.md|\.yaml))`", table)
    assert len(named) > 25
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_room_is_in_the_table_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \|", text, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    package = ROOT / "router"
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    assert told == rooms | {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}


def test_examples_of_routing_yaml_are_accepted(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    examples = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "otherwise" in yaml.safe_load(block)]
    assert examples
    for example in examples:
        (tmp_path / "routing.yaml").write_text(example)
        load(tmp_path / "routing.yaml", {})


def test_the_readme_has_the_figures_of_the_shipped_card() -> None:
    figures = json.loads((ROOT / "models" / "mobilenet_v1" / "card.json").read_text())["figures"]
    test, unseen = figures["test"], figures["sources"]
    value, low, high = test["macro"]["f1"]
    recall = sum(row["recall"] for row in unseen["classes"].values()) / len(unseen["classes"])
    page = (ROOT / "README.md").read_text()
    assert f"macro F1 {value:.3f} (95 % interval {low:.3f}–{high:.3f}) | {test['n']} |" in page
    assert f"mean recall of the five classes {recall:.3f} | {unseen['n']} |" in page


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of a developer's machine and no private host in anything that is shipped."""
    for path in [
        *PAGES,
        *(ROOT / "router").rglob("*.py"),
        ROOT / "Makefile",
        ROOT / "routing.yaml",
        ROOT / "Dockerfile",
    ]:
        text = path.read_text()
        assert not re.search(r"/work/|/root/|/home/[a-z]+/|\bpypi-|\.internal\b", text), path


def test_nobody_is_sent_to_an_index_that_does_not_have_us() -> None:
    """Until a release is on one; and what messages advise to install is there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    texts = [path.read_text() for folder in ("router", "docs") for path in (ROOT / folder).rglob("*.[mp][dy]")]
    assert not [text for text in texts if re.search(r"pip install ['\"]?dicom-router", text)]
    advised = {extra for text in texts for extra in re.findall(r"to_install\('(\w+)'\)", text)}
    assert advised == {"notify", "postgres", "s3", "torch", "train"} & set(extras)
