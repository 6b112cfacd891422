"""Acknowledged is durable, seen from outside: what strace sees the node do before the bytes of 0x0000 leave."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import Radiograph
from tests.acceptance.corpus import quick_node
from tests.peers import dcmsend, free_port, storescp
from tests.strace import calls, traced

SYNCS = ("fsync", "fdatasync")


@pytest.mark.shared
@pytest.mark.dcmtk
@pytest.mark.strace
def test_file_folder_and_database_are_synced_before_success_leaves(
    tmp_path: Path, radiographs: Callable[[str, int], list[Radiograph]]
) -> None:
    port = free_port()
    trace = tmp_path / "trace"
    with storescp(tmp_path / "sink", port):
        node = quick_node(tmp_path / "node", {"sink": port}, rules="rules: []\notherwise: {send: sink}\n")
        with traced(node, trace, [*SYNCS, "sendto", "sendmsg"]):
            dcmsend(node.port, *[r.path for r in radiographs("spine", 3)])
    seen = [call for call in calls(trace) if call.name in SYNCS or '"...' not in call.text]
    answers = [call for call in seen if call.acknowledged]
    assert len(answers) == 3
    syncs = [call for call in seen if call.name in SYNCS]
    after = 0
    for answer in answers:
        window = [call for call in syncs if call.began >= after and call.ended < answer.began]
        paths = [call.path for call in window if call.result == 0]
        blobs = [n for n, path in enumerate(paths) if "/blobs/" in path and re.search(r"[0-9a-f]{32}", path)]
        folders = [n for n, path in enumerate(paths) if re.search(r"/blobs/[0-9a-f]{2}$", path)]
        database = [n for n, path in enumerate(paths) if path.endswith("node.db-wal")]
        assert blobs, paths
        assert folders, paths
        assert database, paths
        assert blobs[0] < folders[-1] < database[-1], paths
        after = answer.ended
