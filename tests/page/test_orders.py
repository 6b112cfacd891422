"""Chromium: rules from a file are tried with pictures, a cause is sent elsewhere and taken back, the way in and out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.demo.run import Stage
from tests.page.filled import FULL, PAUSED, filled
from tests.page.screenshots import browser, logged_in
from tests.unit.peer import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.chromium]
RULES = f"rules:\n- {{name: all, when: {{pixels: decoded}}, send: {PAUSED}}}\notherwise: {{send: catch-all}}\n"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with filled(tmp_path_factory.mktemp("filled")) as on:
        yield on


@pytest.fixture(scope="module")
def page(stage: Stage) -> Iterator[Any]:
    """A page that fails the tests for an error of a script, a refused resource, or a server's error."""
    with browser() as opened:
        context = logged_in(opened, f"http://127.0.0.1:{stage.web_port}")
        page, trouble = context.new_page(), []
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.on("response", lambda answer: trouble.append(answer.url) if answer.status >= 500 else None)
        yield page
        context.close()
        assert trouble == []


def serious(page: Any) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:160]}" for one in found if one["impact"] in ("serious", "critical")
    ]


def test_rules_from_a_file_are_tried_with_pictures(stage: Stage, page: Any, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(RULES)
    page.goto("/rules")
    page.get_by_role("link", name="Replay other rules").click()
    page.get_by_label("Or from a file").set_input_files(file)
    wait_for(lambda: page.get_by_label("The rules, as routing.yaml has them").input_value() == RULES, 10)
    page.get_by_role("button", name="Replay them").click()
    page.get_by_role("heading", name="would go elsewhere").wait_for()
    assert page.locator(".thumbs img").count() > 0
    page.locator(".thumbs img").first.scroll_into_view_if_needed()
    wait_for(lambda: page.locator(".thumbs img").first.evaluate("one => one.naturalWidth") == 512, 30)
    assert serious(page) == []
    page.locator(".thumbs a").first.click()
    page.get_by_text("Why not another rule?").click()
    page.get_by_text("The first rule from the top that is true decides.").wait_for()
    assert serious(page) == []


def test_a_cause_goes_elsewhere_and_comes_back(stage: Stage, page: Any) -> None:
    buried = stage.spool.views.counts().buried[FULL]
    page.goto("/attention")
    page.get_by_label("Move all to").first.select_option(PAUSED)
    page.get_by_role("button", name="Count them …").first.click()
    assert serious(page) == []
    page.get_by_label("Why (kept in the record)").fill("a test")
    page.get_by_role("button", name="Move").click()
    page.get_by_text("It is under way.").wait_for()
    wait_for(lambda: FULL not in stage.spool.views.counts().buried, 30)
    page.goto("/attention/jobs")
    page.get_by_role("button", name="Cancel, and take back").click()
    page.get_by_text("The job is cancelled.").wait_for()
    wait_for(lambda: stage.spool.views.counts().buried.get(FULL) == buried, 30)
    page.get_by_text("cancelled", exact=True).wait_for()
    assert serious(page) == []


def test_out_and_in_again(stage: Stage, page: Any) -> None:
    page.goto("/rules")
    page.get_by_role("link", name="Log out").click()
    assert serious(page) == []
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Log in").wait_for()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert serious(page) == []
