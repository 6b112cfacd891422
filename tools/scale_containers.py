"""Start docker/compose.scale.yaml with an engine that has no compose and reaches no registry; send images through it.

RCLONE=PATH scale_containers.py PEERS: what is not ours runs from one image, PEERS, with PostgreSQL and HAProxy;
rclone stands for SeaweedFS. Commands, variables, mounts, users and memory limits are those of the file. Prometheus and
Grafana are left out. It needs the image dicom-router:local, and docker/scale.env of docker/scale-secrets.sh.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).resolve().parents[1] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.scale.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NETWORK = "scale"
POSTGRES = """
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
mkdir -p /var/lib/postgresql/data && chown postgres /var/lib/postgresql/data && chmod 700 /var/lib/postgresql/data
echo "$POSTGRES_PASSWORD" >/tmp/password && chown postgres /tmp/password
run() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
run $bin/initdb -D /var/lib/postgresql/data -U "$POSTGRES_USER" --pwfile /tmp/password -A scram-sha-256 $POSTGRES_INITDB_ARGS
echo 'host all all all scram-sha-256' >>/var/lib/postgresql/data/pg_hba.conf
run $bin/pg_ctl -D /var/lib/postgresql/data -w start -o "-c listen_addresses= -c unix_socket_directories=/run/postgresql"
PGPASSWORD=$POSTGRES_PASSWORD run $bin/createdb -h /run/postgresql -U "$POSTGRES_USER" "$POSTGRES_DB"
run $bin/pg_ctl -D /var/lib/postgresql/data -w stop
exec setpriv --reuid postgres --regid postgres --clear-groups \
    $bin/postgres -D /var/lib/postgresql/data -c 'listen_addresses=*' -c unix_socket_directories=/run/postgresql
"""
OBJECTS = """
mkdir -p /data/images
exec rclone serve s3 --config /dev/null --addr 0.0.0.0:8333 --auth-key "$S3_ACCESS_KEY,$S3_SECRET_KEY" \
    --vfs-cache-mode off /data
"""
STAND_INS = {
    "database": ["bash", "-c", POSTGRES],
    "objects": ["bash", "-c", OBJECTS],
    "balancer": ["haproxy", "-W", "-f", "/usr/local/etc/haproxy/haproxy.cfg"],
}
OURS = ("receive", "classify", "forward", "web", "downstream")


def environment() -> dict[str, str]:
    lines = (DOCKER / "scale.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def replaced(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda found: values[found[1]], text)


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"docker {' '.join(words[:3])} ...: {done.stderr.strip()}")
    return done.stdout.strip()


def options(name: str, service: dict[str, Any], values: dict[str, str]) -> list[str]:
    """What `docker run` needs to be told of a service."""
    words = ["--network", NETWORK, "--network-alias", name]
    for alias in service.get("networks", {}).get("default", {}).get("aliases", ()):
        words += ["--network-alias", alias]
    words += ["--init"] * service["init"] + ["--read-only"] * service["read_only"]
    limits = service["deploy"]["resources"]["limits"]
    words += ["--memory", limits["memory"], "--restart", service["restart"]]
    for key, option in (("cap_drop", "--cap-drop"), ("cap_add", "--cap-add"), ("security_opt", "--security-opt"),
                        ("tmpfs", "--tmpfs")):  # fmt: skip
        words += [word for value in service.get(key, ()) for word in (option, value)]
    for mount in service.get("volumes", ()):
        source, _, rest = mount.partition(":")
        words += ["--volume", f"{(DOCKER / source).resolve()}:{rest}" if source.startswith(".") else mount]
    for secret in service.get("secrets", ()):
        file = (DOCKER / COMPOSE["secrets"][secret]["file"]).resolve()
        words += ["--volume", f"{file}:/run/secrets/{secret}:ro"]
    for variable, value in service.get("environment", {}).items():
        words += ["--env", f"{variable}={replaced(value, values)}"]
    if name not in OURS and (check := service.get("healthcheck")):
        test = check["test"][1:]
        words += ["--health-cmd", " ".join(test), "--health-interval", "2s", "--health-retries", "60"]
    if name in OURS:  # each check starts Python: nine of them at once are a load of their own
        words += ["--no-healthcheck"]
    return words


def start(name: str, number: int, peers: str, values: dict[str, str]) -> str:
    service = SERVICES[name]
    container = f"scale-{name}-{number}"
    words = options(name, service, values)
    if name in STAND_INS:
        if name == "objects":  # its own way of reading keys
            rclone = os.environ["RCLONE"]
            words += [
                "--volume",
                f"{rclone}:/usr/local/bin/rclone:ro",
                "--env",
                f"S3_ACCESS_KEY={values['S3_ACCESS_KEY']}",
            ]
            words += ["--env", f"S3_SECRET_KEY={values['S3_SECRET_KEY']}"]
            at = words.index("--health-cmd")
            words[at + 1] = "wget -q -S -O /dev/null http://127.0.0.1:8333/ 2>&1 | grep -q HTTP/"
        command = [peers, *STAND_INS[name]]
    else:
        entry = service.get("entrypoint")
        command = [*(["--entrypoint", entry[0]] if entry else []), service["image"]]
        command += entry[1:] if entry else service["command"]
    docker("run", "--detach", "--name", container, *words, *command)
    return container


def healthy(containers: list[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for container in containers:
        while (state := docker("inspect", container, "--format", "{{.State.Health.Status}}")) != "healthy":
            running = docker("inspect", container, "--format", "{{.State.Running}}") == "true"
            if not running or time.monotonic() > deadline:
                logs = subprocess.run(
                    ["docker", "logs", "--tail", "30", container], capture_output=True, text=True, check=False
                )
                sys.exit(f"{container} is {state}, running: {running}\n{logs.stdout}{logs.stderr}")
            time.sleep(0.5)


def serving(containers: list[str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for container in containers:
        while '"event": "serving"' not in log_of(container):
            if time.monotonic() > deadline:
                sys.exit(f"{container} does not serve\n{log_of(container)[-3000:]}")
            time.sleep(0.5)


def log_of(container: str) -> str:
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def passed(words: str) -> None:
    print(f"{time.monotonic() - BEGAN:4.0f} s  {words}", flush=True)


def stored() -> int:
    return int(docker("exec", "scale-downstream-1", "sh", "-c", "find /var/lib/dicom-router -type f | wc -l"))


IMAGES = 150
"""More than two groups of `send`, so that it opens an association for each receiver."""
MAKE = """
import sys; from pathlib import Path; import numpy as np
from router.pixels.wrap import wrap_image
folder = Path('/tmp/images'); folder.mkdir()
for n in range(int(sys.argv[1])):
    wrap_image(np.random.default_rng(n).integers(0, 255, (64, 64), np.uint8), folder / f'{n}.dcm')
"""
BEGAN = time.monotonic()


def main() -> None:
    peers, values = sys.argv[1], environment()
    docker("network", "create", "--internal", NETWORK)
    healthy([start(name, 1, peers, values) for name in ("database", "objects")], 240)
    passed("database and object store")
    nodes = [start(name, number, peers, values) for name in ("receive", "classify", "forward", "web")
             for number in range(1, SERVICES[name]["deploy"]["replicas"] + 1)]  # fmt: skip
    start("downstream", 1, peers, values)
    serving(nodes, 400)
    healthy([start("balancer", 1, peers, values)], 60)
    passed(f"{len(nodes)} nodes serve: read-only, without capabilities, in a network without a way out")
    docker("exec", "scale-downstream-1", "python", "-c", MAKE, str(IMAGES))
    send = (
        "exec",
        "scale-downstream-1",
        "dicom-router",
        "send",
        "/tmp/images",
        "--to",
        "ROUTER@balancer:11112",
        "--associations",
        "4",
    )
    passed(docker(*send))
    deadline = time.monotonic() + 300
    while (arrived := stored()) < IMAGES and time.monotonic() < deadline:
        time.sleep(1)
    if arrived != IMAGES:
        sys.exit(f"{arrived} of {IMAGES} arrived")
    passed(f"{arrived} of {IMAGES} arrived downstream")
    took = {number: log_of(f"scale-receive-{number}").count('"event": "stored"') for number in (1, 2)}
    if sum(took.values()) != IMAGES or not all(took.values()):
        sys.exit(f"the receivers stored {took}")
    passed(f"the receivers stored {took[1]} and {took[2]}")
    listed = [
        json.loads(line)
        for line in docker("exec", "scale-web-1", "dicom-router", "find", "--json", "--limit", "500").splitlines()
    ]
    if len(listed) != IMAGES:
        sys.exit(f"the page's node finds {len(listed)}")
    told = docker("exec", "scale-web-1", "dicom-router", "nodes")
    passed(f"the page's node finds all {len(listed)}; nodes:\n{told}")


if __name__ == "__main__":
    main()
