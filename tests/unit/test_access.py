"""Who may see the page: sessions, roles, forms, sign-on by a proxy, what is refused; on both databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from router.flow import Role
from router.spool import Spool, UserError, clock, open_spool, users
from router.web.access import Access, limits, login, passwords, protected, visitors
from router.web.access.limits import Tries
from router.web.access.passwords import PasswordError, checked, hashed, matches
from tests.unit.access import (
    LOOPBACK,
    OWN_ROLES,
    PASSWORD,
    PROXIED,
    QUICK,
    SIGNED_ON,
    Browser,
    add_user,
    csrf_in,
    example,
    log_in,
    over_tls,
    site,
)
from tests.unit.spooling import settings_of

COOKIE = "dicom_router_session"


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", lambda: QUICK)


@pytest.fixture
def on_both(tmp_path: Path, database: str) -> Iterator[Spool]:
    spool = open_spool(settings_of(tmp_path / "spool", database))
    yield spool
    spool.close()


def kinds(spool: Spool) -> list[str]:
    """The record, after all that was ordered is written."""
    spool.database.run(lambda _: None)
    return [row.kind for row in spool.views.events()]


def later(spool: Spool, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """For sessions alone it is so many seconds later than it is."""
    now = clock.now
    monkeypatch.setattr(users, "clock", type("Clock", (), {"now": staticmethod(lambda c: now(c) + seconds)}))


# -- sessions


def test_from_login_to_logout(on_both: Spool) -> None:
    add_user(on_both)
    browser = site(on_both).browser()
    asked = browser.get("/instances?state=buried")
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=/instances%3Fstate%3Dburied")
    done = log_in(browser, onward="/instances?state=buried")
    assert (done.status_code, done.headers["location"]) == (303, "/instances?state=buried")
    assert "HttpOnly" in done.headers["set-cookie"]
    assert "SameSite=Strict" in done.headers["set-cookie"]
    seen = browser.get("/x")
    assert seen.text.startswith("ann sees /x")
    token = browser.cookies[COOKIE]
    assert browser.post("/logout", data={"csrf": csrf_in(seen.text)}).headers["location"] == "/login"
    browser.keep(COOKIE, token)
    assert browser.get("/x").status_code == 303
    assert kinds(on_both)[-3:] == ["user added", "logged in", "logged out"]


def test_the_database_has_neither_password_nor_token(on_both: Spool) -> None:
    on_both.users.add("ann", hashed(PASSWORD), (Role.VIEW,), "a test")
    browser = site(on_both).browser()
    log_in(browser)
    rows = on_both.database.ask(
        lambda c: [str(tuple(row)) for table in (users.user, users.session) for row in c.execute(sa.select(table))]
    )
    assert "argon2id" in rows[0]
    assert len(rows) == 2
    assert not [row for row in rows if PASSWORD in row or browser.cookies[COOKIE] in row]


@pytest.mark.parametrize("seconds", [users.IDLE + 1, users.LONGEST + 1])
def test_a_session_ends_by_itself(on_both: Spool, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    add_user(on_both)
    browser = site(on_both).browser()
    log_in(browser)
    later(on_both, monkeypatch, seconds)
    assert browser.get("/x").status_code == 303


def test_use_keeps_a_session_for_a_day_of_work_and_no_longer(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    add_user(spool)
    browser = site(spool).browser()
    log_in(browser)
    uses = int(users.LONGEST / (users.IDLE - 10))
    for n in range(1, uses + 1):
        later(spool, monkeypatch, n * (users.IDLE - 10))
        assert browser.get("/x").status_code == 200
        kinds(spool)
    later(spool, monkeypatch, (uses + 1) * (users.IDLE - 10))
    assert browser.get("/x").status_code == 303


def test_a_timer_in_the_page_does_not_keep_a_session(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    add_user(spool)
    browser = site(spool).browser()
    log_in(browser)
    later(spool, monkeypatch, users.IDLE - 10)
    assert browser.get("/x", headers={"X-Background": "1"}).status_code == 200
    kinds(spool)
    later(spool, monkeypatch, users.IDLE + 10)
    assert browser.get("/x").status_code == 303


def test_a_change_of_a_user_is_in_force_at_once(on_both: Spool) -> None:
    add_user(on_both, "ann", Role.VIEW, Role.IMAGES)
    browser = site(on_both).browser()
    log_in(browser)
    assert browser.get("/image").status_code == 200
    on_both.users.set_roles("ann", (Role.VIEW,), "bob")
    assert browser.get("/image").status_code == 403
    on_both.users.set_password("ann", QUICK.hash("other good words"), "bob")
    assert browser.get("/x").status_code == 303
    log_in(browser, password="other good words")
    assert browser.get("/x").status_code == 200
    add_user(on_both, "bob")
    on_both.users.remove("ann", "bob")
    assert browser.get("/x").status_code == 303
    assert "user removed" in kinds(on_both)


def test_a_session_is_never_one_that_somebody_else_chose(spool: Spool) -> None:
    """Fixation: the token before the login is not the one after it, and an old session of the browser ends."""
    add_user(spool)
    add_user(spool, "bob")
    browser = site(spool).browser()
    browser.keep(COOKIE, "A" * 43)
    log_in(browser)
    first = browser.cookies[COOKIE]
    assert first != "A" * 43
    form = csrf_in(browser.get("/x").text)
    browser.post("/login", data={"csrf": form, "name": "bob", "password": PASSWORD})
    assert browser.get("/x").text.startswith("bob")
    other = site(spool).browser()
    other.keep(COOKIE, first)
    assert other.get("/x").status_code == 303


def test_a_user_has_a_bounded_number_of_sessions(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MOST_SESSIONS", 2)
    add_user(spool)
    browsers = [site(spool).browser() for _ in range(3)]
    for browser in browsers:
        log_in(browser)
    assert [browser.get("/x").status_code for browser in browsers] == [303, 200, 200]


def test_who_was_removed_while_the_password_was_checked_gets_no_session(on_both: Spool) -> None:
    add_user(on_both)
    kept = on_both.users.password_of("ann") or ""
    on_both.users.set_password("ann", QUICK.hash("other good words"), "bob")
    assert not on_both.users.begin_session("t", "ann", kept)
    on_both.users.remove("ann", "bob")
    assert not on_both.users.begin_session("t", "ann", kept)


def test_a_browser_that_follows_a_link_of_another_site_is_asked_once_more(spool: Spool) -> None:
    """It leaves the cookie at home (SameSite=Strict), and brings it when it comes from here."""
    add_user(spool)
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    answer = site(spool).browser().get("/instances?text=<b>", headers=link)
    assert answer.status_code == 200
    assert 'http-equiv="refresh" content="0;url=/instances?text=' in answer.text
    assert "<b>" not in answer.text


# -- roles


def test_a_role_that_is_lacking(spool: Spool) -> None:
    add_user(spool, "ann", Role.VIEW)
    add_user(spool, "bob", Role.IMAGES)
    browser = site(spool).browser()
    log_in(browser)
    seen = browser.get("/x")
    form = {"csrf": csrf_in(seen.text), "to": "ai"}
    assert [browser.get("/image").status_code, browser.post("/pause", data=form).status_code] == [403, 403]
    spool.users.set_roles("ann", (Role.VIEW, Role.OPERATE), "bob")
    done = browser.post("/pause", data=form)
    assert done.text.startswith("ann pauses ai ")
    assert not done.text.endswith(" 0"), "the application can read the body too"
    without = site(spool).browser()
    log_in(without, "bob")
    assert [without.get(path).status_code for path in ("/x", "/image")] == [403, 403], "everybody needs view"


def test_an_endpoint_that_does_not_say_what_it_needs_is_a_mistake_of_the_program(spool: Spool) -> None:
    async def open_one(_: Any) -> PlainTextResponse:
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/open", open_one)])
    with pytest.raises(ValueError, match="/open"):
        protected(app, Access(LOOPBACK, spool))


def test_what_is_not_behind_the_gate_answers_nobody() -> None:
    with pytest.raises(AttributeError):
        Browser(example(), "127.0.0.1", "http://127.0.0.1:8080", {}).get("/x")


# -- loopback without users


def test_without_users_the_local_account_views_and_operates(spool: Spool) -> None:
    browser = site(spool).browser()
    seen = browser.get("/x")
    assert seen.text.startswith("local sees")
    assert browser.get("/image").status_code == 403
    assert browser.post("/pause", data={"csrf": csrf_in(seen.text)}).text.startswith("local pauses")
    add_user(spool)
    assert browser.get("/x").status_code == 303


FROM_ELSEWHERE = (
    {"host": "evil.example"}, {"host": "127.0.0.1.evil.example"}, {"host": "10.0.0.9:8080"}, {"host": ""},
    {"host": "localhost@evil.example"}, {"host": "[::1"},
    {"x-forwarded-for": "10.0.0.9"}, {"via": "1.1 proxy"}, {"forwarded": "for=10.0.0.9"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
)  # fmt: skip


def test_names_that_lead_here_proxies_and_other_sites_are_refused(spool: Spool) -> None:
    browser = site(spool).browser()
    assert [headers for headers in FROM_ELSEWHERE if browser.get("/x", headers=headers).status_code != 403] == []


def test_names_of_this_machine_are_good(spool: Spool) -> None:
    browser = site(spool).browser()
    for host in ("localhost", "127.0.0.1:9000", "[::1]:8080", "127.0.0.2", "LOCALHOST:1"):
        assert browser.get("/x", headers={"host": host}).status_code == 200


# -- forms


POSTS_FROM_ELSEWHERE = (
    {"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"sec-fetch-site": "same-site"},
)  # fmt: skip


def test_a_post_of_another_site_is_refused_even_with_the_right_proof(spool: Spool) -> None:
    browser = site(spool).browser()
    form = {"csrf": csrf_in(browser.get("/x").text)}
    for headers in POSTS_FROM_ELSEWHERE:
        assert browser.post("/pause", data=form, headers=headers).status_code == 403
    for good in ({}, {"origin": "http://127.0.0.1:8080"}, {"sec-fetch-site": "same-origin"}):
        assert browser.post("/pause", data=form, headers=good).status_code == 200


def test_a_form_without_proof_or_with_another_ones_is_refused(spool: Spool) -> None:
    add_user(spool, "ann", Role.VIEW, Role.OPERATE)
    add_user(spool, "bob", Role.VIEW, Role.OPERATE)
    ann, bob = site(spool).browser(), site(spool).browser()
    log_in(ann)
    log_in(bob, "bob")
    of_ann, of_bob = (csrf_in(browser.get("/x").text) for browser in (ann, bob))
    for proof in ("", "0" * 64, of_bob, of_ann[:-1], "é"):
        assert ann.post("/pause", data={"csrf": proof}).status_code == 403
    assert ann.post("/pause").status_code == 403
    assert ann.post("/pause", json={"csrf": of_ann}).status_code == 403
    assert ann.post("/pause", data={"csrf": of_ann}).status_code == 200
    assert ann.post("/pause", json={}, headers={"X-CSRF-Token": of_ann}).status_code == 200


def test_a_login_that_another_site_prepared_is_refused(spool: Spool) -> None:
    add_user(spool)
    browser = site(spool).browser()
    form = {"name": "ann", "password": PASSWORD}
    assert browser.post("/login", data=form).status_code == 403
    other = csrf_in(site(spool).browser().get("/login").text)
    assert browser.post("/login", data=form | {"csrf": other}).status_code == 403


# -- tricks


TRICKS = (
    "/..%2fx", "/%2e%2e/x", "//x", "/x//y", "/x/%2F/y", "/x%5cy", "/x%00", "/x%0d%0ay", "/%252e", "/x/../y",
    "/x\\y", "/static/..%2fx", "/static/../x", "/static/%2e%2e/x", "/static//page.css", "//static/page.css",
    "/./static/page.css", "/static/page.css%00", "/x%ff", "/x%zz",
)  # fmt: skip


@pytest.mark.parametrize("is_known", [True, False])
def test_paths_that_can_be_read_in_two_ways(spool: Spool, is_known: bool) -> None:
    """The client of these tests would tidy them up, so they are given to the gate as a server gives them."""
    if not is_known:
        add_user(spool)
    app = site(spool).app
    assert [path for path in TRICKS if raw_get(app, path) != 400] == []


def raw_get(app: Any, path: str) -> int:
    """The status of the answer to a path as it stands."""
    import asyncio
    from urllib.parse import unquote

    scope = {
        "type": "http", "method": "GET", "path": unquote(path), "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080),
        "scheme": "http", "root_path": "",
    }  # fmt: skip
    found: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        found.extend([message["status"]] if "status" in message else [])

    asyncio.run(app(scope, receive, send))
    return found[0]


def test_names_with_spaces_and_letters_are_good_in_a_path(spool: Spool) -> None:
    assert raw_get(site(spool).app, "/rules/adult%20chest%20%C3%A9") == 200


def test_before_the_login_there_is_only_the_form_and_what_it_is_made_of(spool: Spool) -> None:
    add_user(spool)
    browser = site(spool).browser()
    assert browser.get("/static/page.css").headers["cache-control"] == "max-age=9"
    assert browser.get("/access.css").status_code == 200
    assert browser.post("/static/page.css").status_code == 403
    for path in ("/", "/x", "/static", "/static/", "/staticx", "/loginx", "/login/", "/logout", "/metrics"):
        assert browser.get(path).status_code == 303, path
    assert browser.post("/pause", data={"to": "ai"}).status_code == 403
    assert browser.request("PUT", "/x").status_code == 405
    scripted = browser.get("/x", headers={"HX-Request": "true", "HX-Current-URL": "http://127.0.0.1:8080/now?a=1"})
    assert (scripted.status_code, scripted.headers["hx-redirect"]) == (401, "/login?next=/now%3Fa%3D1")
    broken = browser.get("/x", headers={"HX-Request": "true", "HX-Current-URL": "http://["})
    assert (broken.status_code, broken.headers["hx-redirect"]) == (401, "/login?next=/")


def test_a_login_is_answered_while_the_database_is_locked(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    add_user(spool)
    go_on = threading.Event()
    monkeypatch.setattr(type(spool.users), "begin_session", lambda *_: go_on.wait(5))
    browser = site(spool).browser()
    form = csrf_in(browser.get("/login").text)
    monkeypatch.setattr(visitors, "SECONDS", 0.2)
    answer = browser.post("/login", data={"csrf": form, "name": "ann", "password": PASSWORD})
    go_on.set()
    assert answer.status_code == 503


def test_a_fault_of_the_gate_is_logged_and_answered(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(type(spool.users), "visit", fails)
    with structlog.testing.capture_logs() as logs:
        answer = site(spool).browser().get("/x")
    assert answer.status_code == 500
    assert "content-security-policy" in answer.headers
    assert [line["event"] for line in logs] == ["page failed"]
    assert "a secret" not in f"{logs}{answer.text}"


def test_a_login_leads_to_no_other_site(spool: Spool) -> None:
    add_user(spool)
    here = site(spool)
    for onward in ("//evil.example", "/\\evil.example", "https://evil.example", "evil", "/\tx", "", "/login"):
        assert log_in(here.browser(), onward=onward).headers["location"] == "/"


def test_hostile_text_is_shown_as_text(spool: Spool) -> None:
    add_user(spool)
    form = site(spool).browser().get("/login", params={"next": '/"><script>alert(1)</script>'})
    assert "<script" not in form.text
    browser = site(spool, SIGNED_ON).browser(
        "10.0.0.5", "https://router", x_remote_user="<script>", x_remote_roles="nothing"
    )
    refused = browser.get("/x")
    assert refused.status_code == 403
    assert "<script" not in refused.text


def test_every_answer_has_the_headers(spool: Spool) -> None:
    add_user(spool)
    browser = site(spool).browser()
    answers = [browser.get("/login"), browser.get("/x"), browser.get("/x", headers={"host": "evil"})]
    log_in(browser)
    for answer in (*answers, browser.get("/x"), browser.get("/image")):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_too_much_at_once(spool: Spool) -> None:
    browser = site(spool).browser()
    token = {"X-CSRF-Token": csrf_in(browser.get("/x").text)}
    assert browser.post("/pause", content=b"x" * (1 << 20), headers=token).status_code == 200
    assert browser.post("/pause", content=b"x" * ((1 << 20) + 1), headers=token).status_code == 413
    assert browser.post("/pause", data={f"f{n}": "" for n in range(10_001)}, headers=token).status_code == 413
    add_user(spool)
    assert browser.post("/login", content=b"x" * 9000, headers=token).status_code == 413


# -- logins


def test_a_wrong_password_an_unknown_name_and_a_user_without_password(on_both: Spool) -> None:
    add_user(on_both)
    add_user(on_both, "bob", password=None)
    browser = site(on_both).browser()
    said = {(log_in(browser, name, "wrong words").status_code) for name in ("ann", "bob", "carol", "", "' OR 1=1 --")}
    assert said == {401}
    assert log_in(browser, "bob", "the password of nobody").status_code == 401
    kinds(on_both)
    failed = [row.detail["user"] for row in on_both.views.events(kind="login failed")]
    assert failed == ["ann", "bob", "", "", "", "bob"], "what was typed as an unknown name may be a password"


def test_tries_are_counted_by_name_and_address(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    add_user(spool)
    here = site(spool, PROXIED)

    def of(address: str) -> Any:
        return here.browser("10.0.0.5", "https://router", x_forwarded_for=address, x_forwarded_proto="https")

    browser = of("10.9.9.9")
    assert [log_in(browser, password="wrong").status_code for _ in range(6)] == [401] * 5 + [429]
    refused = log_in(browser)
    assert refused.status_code == 429, "the right password is not told from a wrong one"
    assert int(refused.headers["retry-after"]) > 0
    assert log_in(of("10.9.9.8")).status_code == 303, "elsewhere the user is not locked out"
    moment = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: moment + limits.WINDOW)
    assert log_in(browser).status_code == 303


def test_an_address_may_not_go_through_all_names() -> None:
    tries = Tries()
    assert [tries.wait(f"name{n}", "10.9.9.9") > 0 for n in range(21)] == [False] * 20 + [True]
    assert tries.wait("ann", "2001:db8::1") == 0
    assert [tries.wait(f"n{n}", f"2001:db8::{n:x}") > 0 for n in range(2, 22)] == [False] * 19 + [True]


def test_a_name_is_guarded_from_many_addresses_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = Tries()
    assert [tries.wait("ann", f"10.9.{n}.1") > 0 for n in range(51)] == [False] * 50 + [True]
    monkeypatch.setattr(limits, "MOST_KEPT", 30)
    for n in range(200):
        tries.wait(f"name{n}", f"10.8.{n}.1")
    assert len(tries) == 30


def test_many_addresses_lock_nobody_out_where_the_user_was_before(spool: Spool) -> None:
    add_user(spool)
    tries = Tries()

    def of(address: str) -> Any:
        here = site(spool, PROXIED, tries)
        return here.browser("10.0.0.5", "https://router", x_forwarded_for=address, x_forwarded_proto="https")

    assert log_in(of("10.9.9.9")).status_code == 303
    for n in range(60):
        tries.wait("ann", f"10.8.{n}.1")
    assert log_in(of("10.7.7.7")).status_code == 429, "an address that nobody knows"
    assert log_in(of("10.9.9.9")).status_code == 303
    assert [log_in(of("10.9.9.9"), password="wrong").status_code for _ in range(6)] == [401] * 5 + [429]


def test_earlier_logins_are_known_after_a_restart(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    add_user(spool)

    def of(address: str, tries: Tries) -> Any:
        here = site(spool, PROXIED, tries)
        return here.browser("10.0.0.5", "https://router", x_forwarded_for=address, x_forwarded_proto="https")

    assert log_in(of("2001:db8::1", Tries())).status_code == 303
    tries = Tries()
    for n in range(60):
        tries.wait("ann", f"10.8.{n}.1")
    assert log_in(of("10.7.7.7", tries)).status_code == 429
    assert log_in(of("2001:db8::2", tries)).status_code == 303, "the same network of one subscriber"
    monkeypatch.setattr(limits, "MOST_KEPT", 30)
    for n in range(200):
        tries.remember(f"name{n}", "10.9.9.9")
    assert len(tries._good) == 30


def test_many_tries_at_once_are_no_more_than_one_after_another() -> None:
    tries, start = Tries(), threading.Barrier(16)

    def one(_: int) -> bool:
        start.wait()
        return tries.wait("ann", "10.9.9.9") == 0

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(one, range(16))) == 5


def test_failed_logins_do_not_flood_the_record(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    add_user(spool)
    monkeypatch.setattr(login, "MOST_FAILURES", 2)
    browser = site(spool).browser()
    for _ in range(4):
        log_in(browser, password="wrong")
    assert kinds(spool).count("login failed") == 2


def test_the_log_says_who_and_no_password(spool: Spool) -> None:
    add_user(spool)
    browser = site(spool).browser()
    with structlog.testing.capture_logs() as lines:
        log_in(browser, password="hunter2 hunter2")
        log_in(browser, "hunter3 hunter3", "x")
        log_in(browser)
    assert [line["event"] for line in lines] == ["login failed", "login failed", "logged in"]
    assert "hunter" not in str(lines)


def test_passwords_that_are_none() -> None:
    for bad in ("short", "a" * 20, "abcabcabcabcabc", "administrator1", "x" * 2000):
        with pytest.raises(PasswordError):
            checked("administrator", bad)
    assert checked("ann", PASSWORD) == PASSWORD
    assert matches("Pässword of words", hashed("Pässword of words"))
    assert not matches("x", "not a hash")
    assert not matches("the password of nobody", None)


# -- beyond loopback


def test_through_a_proxy_only(spool: Spool) -> None:
    add_user(spool)
    here = site(spool, PROXIED)
    assert here.browser("10.0.0.6").get("/x").status_code == 403
    assert here.browser("10.0.0.5", x_forwarded_proto="http").get("/login").status_code == 403
    browser = here.browser("::ffff:10.0.0.5", "https://router.example", x_forwarded_for="6.6.6.6, 10.9.9.9, 10.0.0.5")
    done = log_in(browser)
    assert done.status_code == 303
    assert "Secure" in done.headers["set-cookie"]
    assert f"__Host-{COOKIE}" in done.headers["set-cookie"]
    kinds(spool)
    assert spool.views.events(kind="logged in")[0].detail["peer"] == "10.9.9.9"
    form = {"csrf": csrf_in(browser.get("/x").text)}
    assert browser.post("/pause", data=form, headers={"origin": "https://router.example"}).status_code == 403  # role
    assert "role" in browser.post("/pause", data=form, headers={"origin": "https://router.example"}).text
    assert "site" in browser.post("/pause", data=form, headers={"origin": "http://router.example"}).text


def test_beyond_loopback_there_is_nobody_without_a_user(spool: Spool, tmp_path: Path) -> None:
    for settings in (PROXIED, over_tls(LOOPBACK, tmp_path), replace(LOOPBACK, behind_proxy=(ip_network("127.0.0.1"),))):
        proxy = "10.0.0.5" if settings is PROXIED else "127.0.0.1"
        refused = site(spool, settings).browser(proxy, "https://localhost").get("/x")
        assert refused.status_code == 403
        assert "dicom-router user add" in refused.text


def test_the_page_is_off_where_others_could_read_along(spool: Spool) -> None:
    add_user(spool)
    with structlog.testing.capture_logs() as lines:
        app = site(spool, replace(LOOPBACK, address="0.0.0.0"))
        answers = [app.browser().get(path) for path in ("/", "/login", "/static/page.css")]
    assert [answer.status_code for answer in answers] == [404] * 3
    assert [line["event"] for line in lines] == ["page is off"]
    with structlog.testing.capture_logs() as lines:
        assert site(spool, replace(LOOPBACK, page=False)).browser().get("/x").status_code == 404
    assert lines == []


# -- sign-on


def test_the_proxy_says_who_asks(spool: Spool) -> None:
    browser = site(spool, SIGNED_ON).browser(
        "10.0.0.5", "https://router", x_remote_user="ANN@HOSPITAL", x_remote_roles="view, operate"
    )
    seen = browser.get("/x")
    assert seen.text.startswith("ANN@HOSPITAL sees")
    assert browser.get("/image").status_code == 403
    assert browser.post("/pause").status_code == 403
    assert browser.post("/pause", data={"csrf": csrf_in(seen.text)}).text.startswith("ANN@HOSPITAL pauses")
    assert browser.get("/x", headers={"x-remote-user": "bob"}).text.startswith("bob")


def test_a_sign_on_from_elsewhere_is_ignored_and_logged(spool: Spool, tmp_path: Path) -> None:
    add_user(spool)
    here = site(spool, over_tls(SIGNED_ON, tmp_path))
    browser = here.browser("10.0.0.6", "https://router", x_remote_user="ann", x_remote_roles="admin")
    with structlog.testing.capture_logs() as lines:
        assert [browser.get("/x").status_code for _ in range(3)] == [303] * 3
    assert [(line["event"], line["peer"]) for line in lines] == [("sign-on ignored", "10.0.0.6")]
    plain = site(spool, SIGNED_ON).browser("10.0.0.6", x_remote_user="ann", x_remote_roles="admin")
    assert plain.get("/x").status_code == 403


SIGN_ONS = (
    [("x-remote-user", "ann"), ("x-remote-user", "bob"), ("x-remote-roles", "view")],
    [("x-remote-roles", "view")],
    [("x-remote-user", "ann")],
    [("x-remote-user", ""), ("x-remote-roles", "view")],
    [("x-remote-user", "local"), ("x-remote-roles", "view")],
    [("x-remote-user", "a b"), ("x-remote-roles", "view")],
    [("x-remote-user", "ann"), ("x-remote-roles", "root")],
    [("x-remote-user", "ann"), ("x-remote-roles", "view"), ("x-remote-roles", "admin")],
)


def test_a_sign_on_that_is_not_plain_is_refused(spool: Spool) -> None:
    browser = site(spool, SIGNED_ON).browser("10.0.0.5", "https://router")
    assert [headers for headers in SIGN_ONS if browser.get("/x", headers=headers).status_code != 403] == []


def test_without_a_header_of_roles_the_user_has_its_own(on_both: Spool) -> None:
    add_user(on_both, "ann", Role.VIEW, Role.IMAGES, password=None)
    browser = site(on_both, OWN_ROLES).browser("10.0.0.5", "https://router", x_remote_user="ANN")
    assert browser.get("/image").status_code == 200
    assert browser.get("/image", headers={"x-remote-user": "bob"}).status_code == 403
    on_both.users.set_roles("ann", (Role.VIEW,), "bob")
    assert browser.get("/image").status_code == 403


# -- users


def test_users_as_a_person_orders_them(on_both: Spool) -> None:
    add_user(on_both, " Ann ", Role.ADMIN, Role.VIEW)
    assert [(row.name, row.roles, row.has_password) for row in on_both.users.all()] == [
        ("ann", frozenset((Role.VIEW, Role.ADMIN)), True)
    ]
    for bad in ("ann", "", "local", "a b", "x" * 65, "-a", "é"):
        with pytest.raises(UserError):
            add_user(on_both, bad)
    with pytest.raises(UserError):
        on_both.users.remove("bob", "x")
    with pytest.raises(UserError):
        on_both.users.set_roles("bob", [Role.VIEW], "x")
    kinds(on_both)
    (event,) = on_both.views.events(kind="user added")
    assert event.detail == {"user": "ann", "roles": "view,admin", "who": "a test"}


def test_there_is_an_end_to_users(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "MOST_USERS", 1)
    add_user(spool)
    with pytest.raises(UserError, match="remove one"):
        add_user(spool, "bob")
