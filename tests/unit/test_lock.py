"""The container's lock files against pyproject.toml, without an index: every need has one version and hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
X86_64 = {"sys_platform": "linux", "platform_machine": "x86_64"}
SLIM = [*PROJECT["project"]["dependencies"], *EXTRAS["postgres"], *EXTRAS["s3"]]
NEEDS = {
    "none": SLIM, "cpu": [*SLIM, *EXTRAS["torch"]], "cuda": [*SLIM, *EXTRAS["torch"]],
    "build": PROJECT["build-system"]["requires"],
}  # fmt: skip


def blocks(text: str) -> list[str]:
    """What the lock file requires, one package each, with its hashes; comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [block for block in "\n".join(lines).replace("\\\n", " ").splitlines() if block.strip()]


def versions(text: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


def outside(needs: list[str], locked: dict[str, str]) -> list[str]:
    """The requirements that the lock file does not meet."""
    wanted = [one for one in map(Requirement, needs) if one.marker is None or one.marker.evaluate(dict(X86_64))]
    return [
        f"{need}: {locked.get(canonicalize_name(need.name), 'absent')}"
        for need in wanted
        if not need.specifier.contains(locked.get(canonicalize_name(need.name), "0"))
    ]


@pytest.mark.parametrize("which", NEEDS)
def test_each_lock_file_meets_the_ranges(which: str) -> None:
    locked = versions((ROOT / "docker" / f"requirements-{which}.lock").read_text())
    assert outside(NEEDS[which], locked) == [], "run tools/lock.sh"


def test_what_does_not_meet_them_is_told() -> None:
    locked = {"pydicom": "2.4.4", "numpy": "2.1"}
    assert outside(["pydicom>=3.0,<4", "numpy>=1.26,<3", "rich>=13.7"], locked) == [
        "pydicom<4,>=3.0: 2.4.4",
        "rich>=13.7: absent",
    ]


@pytest.mark.parametrize("which", NEEDS)
def test_each_has_one_version_and_hashes_and_names_no_index(which: str) -> None:
    text = (ROOT / "docker" / f"requirements-{which}.lock").read_text()
    assert len(blocks(text)) > 5
    assert [block for block in blocks(text) if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", block)] == []
    assert "://" not in text
    assert not re.search(r"^\s*--(index|extra|find)", text, re.MULTILINE)


def test_what_serves_and_no_more_has_no_pytorch() -> None:
    none = versions((ROOT / "docker" / "requirements-none.lock").read_text())
    assert "openvino" in none
    assert not [name for name in none if name.startswith(("torch", "nvidia-", "sympy", "networkx"))]


@pytest.mark.parametrize(("machine", "engine"), [("x86_64", "openvino"), ("aarch64", "openvino"), ("riscv64", "torch")])
def test_a_plain_installation_has_one_engine(machine: str, engine: str) -> None:
    where = {"sys_platform": "linux", "platform_machine": machine}
    needs = map(Requirement, PROJECT["project"]["dependencies"])
    there = [need.name for need in needs if need.marker is None or need.marker.evaluate(dict(where))]
    assert [name for name in there if name in ("openvino", "torch")] == [engine]


def test_each_has_its_build_of_pytorch() -> None:
    """The CPU build carries `+cpu` in its version; the other one is CUDA's, which alone brings NVIDIA's libraries."""
    cpu, cuda = (versions((ROOT / "docker" / f"requirements-{which}.lock").read_text()) for which in ("cpu", "cuda"))
    assert cpu["torch"] == f"{cuda['torch']}+cpu"
    assert not [name for name in cpu if name.startswith("nvidia-")]
    assert [name for name in cuda if name.startswith("nvidia-")]
