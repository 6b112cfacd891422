"""Radiographs of many makers, as their machines wrote them, by the routing.yaml that `init` writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.shared, pytest.mark.slow]
CHESTS = {
    "cr_fuji_chest_440_mono1_explicit.dcm",
    "cr_rsna_chest_1024_fake_mono1.dcm",
    "dx_canon_chest_2128x2000_j2k_lossless.dcm",  # DERIVED, PRIMARY
}
TO_PEOPLE = {
    "dx_rentgenprom_cp1251_j2k_16bit_1416x1420.dcm",  # a chest upside down with black bone: the header says neither
    "dx_fuji_dog_thorax_8bit_mono1.dcm",
    "cr_fuji_extremity_mono1_j2k_lossless.dcm",
    "cr_fuji_hip_mono2_j2k_lossless.dcm",
    "cr_kodak_hand_2500x2048_j2k_sotincons.dcm",
}


def program(*words: str | Path) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "-m", "router", *map(str, words))
    return subprocess.run(words, capture_output=True, text=True, timeout=170, check=False)


def test_each_chest_reaches_the_chest_ai(shared: Path, tmp_path: Path) -> None:
    routing = tmp_path / "routing.yaml"
    made = program("init", routing, "--ai", "adult_chest=CHEST_AI@127.0.0.1:104", "--catch-all", "PACS@127.0.0.1:105")
    assert made.returncode == 0, made.stderr
    folder = shared / "data" / "dicom" / "1-radiographs"
    files = [folder / name for name in sorted(CHESTS | TO_PEOPLE)]
    done = program("classify", *files, "--config", routing, "--json")
    sent = {Path(row["path"]).name: row["destinations"] for row in map(json.loads, done.stdout.splitlines())}
    assert {name for name, to in sent.items() if to == ["adult-chest-ai"]} == CHESTS, done.stderr
    assert {name for name, to in sent.items() if to == ["catch-all"]} == TO_PEOPLE
    assert " kept from " not in done.stderr
