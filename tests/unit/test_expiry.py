"""When certificates expire: read from their files, and told by `check` and the metrics."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from router.association.expiry import LARGEST_FILE, expiries, expiry_times
from router.cli import check
from router.config import Settings, load, shipped
from router.config.settings import ClientTls, ServerTls

DAY = 86400.0


def certificate(folder: Path, days: int, name: str = "node") -> tuple[Path, Path]:
    """A certificate that ends in so many days, and its key."""
    found, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost "
        f"-days {days} -keyout {key} -out {found}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return found, key


def with_tls(server: ServerTls | None, **clients: ClientTls) -> Settings:
    settings = load(shipped(), {})
    destinations = {name: replace(settings.destinations["catch-all"], tls=tls) for name, tls in clients.items()}
    return replace(settings, node=replace(settings.node, tls=server), destinations=destinations)


def told(settings: Settings) -> dict[str, tuple[str, str]]:
    return {what: (state, text) for what, state, text in check._certificates(settings)}


@pytest.mark.parametrize("days", [3, 9000, 20000])  # as UTCTime, and from 2050 on as GeneralizedTime
def test_the_end_of_a_certificate_is_read(tmp_path: Path, days: int) -> None:
    found, _ = certificate(tmp_path, days)
    assert expiry_times(found) == [pytest.approx(time.time() + days * DAY, abs=60)]


def test_of_several_the_soonest_comes_first(tmp_path: Path) -> None:
    first, _ = certificate(tmp_path, 300, "first")
    second, _ = certificate(tmp_path, 3, "second")
    both = tmp_path / "ca.crt"
    both.write_text(f"# a comment\n{first.read_text()}\n{second.read_text()}")
    assert expiry_times(both) == [*expiry_times(second), *expiry_times(first)]


@pytest.mark.parametrize("body", ["", "MAA=", "MIIB", "//////////8=", "MAgwBjAAMAAwAA=="])
def test_what_is_no_certificate_is_an_error_and_never_an_answer(tmp_path: Path, body: str) -> None:
    file = tmp_path / "broken.crt"
    file.write_text(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    settings = with_tls(None, one=ClientTls(ca=file))
    assert expiries(settings) == {"destinations.one.tls.ca": []}
    assert told(settings)["destinations.one.tls.ca"][0] == "warning"
    file.write_bytes(bytes(LARGEST_FILE + 1))
    assert expiry_times(file) == []


def test_check_warns_of_what_ends_soon_and_refuses_what_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon, key = certificate(tmp_path, 20)
    late, _ = certificate(tmp_path, 40, "late")
    settings = with_tls(ServerTls(soon, key), one=ClientTls(ca=late, certificate=soon, key=key))
    states = told(settings)
    assert states["node.tls.certificate"][0] == "warning"
    assert states["node.tls.certificate"][1].endswith("in 20 days: renew it")
    assert [states[f"destinations.one.tls.{name}"][0] for name in ("ca", "certificate")] == ["ok", "warning"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * DAY)
    assert told(settings)["node.tls.certificate"][0] == "failed"
    monkeypatch.undo()


def test_of_authorities_one_may_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = tmp_path / "ca.crt"
    both.write_text("".join(certificate(tmp_path, days, str(days))[0].read_text() for days in (1, 300)))
    settings = with_tls(None, one=ClientTls(ca=both))
    now = time.time()
    for days, state in ((2, "warning"), (301, "failed")):
        monkeypatch.setattr(time, "time", lambda days=days: now + days * DAY)
        assert told(settings)["destinations.one.tls.ca"][0] == state
