"""A short run of the campaign on PostgreSQL. The long one: `make chaos`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.kills import quiet
from tests.chaos.postgresql import SHORT, play


@pytest.mark.postgresql
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_nodes_on_one_server_lose_nothing_whatever_fails(tmp_path: Path, postgresql: Callable[[], str]) -> None:
    quiet()
    played = play(tmp_path, "short", postgresql(), iter(SHORT), lambda _: False)
    assert played.judged.kept, played.judged.faults
    assert sum(played.happened.values()) == len(SHORT)
    assert played.judged.acknowledged == played.judged.sent > 0
