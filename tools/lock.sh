#!/bin/sh
# lock.sh [--upgrade]: write docker/requirements-*.lock from the ranges of pyproject.toml: exact versions with hashes, for
# the container. Without --upgrade, versions that still fit stay as they are. Needs package indexes, and nothing of the
# project's virtual environment. A test compares the lock files with pyproject.toml without any index.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --disable-pip-version-check -q install uv
printf 'cyclonedx-bom\nhatchling>=1.25\n' >"$folder/build.in"

# compile NAME INPUT [OPTION ...]
compile() {
    name=$1 input=$2
    shift 2
    cp "docker/requirements-$name.lock" "$folder/new" 2>/dev/null || rm -f "$folder/new"
    "$folder/venv/bin/uv" pip compile -q --generate-hashes --no-header --no-annotate --no-emit-find-links \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 "$@" -o "$folder/new" "$input" || return 1
    {
        echo "# Written by tools/lock.sh for Python 3.11 on x86-64. Change pyproject.toml, and run it again."
        cat "$folder/new"
    } >"docker/requirements-$name.lock"
}

compile build "$folder/build.in" "$@"
# Without PyTorch, with its CUDA build, with its CPU build: what the image's TORCH chooses.
compile none pyproject.toml --extra postgres --extra s3 "$@"
compile cuda pyproject.toml --extra torch --extra postgres --extra s3 "$@"
# The CPU build comes from its own index, or from the folder that pip is told to look in.
compile cpu pyproject.toml --extra torch --extra postgres --extra s3 --index-strategy unsafe-best-match \
    --index https://download.pytorch.org/whl/cpu "$@" 2>/dev/null ||
    compile cpu pyproject.toml --extra torch --extra postgres --extra s3 ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} "$@"
if ! grep -q '^torch==.*+cpu' docker/requirements-cpu.lock; then
    echo "docker/requirements-cpu.lock: this is not PyTorch's CPU build; neither its index nor pip's find-links has it" >&2
    exit 1
fi
