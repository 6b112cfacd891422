"""A short run of the campaign on a cluster. The long runs: `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import postgres
from tests.chaos.cluster import KINDS, play
from tests.chaos.kills import quiet


@pytest.mark.postgresql
@pytest.mark.objects
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nine_nodes_on_one_database_and_one_store_lose_nothing_whatever_fails(tmp_path: Path) -> None:
    """One fault of each kind, with the failover among them."""
    quiet()
    kinds = [*list(KINDS)[::2], "failover", *list(KINDS)[1::2]]
    with postgres.server(postgres.SYNCED) as new_database:
        played, verdict = play(
            tmp_path, "short", new_database(), kinds, store="rclone", lease=4.0, longest_stall=5.0, traffic_before=40
        )
    assert verdict.kept, verdict.faults
    assert {kind: played.happened[kind] for kind in kinds} == dict.fromkeys(kinds, 1)
    assert verdict.acknowledged == verdict.sent > 0
    assert verdict.delivered >= verdict.sent
