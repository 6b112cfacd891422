"""Chromium against a running node: each page loads under the strict policy, axe finds nothing serious, keys work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from router.demo.run import Stage
from tests.page.filled import FULL, PAUSED, filled
from tests.page.screenshots import addresses, browser, logged_in
from tests.unit.peer import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.chromium]
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with filled(tmp_path_factory.mktemp("filled")) as on:
        yield on


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(stage: Stage, chromium: Any) -> Iterator[Any]:
    """A page that fails the test for an error of a script, a refused resource, or a server's error."""
    context = logged_in(chromium, f"http://127.0.0.1:{stage.web_port}")
    opened, trouble = context.new_page(), []
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    opened.on("response", lambda answer: trouble.append(answer.url) if answer.status >= 500 else None)
    yield opened
    context.close()
    assert trouble == []


def test_each_page_is_accessible_in_both_schemes_and_widths(stage: Stage, page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found: dict[str, list[str]] = {}
    for name, href in addresses(page).items():
        for scheme, width in (("light", 1280), ("dark", 390)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 844})
            page.goto(href)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} wide at {width}"
            violations = Axe().run(page).response["violations"]
            found[f"{name} {scheme}"] = [
                f"{one['id']}: {node['html'][:160]}" for one in violations if one["impact"] in SERIOUS
                for node in one["nodes"]
            ]  # fmt: skip
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_an_engineer_finds_an_image_and_mends_what_is_wrong(stage: Stage, page: Any) -> None:
    page.goto("/")
    assert "2 things need you" in page.locator("h1").inner_text()
    page.keyboard.press("/")
    page.keyboard.type(f"to:{FULL} state:buried")
    page.keyboard.press("Enter")
    page.wait_for_url("**/instances?*state=buried*")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    wait_for(lambda: page.locator("figure img").evaluate("one => one.naturalWidth") == 512, 30)
    page.get_by_role("button", name="Discard").click()
    page.get_by_role("button", name="Discard it").click()
    page.get_by_text("It was discarded for good.").wait_for()
    page.goto("/")
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("sent to again").wait_for()
    wait_for(lambda: not stage.spool.views.counts().open.get(PAUSED), 30)


def test_keys_label_one_image_after_the_other(stage: Stage, page: Any) -> None:
    page.goto("/review")
    for n in (1, 2):
        page.locator("figure img").wait_for()
        page.keyboard.press("2")
        page.get_by_text("Your label is kept.").wait_for()
        page.get_by_role("link", name=f"{n} label").wait_for()
    page.get_by_text("Nothing is left to review here.").wait_for()
    labels = {one.instance_id for one in stage.spool.overview.labels()}
    assert len(labels) == 2


def test_now_refreshes_itself_without_a_reload(stage: Stage, page: Any) -> None:
    page.goto("/")
    page.evaluate("window.same = true")
    stage.spool.orders.pause("catch-all", "a person")
    row = page.locator("tr", has_text="catch-all").locator(".state.stop")
    row.wait_for(timeout=20_000)
    assert page.evaluate("window.same")
    stage.spool.orders.resume("catch-all", "a person")


def test_pages_work_without_scripts(stage: Stage, chromium: Any) -> None:
    context = logged_in(chromium, f"http://127.0.0.1:{stage.web_port}", java_script_enabled=False)
    page = context.new_page()
    page.goto("/destinations")
    page.get_by_role("button", name="Ask (C-ECHO)").first.click()
    page.get_by_text("well answered").wait_for()
    context.close()
