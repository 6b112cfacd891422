"""Storage commitment between a modality and an archive that are pynetdicom's: nothing is committed but by the archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.config.settings import ReportTo
from tests.unit.committing import (
    LOOPBACK,
    Archive,
    Modality,
    committing,
    quick,
    references,
)
from tests.unit.peer import DX

TRANSACTION = "1.2.3.4.5"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)


@pytest.fixture
def modality() -> Iterator[Modality]:
    with Modality().listening() as listening:
        yield listening


@pytest.fixture
def archive() -> Iterator[Archive]:
    with Archive().running() as running:
        yield running


def there(modality: Modality) -> ReportTo:
    return ReportTo(LOOPBACK, modality.own_port)


@pytest.mark.parametrize("own_association", [False, True], ids=["same association", "the archive's own association"])
def test_the_archives_word_is_passed_on(
    modality: Modality, archive: Archive, tmp_path: Path, own_association: bool
) -> None:
    with committing(tmp_path, archive, there(modality)) as node:
        archive.port = node.port if own_association else 0
        node.instance("1.1", "pacs")
        node.instance("1.2", "pacs", "ai")
        assert modality.ask(node.port, TRANSACTION, "1.1", "1.2") == 0
        event_type, information, _ = modality.report()
    assert (event_type, information.TransactionUID) == (1, TRANSACTION)
    assert references(information) == [(DX, "1.1"), (DX, "1.2")]
    assert "FailedSOPSequence" not in information
    ((ours, asked),) = archive.asked
    assert (ours != TRANSACTION, asked) == (True, [(DX, "1.1"), (DX, "1.2")])
    assert archive.statuses == [0]
    assert len(modality.reports) == 1
