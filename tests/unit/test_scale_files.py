"""What several machines are made of, as far as it can be tested without them: compose.scale.yaml and the chart."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python import HelmError
from helm_python.chart import Chart, lint

from router.config import Settings, load
from router.config.settings import ROLES

ROOT = Path(__file__).resolve().parents[2]
DOCKER, CHART = ROOT / "docker", ROOT / "charts" / "dicom-router"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.scale.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = {name: one for name, one in SERVICES.items() if (one.get("command") or [""])[0] == "serve"}
SECRETS = re.findall(r"^    for name in (.*); do$", (DOCKER / "scale-secrets.sh").read_text(), re.MULTILINE)[0].split()
ENDS_WITHIN = 8
"""Seconds in which a node ends after its drain."""
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
REQUIRED: dict[str, Any] = {
    "image": {"repository": "registry.example.org/dicom-router"},
    "routing": {"text": (DOCKER / "routing.yaml").read_text()},
    "database": {"existingSecret": "router-database"},
    "blobs": {"url": "s3://images/router?endpoint=https://s3.example.org&region=eu-central-1"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {
        "classify": {"gpu": {"enabled": True}, "autoscaling": {"kind": "hpa"}},
        "web": {"tls": {"existingSecret": "page"}},
        "networkPolicy": {"dicomFrom": ["10.1.0.0/16"], "webFrom": [{"podSelector": {}}]},
        "receive": {"service": {"sourceRanges": ["10.1.0.0/16"], "nodePort": 31112}},
        "blobs": {"existingSecret": "router-objects"},
        "image": {"pullSecrets": ["registry"]},
        "serviceAccount": {"annotations": {"a": "b"}},
        "priorityClassName": "high",
    },
    "other": {
        "classify": {"autoscaling": {"kind": "keda", "prometheus": "http://prometheus:9090"}},
        "receive": {"service": {"type": "ClusterIP"}},
        "routing": {"text": "", "existingConfigMap": "own", "publish": False},
        "serviceAccount": {"name": "own"},
        "networkPolicy": {"enabled": False},
    },
}


# -- docker/compose.scale.yaml -----------------------------------------------------------------------------------------


def replaced(text: str) -> str:
    return re.sub(r"\$\{\w+:\?[^}]*\}", "x", text)


def settings_of(environment: dict[str, str], role: str, tmp_path: Path) -> Settings:
    """What a node reads with these variables."""
    values = {name: replaced(value) for name, value in environment.items()}
    for name in ("CERTIFICATE", "KEY"):
        if f"DICOM_ROUTER__WEB__TLS__{name}" in values:
            (tmp_path / name).touch()
            values[f"DICOM_ROUTER__WEB__TLS__{name}"] = str(tmp_path / name)
    return load(DOCKER / "routing.yaml", values | {"DICOM_ROUTER__NODE__ROLES": role})


def test_compose_is_what_the_specification_allows() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DOCKER / "compose.scale.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_role_has_its_containers() -> None:
    assert {name: one["command"] for name, one in NODES.items()} == {r: ["serve", "--role", r] for r in ROLES}
    assert {name: one["deploy"]["replicas"] for name, one in NODES.items()} == {
        "receive": 2, "classify": 2, "forward": 2, "web": 1
    }  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_a_container_reads_its_variables(role: str, tmp_path: Path) -> None:
    node = NODES[role]
    settings = settings_of(node["environment"], role, tmp_path)
    assert settings.node.roles == (role,)
    assert settings.spool.database.startswith("postgresql://router:x@database/")
    assert settings.spool.blobs is not None
    assert "database" in SERVICES
    assert settings.spool.blobs.endpoint == "http://objects:8333"
    # Callers have the balancer's address, all of them.
    assert settings.node.associations_per_peer == settings.node.associations
    assert settings.node.drain + ENDS_WITHIN < int(node["stop_grace_period"].rstrip("s"))
    assert (settings.web.tls is not None) == (role == "web")


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_kept_apart_and_within_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    # The image of the node has its own check; the one that ends needs none.
    assert "healthcheck" in service or name in NODES or service["restart"] == "on-failure"
    assert all(mount.split(":")[0] == "127.0.0.1" or name == "balancer" for mount in service.get("ports", ()))


def test_no_password_is_known_before() -> None:
    """Each secret is a variable without a default, and the script makes each of them."""
    text = (DOCKER / "compose.scale.yaml").read_text()
    asked = dict(re.findall(r"\$\{(\w+)([^}]*)\}", text))
    assert {name for name, rest in asked.items() if rest.startswith(":?")} == set(SECRETS)
    named = re.findall(r"^ +(\w*(?:PASSWORD|SECRET|_KEY)\w*): (.*)$", text, re.MULTILINE)
    assert len(named) > 4
    for name, value in named:
        assert re.fullmatch(r"\$\{\w+:\?run docker/scale-secrets.sh\}|/run/secrets/web.key", value), name


def test_secrets_are_made_once_and_are_for_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "scale").mkdir()
    shutil.copy(DOCKER / "scale-secrets.sh", tmp_path)
    for _ in range(2):
        subprocess.run([tmp_path / "scale-secrets.sh"], check=True, capture_output=True)
        first = (tmp_path / "scale.env").read_text()
    values = dict(line.split("=") for line in first.splitlines())
    assert set(values) == set(SECRETS)
    assert len(set(values.values())) == len(SECRETS)
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in values.values())
    assert (tmp_path / "scale.env").stat().st_mode & 0o077 == 0
    assert (tmp_path / "scale" / "web.key").read_text().startswith("-----BEGIN")


def test_everything_that_is_mounted_and_asked_for_is_there() -> None:
    for name, service in SERVICES.items():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).exists(), name
            elif ":" in mount:
                assert source in COMPOSE["volumes"], name
    prometheus = yaml.safe_load((DOCKER / "scale" / "prometheus.yaml").read_text())
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    (found,) = jobs["dicom-router"]["dns_sd_configs"]
    static = [target for job in jobs.values() for one in job.get("static_configs", ()) for target in one["targets"]]
    assert {*found["names"], *(target.split(":")[0] for target in static)} == {*NODES, "balancer"}
    aliases = SERVICES["downstream"]["networks"]["default"]["aliases"]
    hosts = {destination.host for destination in load(DOCKER / "routing.yaml", {}).destinations.values()}
    assert set(aliases) == hosts


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")
def test_haproxy_takes_its_file() -> None:
    done = subprocess.run(
        ["haproxy", "-c", "-f", DOCKER / "scale" / "haproxy.cfg"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "[WARNING]" in done.stderr) == (0, False), done.stderr


# -- the chart ---------------------------------------------------------------------------------------------------------


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for name, value in more.items():
        found[name] = merged(found.get(name, {}), value) if isinstance(value, dict) else value
    return found


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with Chart.load(CHART) as chart:
        texts = chart.render(values=values, name="r", namespace="x-rays")
    documents = [yaml.safe_load_all(text) for name, text in texts.items() if name.endswith(".yaml")]
    return [one for some in documents for one in some if one]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"].removeprefix("r-dicom-router-"): one for one in objects if one["kind"] == kind}


def test_helm_has_nothing_to_say_against_the_chart() -> None:
    found = lint(CHART, REQUIRED, strict=True)
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
def test_kubernetes_knows_every_field(variant: str, version: str) -> None:
    objects = rendered(merged(REQUIRED, VARIANTS[variant]))
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= {one["kind"] for one in objects}
    for one in objects:
        if one["kind"] != "ScaledObject":  # KEDA's, not of Kubernetes
            kubernetes_validate.validate(one, version, strict=True)


def test_every_role_is_a_deployment_that_reads_its_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = of_kind(rendered(merged(REQUIRED, VARIANTS["all"])), "Deployment")
    assert set(found) == set(ROLES)
    for role, one in found.items():
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["args"] == ["serve", "--role", role]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["securityContext"]["runAsNonRoot"]
        assert {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")} == {
            "/healthz", "/readyz"
        }  # fmt: skip
        given = {one["name"]: one.get("value", "postgresql://u:p@db/r") for one in container["env"]}
        given["DICOM_ROUTER__NODE__NAME"] = "r-0"
        settings = settings_of(given, role, tmp_path)
        assert settings.spool.blobs is not None
        assert settings.model.device == ("cuda" if role == "classify" else "auto")
        assert (settings.web.tls is not None) == (role == "web")
        waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1]) if role == "receive" else 0
        assert waits + settings.node.drain + ENDS_WITHIN < pod["terminationGracePeriodSeconds"]
    classify = found["classify"]["spec"]
    assert classify["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "memory": "6Gi",
        "nvidia.com/gpu": 1,
    }
    assert classify["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert "replicas" not in classify  # the autoscaler's


def test_callers_keep_their_addresses() -> None:
    for variant, kept in (("plain", True), ("other", False)):
        (service,) = (one for one in of_kind(rendered(merged(REQUIRED, VARIANTS[variant])), "Service").values()
                      if one["metadata"]["name"] == "r-dicom-router")  # fmt: skip
        assert (service["spec"].get("externalTrafficPolicy") == "Local") == kept


@pytest.mark.parametrize("missing", REQUIRED)
def test_what_must_be_set_is_asked_for(missing: str) -> None:
    with pytest.raises(HelmError, match=missing):
        rendered({name: value for name, value in REQUIRED.items() if name != missing})


@pytest.mark.parametrize(
    "wrong",
    [
        {"classify": {"autoscaling": {"kind": "vpa"}}}, {"receive": {"replica": 3}}, {"blobs": {"url": "/folder"}},
        {"database": {"password": "x"}},
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        rendered(merged(REQUIRED, wrong))


WHOLE = {"resources", "nodeSelector"}
"""Values that templates hand on as they are."""


def paths_of(values: dict[str, Any], above: str = "") -> set[str]:
    found = set()
    for name, value in values.items():
        inner = isinstance(value, dict) and value and name not in WHOLE
        found |= paths_of(value, f"{above}{name}.") if inner else {above + name}
    return found


def test_templates_and_values_know_the_same_names() -> None:
    text = "\n".join(path.read_text() for path in (CHART / "templates").iterdir())
    asked = set(re.findall(r"(?:\$\.|\.|\$)[Vv]alues\.([A-Za-z.]+)", text))
    known = paths_of(VALUES)
    for name in asked:
        assert any(path == name or path.startswith(name + ".") for path in known) or any(
            name.startswith(path + ".") for path in known
        ), name
    for path in known:  # `$own` is the part of a role, `with` the part of the autoscaler
        last = path.split(".")[-1]
        assert any(path == name or path.startswith(name + ".") for name in asked) or re.search(
            rf"(?:\$own)?\.{last}\b", text
        ), path


def test_the_autoscaler_asks_for_a_metric_that_nodes_give() -> None:
    alias = VALUES["classify"]["autoscaling"]["metric"]
    (scaler,) = of_kind(rendered(merged(REQUIRED, VARIANTS["all"])), "HorizontalPodAutoscaler").values()
    assert scaler["spec"]["metrics"][0]["external"]["metric"]["name"] == alias
    (scaled,) = of_kind(rendered(merged(REQUIRED, VARIANTS["other"])), "ScaledObject").values()
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    readme = (CHART / "README.md").read_text()
    asked = set(re.findall(r"dicom_router_\w+", query + readme)) - {alias}
    gauges = (ROOT / "router" / "web" / "gauges.py").read_text()
    assert asked
    assert all(f'"{name}"' in gauges for name in asked)
    assert f"as: {alias}" in readme


def test_the_schema_has_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(part: dict[str, Any], values: dict[str, Any], where: str) -> None:
        assert part["additionalProperties"] is False, where
        assert set(part["properties"]) - {"global"} == set(values), where
        for name, value in values.items():
            if isinstance(value, dict) and "properties" in part["properties"][name]:
                compare(part["properties"][name], value, f"{where}.{name}")

    compare(schema, VALUES, "values")
