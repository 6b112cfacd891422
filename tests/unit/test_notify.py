"""People are told that something began, that it goes on, and that it is over; never a secret, never a patient."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from router.cli import app
from router.config import ConfigError, Settings, load
from router.config.settings import DAY, GB, HOUR, MINUTE, NotifySettings, Quiet
from router.decide import agreement
from router.flow import Instance
from router.flow import Seen as SeenOfInstance
from router.node.carrying_out import carry_out
from router.node.orders import OrderError, parse
from router.notify import Notifier, outbox, sending, try_addresses
from router.notify.conditions import Seen, Trouble, troubles
from router.notify.ledger import BEGAN, GOES_ON, IS_OVER, OVER_AFTER, Message, holding, is_within, settle
from router.notify.look import Looker
from router.notify.outbox import Outbox
from router.notify.sending import SendError, masked, send, why_not
from router.observe.metrics import AGREEMENT, NOTIFICATIONS
from router.spool import Counts, DestinationState, Spool, open_spool
from router.spool.notices import EVERYTHING, Notice, Notices
from tests.hook import Hook, webhook
from tests.unit.spooling import accept, settings_of
from tests.unit.test_find import SPINE

NOW = 1_800_000_000.0
ALL = NotifySettings(silent={"XRAY_1": 4 * HOUR}, disagreement=0.2)
SECRET = "T0psecret"


def told(seen: Seen, wanted: NotifySettings = ALL) -> dict[tuple[str, str], str]:
    return {(one.condition, one.about): one.text for one in troubles(wanted, seen)}


# -- conditions

WELL = Seen(
    NOW, {"a": 0}, {"a": NOW - MINUTE}, {"a": 3}, {"XRAY_1": NOW - HOUR}, 20 * GB, 5 * DAY,
    {"node.tls.certificate": NOW + 31 * DAY}, 10.0, 90, 10,
)  # fmt: skip


def test_where_all_is_well_nothing_is_told() -> None:
    assert told(WELL) == {}


@pytest.mark.parametrize(
    ("changes", "about", "text"),
    [
        ({"missing": {"a": 2}}, ("result_missing", "a"), "a gave no result for 2 deliveries"),
        ({"buried": {"a": 1}}, ("buried", "a"), "1 delivery buried for a, waiting for a person"),
        ({"circuits": {"a": NOW - 2 * HOUR}}, ("circuit", "a"), "a has taken nothing for 2 h, 3 deliveries waiting"),
        ({"last_from": {"XRAY_1": NOW - 5 * HOUR}}, ("silent", "XRAY_1"), "nothing has come from XRAY_1 for 5 h"),
        ({"room": GB}, ("disk", ""), "the spool has room for only 1.0 GB"),
        ({"full_in": 3 * HOUR}, ("disk", ""), "the spool has room for 20.0 GB: it is full in 3 h at the rate of the "
         "last hour"),
        ({"certificates": {"x": NOW + 2 * DAY}}, ("certificate", "x"), "the certificate of x expires in 2 d"),
        ({"certificates": {"x": NOW - 1}}, ("certificate", "x"), "the certificate of x has expired"),
        ({"inference_down": HOUR}, ("inference", ""),
         "the model has not been ready for 60 min: images wait for their decision"),
        ({"contradicted": 30}, ("disagreement", ""),
         "header and pixels contradict each other in 25 % of 120 images of a day"),
    ],
)  # fmt: skip
def test_each_condition_is_told(changes: dict[str, object], about: tuple[str, str], text: str) -> None:
    assert told(replace(WELL, **changes)) == {about: text}  # type: ignore[arg-type]
    off = NotifySettings(
        buried=None,
        circuit=None,
        disk=None,
        room=None,
        certificate=None,
        inference=None,
        disagreement=None,
        result_missing=None,
    )
    assert told(replace(WELL, **changes), off) == {}  # type: ignore[arg-type]


def test_a_share_of_few_images_is_not_told() -> None:
    assert told(replace(WELL, agreed=1, contradicted=40)) == {}


# -- once, seldom, once

DOWN = Trouble("circuit", "a", "a has taken nothing")


@dataclass
class Told:
    """Looks in steps, and keeps what was told."""

    notices: list[Notice] = field(default_factory=list)
    now: float = NOW

    def look(self, *found: Trouble, after: float = MINUTE, held: bool = False) -> list[str]:
        self.now += after
        self.notices, messages = settle(self.notices, found, "here", self.now, HOUR, lambda _: held)
        return [message.event for message in messages]


def test_it_is_told_once_seldom_again_and_once_that_it_is_over() -> None:
    node = Told()
    assert node.look() == []
    assert node.look(DOWN) == [BEGAN]
    assert [node.look(DOWN) for _ in range(59)] == [[]] * 59
    assert node.look(DOWN) == [GOES_ON]
    assert node.look(after=OVER_AFTER - 1) == []
    assert node.look(after=2) == [IS_OVER]
    assert node.notices == []
    assert node.look(DOWN) == [BEGAN]


def test_what_comes_and_goes_is_told_once() -> None:
    node = Told()
    events = [node.look(*([DOWN] if n % 2 else [])) for n in range(1, 51)]
    assert events == [[BEGAN], *[[]] * 49]


def test_what_is_held_is_told_later_if_it_still_holds() -> None:
    node = Told()
    assert node.look(DOWN, held=True) == node.look(DOWN, held=True) == []
    assert node.look(DOWN) == [BEGAN]
    assert node.notices[0].began_at == NOW + MINUTE
    assert node.look(after=HOUR, held=True) == []
    assert node.look() == [IS_OVER]
    assert node.look(DOWN, held=True) == node.look(after=HOUR) == []  # over before anybody was told


def test_what_is_about_one_machine_is_not_ended_by_another() -> None:
    full = Trouble("disk", "", "full", local=True)
    here, _ = settle([], [full], "here", NOW, HOUR, lambda _: False)
    assert here[0].origin == "here"
    shared, messages = settle(here, [DOWN], "here", NOW + HOUR, 9 * HOUR, lambda _: False)
    assert [(one.condition, one.origin) for one in shared] == [("circuit", "")]
    assert [message.event for message in messages] == [BEGAN, IS_OVER]


def test_silence_and_quiet_hours() -> None:
    night = Quiet(22 * 60, 6 * 60, "Europe/Berlin", ("disk",))
    at_night, by_day = 1764540000.0, 1764580000.0  # 2025-11-30 23:00 and 2025-12-01 10:06 in Berlin
    assert (is_within(night, at_night), is_within(night, by_day)) == (True, False)
    assert is_within(Quiet(9 * 60, 11 * 60, "Europe/Berlin"), by_day)
    assert not is_within(Quiet(9 * 60, 11 * 60, "America/New_York"), by_day)
    held = holding(night, {}, at_night)
    assert (held("buried"), held("disk")) == (True, False)
    held = holding(None, {"buried": by_day + 1, "circuit": by_day - 1}, by_day)
    assert (held("buried"), held("circuit")) == (True, False)
    assert holding(night, {EVERYTHING: at_night + 1}, at_night)("disk")


def test_notices_outlive_a_restart_and_are_shared(tmp_path: Path, database: str) -> None:
    def turn(notices: Notices, origin: str, *found: Trouble) -> list[str]:
        return notices.exchange(
            origin,
            lambda before, silences, now: (
                (after := settle(before, found, origin, now, HOUR, holding(None, silences, now)))[0],
                [message.event for message in after[1]],
            ),
        )

    disk = Trouble("disk", "", "full", local=True)
    settings = settings_of(tmp_path / "spool", database)
    with closing(open_spool(settings)) as spool:
        assert turn(spool.notices, "here", DOWN, disk) == [BEGAN, BEGAN]
    with closing(open_spool(settings)) as spool:
        assert turn(spool.notices, "here", DOWN, disk) == []
        assert turn(spool.notices, "there", DOWN, disk) == [BEGAN]
        assert [one.origin for one in spool.notices.current()] in (["", "here", "there"], ["here", "", "there"])
        spool.notices.silence("buried", 3600, "a person")
        spool.notices.silence(EVERYTHING, 60, "a person")
        spool.notices.silence(EVERYTHING, 3600, "a person")
        assert turn(spool.notices, "here", Trouble("buried", "a", "x")) == []
        assert [one.condition for one in spool.notices.silences()] == [EVERYTHING, "buried"]
        spool.notices.silence(EVERYTHING, 0, "a person")
        assert spool.notices.silences() == []


# -- to an address


@pytest.fixture
def hook() -> Iterator[Hook]:
    with webhook() as server:
        yield server


def url(hook: Hook) -> str:
    return f"http://127.0.0.1:{hook.server_port}/hooks/{SECRET}?token={SECRET}"


MESSAGE = Message(BEGAN, "circuit", "a", "a has taken nothing for 30 min", NOW, NOW - 1800)


def test_a_webhook_gets_json(hook: Hook) -> None:
    send(url(hook), MESSAGE, "ROUTER")
    assert hook.got == [{
        "node": "ROUTER", "event": "began", "condition": "circuit", "about": "a",
        "text": "ROUTER: a has taken nothing for 30 min", "at": "2027-01-15T08:00:00+00:00",
        "since": "2027-01-15T07:30:00+00:00",
    }]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in Apprise itself
def test_apprise_sends_to_what_is_no_webhook(hook: Hook) -> None:
    pytest.importorskip("apprise")
    send(f"json://127.0.0.1:{hook.server_port}/{SECRET}", MESSAGE, "ROUTER")
    assert "a has taken nothing for 30 min" in str(hook.got[0]["message"])
    hook.statuses = [500]
    with pytest.raises(SendError, match="could not send"):
        send(f"json://127.0.0.1:{hook.server_port}/{SECRET}", MESSAGE, "ROUTER")
    with pytest.raises(SendError, match="does not understand"):
        send(f"nonsense://{SECRET}", MESSAGE, "ROUTER")
    assert why_not(f"nonsense://{SECRET}") == "Apprise does not understand the address"
    assert why_not("mailto://me:x@example.org") == why_not("https://x/") == ""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in Apprise itself
@pytest.mark.parametrize(
    ("memory", "limits", "said"),
    [(64 << 20, (600.0,), "could not send"), (1 << 40, (2.0, 16.0, 128.0), "within {:g} s")],
)
def test_an_answer_to_apprise_without_an_end_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, memory: int, limits: tuple[float, ...], said: str
) -> None:
    """It is read in a process that may take so much memory and time. A busy machine takes long to start the process,
    so a limit that was over before it had connected is tried again, longer."""
    pytest.importorskip("apprise")
    monkeypatch.setattr(sending, "MOST_MEMORY", memory)
    connected = threading.Event()

    def pour(server: socket.socket) -> None:
        client, _ = server.accept()
        connected.set()
        with client, suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
            while True:
                client.sendall(bytes(1 << 20))
                if memory > 1 << 30:
                    time.sleep(0.2)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=pour, args=(server,), daemon=True)
        thread.start()
        for within in limits:
            monkeypatch.setattr(sending, "WITHIN", within)
            with pytest.raises(SendError, match=said.format(within)):
                send(f"json://127.0.0.1:{server.getsockname()[1]}/{SECRET}", MESSAGE, "ROUTER")
            if connected.is_set():
                break
        assert connected.is_set()
        thread.join(60)
        assert not thread.is_alive(), "the process that reads the answer has ended"


@pytest.mark.parametrize("status", [302, 403, 500])
def test_what_is_not_taken_is_a_failure_without_the_address(hook: Hook, status: int) -> None:
    hook.statuses = [status]
    with pytest.raises(SendError) as failed:
        send(url(hook), MESSAGE, "ROUTER")
    assert str(failed.value) == f"the answer was {status}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_answer_that_never_ends_is_a_failure(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Each byte comes in time: only the whole takes too long."""
    monkeypatch.setattr(sending, "WITHIN", 0.3)
    gone = threading.Event()

    def drip(server: socket.socket) -> None:
        line, _ = server.accept()
        with suppress(OSError), line:
            line.recv(65536)
            line.sendall(b"HTTP/1.1 " if scheme == "http" else b"\x16\x03\x03\x40\x00")
            while not gone.wait(0.05):
                line.sendall(b"1")
        gone.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        with pytest.raises(SendError, match=r"^no answer within 0\.3 s$"):
            send(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/SECRET", MESSAGE, "ROUTER")
        gone.set()
        thread.join()


def test_no_failure_repeats_an_address(hook: Hook) -> None:
    hook.server_close()
    for address in (
        url(hook),
        f"http://[::{SECRET}/",
        f"https://{SECRET}:x@127.0.0.1:1/{SECRET}",
        f"http://127.0.0.1:1/ {SECRET}",
    ):
        with pytest.raises(SendError) as failed:
            send(address, MESSAGE, "ROUTER")
        assert SECRET not in str(failed.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [(f"https://hooks.example.org/services/{SECRET}", "https://hooks.example.org/…"),
     (f"https://user:{SECRET}@example.org:8443?x={SECRET}", "https://example.org:8443/…"),
     (f"slack://{SECRET}/{SECRET}/", "slack://…"), (f"mailto://me:{SECRET}@example.org", "mailto://…")],
)  # fmt: skip
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert masked(address) == shown


def test_an_outbox_tries_again_in_order_and_logs_no_secret(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PAUSE", 0.01)
    hook.statuses = [500, 503, 204, 204]
    with capture_logs() as logs:
        box = Outbox(url(hook), lambda message: send(url(hook), message, "ROUTER"))
        box.put(replace(MESSAGE, at=2e9))
        box.put(replace(MESSAGE, event=IS_OVER, at=2e9))
        for _ in range(4):
            assert hook.came.acquire(timeout=60)
        box.stop()
        box._thread.join(60)
    assert [one["event"] for one in hook.got] == [BEGAN, BEGAN, BEGAN, IS_OVER]
    assert [one["event"] for one in logs] == ["notification failed"] * 2 + ["notified"] * 2
    assert SECRET not in str(logs)


def test_an_outbox_is_bounded_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST", 2)
    held, asked, sent = threading.Event(), threading.Semaphore(0), list[float]()

    def slow(message: Message) -> None:
        asked.release()
        assert held.wait(60)
        sent.append(message.at)
        if message.at < NOW:
            raise SendError("no")

    def dropped() -> float:
        return float(NOTIFICATIONS.labels("dropped")._value.get())

    before = dropped()
    box = Outbox("https://x/", slow)
    box.put(replace(MESSAGE, at=1.0))  # too old to be tried again
    assert asked.acquire(timeout=60)
    for n in range(3):
        box.put(replace(MESSAGE, at=NOW + n))  # never waits
    held.set()
    for _ in range(2):
        assert asked.acquire(timeout=60)
    while len(sent) < 3:
        threading.Event().wait(0.01)
    box.stop()
    box._thread.join(60)
    assert sent == [1.0, NOW + 1, NOW + 2]
    assert dropped() - before >= 2


# -- the node


@dataclass
class Node:
    """What the notifier looks at."""

    spool: Spool
    ready: bool = True
    open: dict[str, DestinationState] = field(default_factory=dict)
    buried: dict[str, int] = field(default_factory=dict)

    def counts(self) -> Counts:
        return Counts(buried=self.buried)

    def destination_states(self) -> dict[str, DestinationState]:
        return self.open

    def last_from(self, callers: list[str]) -> dict[str, float]:
        return self.spool.views.last_from(callers)

    def received_bytes(self, seconds: float) -> int:
        return self.spool.views.received_bytes(seconds)

    def certificates(self) -> dict[str, float]:
        return {}

    def is_ready(self) -> bool:
        return self.ready


CONFIG = """
spool: {path: spool, reserve: 1 MB}
destinations: {a: {ae_title: A, host: 127.0.0.1, port: 1}}
rules: []
otherwise: {send: a}
"""


def settings_with(tmp_path: Path, notify: str, environ: dict[str, str] | None = None) -> Settings:
    (tmp_path / "routing.yaml").write_text(CONFIG + f"notify: {notify}\n")
    return load(tmp_path / "routing.yaml", environ or {})


def test_a_node_tells_what_it_sees(tmp_path: Path, hook: Hook, database: str) -> None:
    settings = settings_with(tmp_path, "{to: '${HOOK}', room: off}", {"HOOK": url(hook)})
    with closing(open_spool(settings_of(tmp_path / "spool", database))) as spool:
        node = Node(spool, buried={"a": 3}, open={"b": DestinationState(circuit_until=1.0, still_since=1.0)})
        notifier = Notifier(node, spool.notices, lambda: settings)
        notifier.turn()
        notifier.turn()
        for _ in range(2):
            assert hook.came.acquire(timeout=60)
        assert {(one["condition"], one["about"]) for one in hook.got} == {("buried", "a"), ("circuit", "b")}
        settings = replace(settings, notify=NotifySettings())
        node.buried = {"a": 3, "c": 1}
        notifier.turn()  # no address any more
        assert notifier._boxes == {}
        assert len(spool.notices.current()) == 2


def test_looking_reads_the_spool(tmp_path: Path, database: str) -> None:
    settings = settings_with(tmp_path, "{to: https://x/, silent: {XRAY_1: 1h, NEVER: 1h}}")
    with closing(open_spool(settings_of(tmp_path / "spool", database))) as spool:
        node = Node(spool)
        looker = Looker(node)
        begun = looker.look(settings)
        accept(spool, b"x" * 1000)
        agreed, contradicted = AGREEMENT.counts()
        AGREEMENT.add(True)
        AGREEMENT.add(False)
        seen = looker.look(settings)
        assert (seen.agreed, seen.contradicted) == (1, 1), (agreed, contradicted)
        assert seen.last_from["XRAY_1"] > begun.last_from["XRAY_1"] == begun.last_from["NEVER"]
        assert seen.last_from["NEVER"] == begun.last_from["NEVER"]
        assert begun.full_in is None
        assert seen.full_in is not None
        assert seen.full_in > 0
        node.ready = False
        assert looker.look(settings).inference_down >= 0


BODY_PART = 0x00180015


@pytest.mark.parametrize(
    ("part", "agrees"), [(("TSPINE",), True), (("ABDOMEN",), False), (("???",), None), ((), None)]
)  # fmt: skip
def test_header_and_pixels_are_compared(tmp_path: Path, part: tuple[str, ...], agrees: bool | None) -> None:
    words = settings_with(tmp_path, "{}").header_words
    assert words is not None
    instance = cast(Instance, None)  # nothing of it is asked for
    header = {BODY_PART: part} if part else {}
    assert agreement(words, instance, SeenOfInstance("decoded", header, SPINE)) is agrees
    assert agreement(words, instance, SeenOfInstance("decoded", header, None)) is None


# -- the configuration


def test_the_section_is_read(tmp_path: Path) -> None:
    (tmp_path / "hook.txt").write_text(f"https://example.org/{SECRET}\n")
    settings = settings_with(
        tmp_path,
        '{to: [{file: hook.txt}, "https://b.example.org/"], remind: 1d, buried: 5, circuit: off, silent: {XRAY_1: 4h}, '
        'disk: 2h, room: 1 GB, certificate: 10d, inference: off, disagreement: 12.5%, result_missing: off, '
        'quiet: {from: "22:30", until: "6:00", zone: Europe/Berlin, but: [disk, circuit]}}',
    )  # fmt: skip
    assert settings.notify == NotifySettings(
        (f"https://example.org/{SECRET}", "https://b.example.org/"), DAY,
        Quiet(22 * 60 + 30, 360, "Europe/Berlin", ("disk", "circuit")), 5, None, {"XRAY_1": 4 * HOUR}, 2 * HOUR, GB,
        10 * DAY, None, 0.125, None,
    )  # fmt: skip
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("notify", "said"),
    [("{to: example.org}", "notify.to is not an address"), (f"{{to: 'https://{SECRET} x'}}", "is not an address"),
     (f"{{to: [https://a/, '{SECRET}']}}", "is not an address"), ("{to: {file: none.txt}}", "there is no file"),
     ("{to: {}}", "names no file"), ("{to: {file: empty.txt}}", "empty.txt holds is not an address"),
     ("{quiet: {from: '22:00'}}", "has no until"), ("{quiet: {from: '25:00', until: '1:00'}}", "not a time of day"),
     ("{quiet: {from: '2:00', until: '1:00', zone: Mars}}", "not a time zone"),
     ("{quiet: {from: '2:00', until: '1:00', but: [mars]}}", "'mars' is not allowed"),
     ("{disagreement: 0.2}", "is not a share"), ("{disagreement: 200%}", "is not a share"),
     ("{silent: [XRAY_1]}", "must be a mapping"), ("{silent: {AN_AE_TITLE_TOO_LONG: 1h}}", "at most 16"),
     ("{circuit: 30}", "no unit of time"), ("{mail: x}", "unknown key 'mail'"), ("{to: '${HOOK}'}", "HOOK is not set")],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_without_secrets(tmp_path: Path, notify: str, said: str) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ConfigError) as wrong:
        settings_with(tmp_path, notify)
    assert said in str(wrong.value).replace("notify.to: is", "notify.to is")
    assert "routing.yaml:6: " in str(wrong.value)
    assert SECRET not in str(wrong.value)


def test_without_apprise_only_webhooks_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.config.notify.find_spec", lambda _: None)
    assert settings_with(tmp_path, "{to: https://x/}").notify.to == ("https://x/",)
    with pytest.raises(ConfigError, match=r"\[notify\]"):
        settings_with(tmp_path, "{to: 'mailto://me@example.org'}")


# -- the commands


def run(tmp_path: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["notify", *words, "--config", str(tmp_path / "routing.yaml")])
    return done.exit_code, done.stdout + done.stderr


def test_a_test_message_says_for_each_address_whether_it_was_taken(tmp_path: Path, hook: Hook) -> None:
    settings = settings_with(tmp_path, f"{{to: ['{url(hook)}', 'http://127.0.0.1:1/{SECRET}']}}")
    first, second = try_addresses(settings)
    assert (first.failure, hook.got[0]["event"]) == ("", "test")
    assert second.failure == "ConnectionRefusedError"
    code, told = run(tmp_path, "test")
    assert code == 1
    assert told.startswith(f"http://127.0.0.1:{hook.server_port}/…: sent\n")
    assert SECRET not in told
    settings_with(tmp_path, "{}")
    assert run(tmp_path, "test")[0] == 2


def test_silence_is_ordered_listed_and_ended(tmp_path: Path) -> None:
    settings_with(tmp_path, "{}")
    with closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        spool.notices.exchange("h", lambda *_: ([Notice("disk", "", "h", "the spool is full", 1.0, 1.0, 0.0)], None))
    code, told = run(tmp_path, "silence", "2h", "disk")
    assert (code, told.startswith("disk: silent until ")) == (0, True)
    listed = run(tmp_path, "list")[1].splitlines()
    assert "not told yet: the spool is full" in listed[0]
    assert listed[1].startswith("disk is silent until ")
    assert run(tmp_path, "silence", "off", "disk") == (0, "disk: no longer silent\n")
    assert len(run(tmp_path, "list")[1].splitlines()) == 1
    for words in (["silence", "soon"], ["silence", "2h", "mars"]):
        assert run(tmp_path, *words)[0] == 2


@pytest.mark.parametrize("about", [{"seconds": "2h"}, {"seconds": 1, "condition": "mars"}, {}])
def test_a_silence_without_meaning_is_refused(tmp_path: Path, about: dict[str, object]) -> None:
    with closing(open_spool(settings_of(tmp_path))) as spool, pytest.raises(OrderError) as refused:
        carry_out(parse("silence", about), "a person", spool, [])  # type: ignore[arg-type]
    assert refused.value.exit_code == 2


def test_a_stopped_notifier_ends(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "{}")
    with closing(open_spool(settings_of(tmp_path / "spool"))) as spool:
        notifier = Notifier(Node(spool), spool.notices, lambda: settings)
        notifier.start()
        notifier.stop()
        notifier._thread.join(60)
        assert not notifier.is_alive
