#!/usr/bin/env bash
# container-check.sh [PYTHON]: build the image, run it, and check what docs/operations.md promises of it.
#
# Needs root on Debian 12, and no registry of images: the base image is made from Debian's packages, as this machine is
# set up to get them, and what the image installs is fetched by this machine's own pip. Docker's engine is started in
# a mount namespace of its own, without a bridge or firewall rules; containers have no network. PYTHON is a Python with
# pip. Where the check cannot run it says why and is skipped; with CI set it fails instead.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${1:-python3}")
# Debian's own engine and client, whatever else is installed: the two must fit each other.
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
BASE=dicom-router-base

cannot() {
    if [ -n "${CI:-}" ]; then
        echo "the container was not checked: $1. In CI nothing is skipped." >&2
        exit 1
    fi
    echo "the container was not checked: $1"
    exit 0
}
fail() {
    echo "container: $1" >&2
    exit 1
}
passed() { printf '%4d s  %s\n' "$SECONDS" "$1"; }
# within SECONDS COMMAND ...: until it succeeds
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.2
    done
}

[ "$(id -u)" = 0 ] || cannot "starting a Docker engine needs root"
tools/system-packages.sh docker.io mmdebstrap
for program in dockerd docker mmdebstrap; do
    command -v $program >/dev/null || cannot "$program is not installed"
done
grep -q '^VERSION_CODENAME=bookworm$' /etc/os-release || cannot "the base image is made from packages of Debian 12"
unshare --mount true 2>/dev/null || cannot "this user may not make a mount namespace"

dir=$(mktemp -d) children=()
finish() {
    status=$?
    if [ $status != 0 ]; then
        docker logs --tail 20 node 2>&1 || true
        tail -n 5 "$dir"/*.log || true
    fi
    docker ps -aq 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1 || true
    [ ${#children[@]} = 0 ] || kill "${children[@]}" 2>/dev/null || true
    wait || true
    rm -rf "$dir" || true
    exit $status
}
trap finish EXIT

export DOCKER_HOST=unix://$dir/docker.sock DOCKER_CONFIG=$dir/client DOCKER_BUILDKIT=1
unshare --mount --propagation private dockerd --host "$DOCKER_HOST" --group root \
    --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" --bridge none --iptables=false \
    >"$dir/dockerd.log" 2>&1 &
children+=($!)

# What the image installs, by this machine's pip and its settings; the image gets it from here, by hash.
mkdir "$dir/wheels"
fetch() {
    "$python" -m pip --disable-pip-version-check -q download -d "$dir/wheels" --require-hashes --only-binary :all: \
        --python-version 3.11 --no-deps "$@" >>"$dir/pip.log" 2>&1
}
wheels() {
    fetch -r docker/requirements-build.lock
    fetch -r docker/requirements-none.lock
}
wheels &
fetching=$!
"$python" -u -m http.server --bind 127.0.0.1 --directory "$dir/wheels" 0 >"$dir/http.log" 2>&1 &
children+=($!)
within 30 grep -q ' port [0-9]' "$dir/http.log" || fail "no server for wheels"
port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$dir/http.log")
cat >"$dir/pip.conf" <<CONF
[global]
no-index = true
find-links = http://127.0.0.1:$port/
CONF

# The base image, by the sources of packages that this machine uses.
mapfile -t sources < <(find /etc/apt/sources.list /etc/apt/sources.list.d -type f \( -name '*.list' -o -name '*.sources' \) \
    -exec grep -l bookworm {} + 2>/dev/null)
# shellcheck disable=SC2016
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv \
    --customize-hook="copy-in $dir/pip.conf /etc" --customize-hook='ln -s /usr/bin/python3 "$1/usr/local/bin/python"' \
    bookworm "$dir/base.tar" "${sources[@]}" 2>"$dir/mmdebstrap.log"
within 30 docker info || fail "Docker's engine did not start"
docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
    "$dir/base.tar" $BASE >/dev/null
wait $fetching || fail "what the image installs could not be fetched"
passed "a base image, and what the image installs"

build() { docker build --progress=plain --network host --build-arg BASE=$BASE "$@" >>"$dir/build.log" 2>&1; }
build --tag dicom-router . || fail "the image was not built"
passed "the image, $(($(docker image inspect dicom-router --format '{{.Size}}') / 1000000)) MB"

mkdir "$dir/changed"
# Without what Python compiles: tests that run beside this check write it meanwhile.
tar -c --exclude=__pycache__ Dockerfile .dockerignore pyproject.toml README.md LICENSE routing.yaml models router docker tools |
    tar -x -C "$dir/changed"
echo '# changed' >>"$dir/changed/router/__init__.py"
build --tag changed "$dir/changed" || fail "the image was not built again"
layers() { docker image inspect "$1" --format '{{range .RootFS.Layers}}{{println .}}{{end}}'; }
new=$(comm -13 <(layers dicom-router | sort) <(layers changed | sort) | grep -c .)
[ "$new" -le 3 ] || fail "a change of the program makes $new layers anew"
passed "the image with a change in the program: the large layer stays"

# The node, as strict as a container can be, with its configuration in a folder of the host.
mkdir "$dir/config"
cp docker/routing.yaml "$dir/config"
strict=(--network none --read-only --tmpfs "/tmp:size=64m,mode=1777" --cap-drop ALL --security-opt no-new-privileges)
is() { [ "$(docker inspect "$1" --format '{{.State.Health.Status}}')" = "$2" ]; }
docker run -d --name node "${strict[@]}" --health-interval 2s -v spool:/var/lib/dicom-router \
    -v "$dir/config:/etc/dicom-router:ro" dicom-router >/dev/null
within 90 is node healthy || fail "the node is not healthy after 90 s"
passed "healthy, read-only, without capabilities or a network"
router() { docker exec node dicom-router "$@"; }
[ "$(docker exec node id -u)" = 10001 ] || fail "it does not run as 10001"
router health >/dev/null || fail "dicom-router health"
router queue list >/dev/null 2>&1 || fail "dicom-router queue list, without options"
docker exec node python -c '
import json; from pathlib import Path
named = {part["name"] for part in json.loads(Path("/opt/app/sbom.cdx.json").read_text())["components"]}
assert {"dicom-router", "openvino", "pydicom"} <= named and "torch" not in named, named' || fail "the list of what is in it (SBOM)"
router demo >"$dir/demo.txt" || fail "dicom-router demo"
grep -q '5 of 5 instances arrived unchanged' "$dir/demo.txt" || fail "dicom-router demo: $(cat "$dir/demo.txt")"
passed "health, queue list, SBOM, demo"
# An editor writes a new file and renames it: a reload must read that one.
echo 'nonsense: true' >"$dir/config/new" && mv "$dir/config/new" "$dir/config/routing.yaml"
router reload >/dev/null 2>&1 && fail "reload did not read the file that took routing.yaml's place"
cp docker/routing.yaml "$dir/config/new" && mv "$dir/config/new" "$dir/config/routing.yaml"
router reload >/dev/null || fail "reload of a sound file"
passed "reload of a mounted folder"
began=$(date +%s%N)
docker stop --time 20 node >/dev/null
took=$((($(date +%s%N) - began) / 1000000))
[ "$(docker inspect node --format '{{.State.ExitCode}}')" = 0 ] || fail "its exit code after a stop"
[ $took -lt 10000 ] || fail "stopping took $took ms"
passed "stopped in $took ms"

# A downstream node exactly as compose.yaml has it: it stores, is healthy, and ends on SIGTERM.
mapfile -t options < <("$python" -c '
import yaml
service = yaml.safe_load(open("docker/compose.yaml"))["services"]["catch-all"]
entry, check = service["entrypoint"], service["healthcheck"]["test"]
words = ["--user", service["user"], "--entrypoint", entry[0], "--health-cmd", " ".join(check[1:])]
words += ["--init"] * service["init"] + ["--read-only"] * service["read_only"]
for option, key in (("--volume", "volumes"), ("--tmpfs", "tmpfs"), ("--cap-drop", "cap_drop"),
                    ("--security-opt", "security_opt")):
    words += [word for value in service[key] for word in (option, value)]
print(*words, "dicom-router", *entry[1:], sep="\n")')
docker run -d --name sink --network none --health-interval 2s "${options[@]}" >/dev/null
within 60 is sink healthy || fail "the downstream node is not healthy after 60 s"
docker exec sink python -c '
from pathlib import Path
import numpy as np
from router.pixels.wrap import wrap_image
wrap_image(np.zeros((64, 64), np.uint16), Path("/tmp/one.dcm"))' || fail "no instance to send"
docker exec sink python -m pynetdicom storescu 127.0.0.1 11112 /tmp/one.dcm >"$dir/sink.log" 2>&1 || true
stored=$(docker exec sink find /var/lib/dicom-router -type f | grep -c .) || fail "the downstream node stored nothing"
began=$SECONDS
docker stop --time 20 sink >/dev/null
[ $((SECONDS - began)) -lt 10 ] || fail "the downstream node ignores SIGTERM"
passed "a downstream node is healthy, stores ($stored), and stops"
