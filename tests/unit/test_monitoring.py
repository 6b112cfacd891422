"""Alert rules and dashboard of docker/monitoring ask for metrics and labels that a node gives, and show all of them."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from router.config.settings import WebSettings
from router.observe import metrics
from router.web import WebServer
from tests.unit.test_metrics import View

FOLDER = Path(__file__).resolve().parents[2] / "docker" / "monitoring"
ALERTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
PROMETHEUS = {"instance", "job", "role"}
"""Labels that Prometheus adds, by itself or as it is told."""
FUNCTIONS = frozenset((
    "and", "by", "histogram_quantile", "increase", "label_values", "max", "min", "on", "or", "rate", "sort_desc", "sum",
    "time", "unless", "up",
))  # fmt: skip
"""Every other word of an expression that is not one of our metrics or labels."""


class Node(View):
    """A node that serves a model, with a destination that is owed something."""

    def models(self) -> dict[str, str]:
        return {"serving": "abc"}

    def alive(self) -> dict[str, bool]:
        return {}

    def ready(self) -> dict[str, bool]:
        return {}


@pytest.fixture(scope="module")
def given() -> dict[str, set[str]]:
    """Of each sample of /metrics: its name, and the names of its labels."""
    counted = [(one, one._labelnames) for one in vars(metrics).values() if getattr(one, "_labelnames", ())]
    for metric, names in counted:  # as if each had happened once
        metric.labels(*names)
    view: Any = Node()
    web = WebServer(WebSettings(port=0), view)
    port = web.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    web.stop()
    for metric, names in counted:
        metric.remove(*names)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    asked = [rule["expr"] for rule in ALERTS]
    asked += [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    asked += [one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    return asked


def words(expression: str) -> set[str]:
    """Names in an expression, without texts, times and variables."""
    bare = re.sub(r'"[^"]*"|\$\w+|\[[^\]]*\]', " ", expression)
    return set(re.findall(r"[A-Za-z_]\w*", bare))


def labels_asked(expression: str) -> list[tuple[str, set[str]]]:
    """(metric, labels) for each selector, and what `by`, `on` and the texts of alerts may ask of it."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    return [
        (name, set(re.findall(r"(\w+)\s*(?:=~|!=|=)", inside)))
        for name, inside in re.findall(r"(dicom_router_\w+)(?:\{([^}]*)\})?", bare)
    ]


def test_every_name_is_a_metric_a_label_or_a_function(given: dict[str, set[str]]) -> None:
    labels = set().union(*given.values()) | PROMETHEUS
    for expression in expressions():
        unknown = words(expression) - set(given) - labels - FUNCTIONS
        assert not unknown, expression


def test_every_selector_and_grouping_has_labels_of_its_metric(given: dict[str, set[str]]) -> None:
    for expression in expressions():
        together: set[str] = set()
        for name, labels in labels_asked(expression):
            assert labels <= given[name] | PROMETHEUS, (name, expression)
            together |= given[name]
        for grouped in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            assert {label.strip() for label in grouped.split(",")} <= together | PROMETHEUS, expression


def test_legends_and_texts_name_labels_that_are_there(given: dict[str, set[str]]) -> None:
    for rule in ALERTS:
        kept = set().union(*(given[name] for name, _ in labels_asked(rule["expr"])), PROMETHEUS)
        grouped = re.findall(r"\bsum by \(([^)]*)\)", rule["expr"])
        if rule["expr"].startswith("sum"):
            kept = {label.strip() for label in grouped[0].split(",")}
        text = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= kept, rule["alert"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            kept = set().union(*(given[name] for name, _ in labels_asked(target["expr"])), PROMETHEUS)
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_every_metric_is_on_the_dashboard(given: dict[str, set[str]]) -> None:
    shown = {name for panel in DASHBOARD["panels"] for t in panel.get("targets", []) for name in words(t["expr"])}
    assert set(given) - shown == set()


def test_every_alert_can_be_read_and_acted_on() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    for rule in ALERTS:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"[0-9]+[smhd]", rule.get("for", "1m"))


def test_what_logging_md_says_to_alert_on_is_alerted_on() -> None:
    text = (FOLDER.parents[1] / "docs" / "logging.md").read_text().split("Alert on:")[1].split("\n## ")[0]
    asked = {name for rule in ALERTS for name in words(rule["expr"])}
    assert set(re.findall(r"dicom_router_\w+", text)) <= asked


def test_the_panels_lie_beside_each_other_and_not_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
