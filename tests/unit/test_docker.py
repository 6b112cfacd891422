"""What container and service are made of, as far as it can be tested without them: files, settings, users, ports."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from router.config import ConfigError, load, shipped

ROOT = Path(__file__).resolve().parents[2]


def test_the_containers_routing_yaml_loads_and_has_the_shipped_rules() -> None:
    settings = load(ROOT / "docker" / "routing.yaml", {})
    assert settings.rules == load(shipped(), {}).rules
    assert str(settings.spool.path).startswith("/var/lib/dicom-router/")


def test_compose_names_every_destination_as_a_service() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    settings = load(ROOT / "docker" / "routing.yaml", {})
    assert {d.host for d in settings.destinations.values()} <= set(compose["services"])
    router = compose["services"]["router"]
    assert router["read_only"]
    assert router["cap_drop"] == ["ALL"]
    # Longer than the node takes to drain (8 s), or Docker kills it in the midst of it.
    assert int(router["stop_grace_period"].rstrip("s")) > 10
    assert set(_named(compose)) <= set(compose["volumes"])


def _named(compose: dict) -> list[str]:  # type: ignore[type-arg]
    volumes = [v for service in compose["services"].values() for v in service.get("volumes", ())]
    return [v.split(":")[0] for v in volumes if not v.startswith((".", "/"))]


def test_dockerfile_copies_what_exists_and_does_not_run_as_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
    user = re.findall(r"^USER (\d+)", text, re.MULTILINE)
    assert user
    assert user[-1] != "0"
    assert "HEALTHCHECK" in text


def test_the_service_is_not_started_again_and_again_with_a_mistake_in_routing_yaml() -> None:
    unit = (ROOT / "packaging" / "dicom-router.service").read_text().splitlines()
    assert {"Restart=always", f"RestartPreventExitStatus={ConfigError.exit_code}"} <= set(unit)
