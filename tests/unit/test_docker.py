"""What container and service are made of, as far as it can be tested without them: files, settings, users, ports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.config import ConfigError, load, shipped

ROOT = Path(__file__).resolve().parents[2]


COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ROUTING = ROOT / "docker" / "routing.yaml"
DOWNSTREAM = sorted({destination.host for destination in load(ROUTING, {}).destinations.values()})
OWNED = re.findall(r"chown router:router (\S+)", DOCKERFILE)
"""Folders of the image that belong to its user, and so do new volumes there."""


def test_the_containers_routing_yaml_loads_and_has_the_shipped_rules() -> None:
    settings = load(ROUTING, {})
    assert settings.rules == load(shipped(), {}).rules
    assert str(settings.spool.path).startswith("/var/lib/dicom-router/")


def test_the_page_listens_where_a_published_port_leads() -> None:
    """A published port leads to the container's own address; what listens on loopback alone resets it."""
    assert load(ROUTING, {}).web.address == "0.0.0.0"
    published = [port for port in COMPOSE["services"]["router"]["ports"] if port.endswith(":8080")]
    assert published == ["127.0.0.1:8080:8080"]


def test_compose_is_what_the_specification_allows() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / "docker" / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_keeps_the_node_apart_and_lets_it_drain() -> None:
    router = COMPOSE["services"]["router"]
    assert router["read_only"]
    assert router["cap_drop"] == ["ALL"]
    # Longer than the node takes to drain (8 s), or Docker kills it in the midst of it.
    assert int(router["stop_grace_period"].rstrip("s")) > 10
    assert set(_named(COMPOSE)) <= set(COMPOSE["volumes"])
    for name, service in COMPOSE["services"].items():
        assert service["restart"] == "unless-stopped", name
        assert service["logging"]["options"]["max-size"], name


def test_compose_mounts_the_folder_of_routing_yaml() -> None:
    """A file that is mounted alone stays the old one after an editor has put a new one in its place."""
    mounts = [v.split(":") for v in COMPOSE["services"]["router"]["volumes"] if v.startswith(".")]
    assert [(source, target) for source, target, _ in mounts] == [("./", "/etc/dicom-router")]


@pytest.mark.parametrize("name", DOWNSTREAM)
def test_a_downstream_node_can_store_is_healthy_and_stops(name: str) -> None:
    service = COMPOSE["services"][name]
    ((_, folder),) = (volume.split(":") for volume in service["volumes"])
    assert folder in OWNED
    assert service["entrypoint"][-1] == folder
    assert "echoscu" in service["healthcheck"]["test"]
    assert service["init"]  # Python as process 1 ignores SIGTERM
    assert service["pull_policy"] == "never"


def _named(compose: dict[str, Any]) -> list[str]:
    volumes = [v for service in compose["services"].values() for v in service.get("volumes", ())]
    return [v.split(":")[0] for v in volumes if not v.startswith((".", "/"))]


def test_dockerfile_copies_what_exists_and_does_not_run_as_root() -> None:
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.replace("${TORCH}", "cpu").split():
            assert (ROOT / source).exists(), source
    user = re.findall(r"^USER (\d+)", DOCKERFILE, re.MULTILINE)
    assert user
    assert user[-1] != "0"


def test_dockerfile_needs_no_registry_but_the_base_images_and_asks_the_node_for_its_health() -> None:
    assert "# syntax=" not in DOCKERFILE
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${BASE}", "needs"}
    assert 'CMD ["dicom-router", "health"]' in DOCKERFILE


def test_commands_in_the_container_find_routing_yaml_without_an_option() -> None:
    assert "DICOM_ROUTER_CONFIG=/etc/dicom-router/routing.yaml" in DOCKERFILE
    assert "WORKDIR /etc/dicom-router" in DOCKERFILE


def test_the_service_is_not_started_again_and_again_with_a_mistake_in_routing_yaml() -> None:
    unit = (ROOT / "packaging" / "dicom-router.service").read_text().splitlines()
    assert {"Restart=always", f"RestartPreventExitStatus={ConfigError.exit_code}"} <= set(unit)
