"""What docs/routing.md tells people to write is right."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from router.config import ConfigError, load, shipped
from router.config.condition_keys import CONDITIONS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "routing.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
DESTINATIONS = shipped().read_text().partition("\ndestinations:")[2].partition("\n# From the top")[0]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_loads(block: str, tmp_path: Path) -> None:
    rules = block if block.startswith("- ") else ""
    text = f"destinations:{DESTINATIONS}\notherwise: {{send: catch-all}}\n" + ("" if rules else block)
    text += "rules:\n" + textwrap.indent(rules, "  ") if rules else "rules: []\n"
    file = tmp_path / "routing.yaml"
    file.write_text(text)
    assert len(load(file, {}).rules.rules) == len(re.findall(r"name:", rules))


def test_every_condition_is_explained() -> None:
    text = DOCS.read_text()
    assert [name for name in CONDITIONS if f"`{name}`" not in text] == []


def test_the_messages_that_are_shown_are_the_real_ones(tmp_path: Path) -> None:
    lines = shipped().read_text().replace("SPINE_AI, host: 10.1.0.24, port:", "SPINE_AI, host: 10.1.0.24, prot:")
    file = tmp_path / "routing.yaml"
    file.write_text(lines.replace('"< 16y"\n', '"< 16"\n'))
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    real = {re.sub(r"^.*?:\d+: ", "", str(problem)) for problem in caught.value.problems}
    shown = re.findall(r"^routing\.yaml:\d+: (.*)$", DOCS.read_text(), re.MULTILINE)
    assert len(shown) == 2
    assert set(shown) <= real
