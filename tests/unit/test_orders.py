"""Two orders of a person: send an instance to one more destination, and say what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from router.cli import app
from router.node.carrying_out import carry_out
from router.node.orders import Label, OrderError, SendAlso
from router.spool import DeliveryState, InstanceState, Spool, open_spool
from tests.unit.spooling import accept, decide, settings_of

NAMES = ("ai", "pacs")


@pytest.fixture
def spool(tmp_path: Path, database: str) -> Iterator[Spool]:
    opened = open_spool(settings_of(tmp_path / "spool", database))
    yield opened
    opened.close()


def state(spool: Spool, which: str) -> InstanceState:
    row = spool.views.instance(which)
    assert row is not None
    return row.state


def test_a_finished_instance_is_owed_once_more(spool: Spool) -> None:
    which = accept(spool).instance_id
    decide(spool, "ai")
    (owed,) = spool.deliveries.claim("ai", 1)
    spool.deliveries.close(owed, DeliveryState.DONE).result()
    assert state(spool, which) is InstanceState.FINISHED
    assert carry_out(SendAlso(which, "pacs"), "ann", spool, NAMES) == {"done": True}
    assert state(spool, which) is InstanceState.DECIDED
    (more,) = spool.deliveries.claim("pacs", 1)
    assert more.instance.id == which
    assert more.owed_for < 60
    spool.deliveries.close(more, DeliveryState.DONE).result()
    assert state(spool, which) is InstanceState.FINISHED
    (event,) = spool.views.events(kind="sent also by a person")
    assert (event.instance_id, event.destination, event.detail) == (which, "pacs", {"who": "ann"})
    row = spool.views.instance(which)
    assert row is not None
    assert row.destinations == ["ai"], "the decision stays as it was"


def test_what_is_owed_there_or_not_decided_or_gone_is_refused(spool: Spool) -> None:
    which = accept(spool).instance_id
    with pytest.raises(OrderError, match="blob is gone"):
        carry_out(SendAlso(which, "ai"), "ann", spool, NAMES)
    decide(spool, "ai")
    with pytest.raises(OrderError, match="owed there already"):
        carry_out(SendAlso(which, "ai"), "ann", spool, NAMES)
    with pytest.raises(OrderError, match="no destination nowhere"):
        carry_out(SendAlso(which, "nowhere"), "ann", spool, NAMES)
    (owed,) = spool.deliveries.claim("ai", 1)
    spool.deliveries.close(owed, DeliveryState.DONE).result()
    assert spool.orders.wipe("ann") == 1
    with pytest.raises(OrderError, match="blob is gone"):
        carry_out(SendAlso(which, "pacs"), "ann", spool, NAMES)
    assert [one.destination for one in spool.views.deliveries(instance_id=which)] == ["ai"]


def test_the_latest_label_counts(spool: Spool) -> None:
    which = accept(spool).instance_id
    for label in ("spine", "abdominal"):
        carry_out(Label(which, label), "ann", spool, NAMES)
    (kept,) = spool.overview.labels()
    assert kept.instance_id == which
    assert '"abdominal"' in kept.detail
    with pytest.raises(OrderError, match="no class skull"):
        carry_out(Label(which, "skull"), "ann", spool, NAMES)
    with pytest.raises(OrderError, match="no such instance"):
        carry_out(Label("0" * 32, "spine"), "ann", spool, NAMES)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "routing.yaml").write_text(
        "spool: {path: spool, reserve: 1 MB}\ndestinations:\n  ai: {ae_title: A, host: 127.0.0.1, port: 1}\n"
        "  pacs: {ae_title: P, host: 127.0.0.1, port: 2}\nrules: []\notherwise: {send: ai}\n"
    )
    spool = open_spool(settings_of(tmp_path / "spool"))
    which = accept(spool).instance_id
    decide(spool, "ai")
    spool.close()
    command = ["queue", "send", which, "--config", str(tmp_path / "routing.yaml"), "--to"]
    first, again, unknown = (CliRunner().invoke(app, [*command, to]) for to in ("pacs", "pacs", "x"))
    assert (first.exit_code, first.stdout) == (0, "it is owed to pacs too\n")
    assert again.exit_code == 1
    assert unknown.exit_code == 2
