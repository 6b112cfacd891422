"""`make screenshots`: pictures of every page, light and dark, wide and narrow, in build/screenshots."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.page.filled import PASSWORD, USER, filled

CHROMIUM = "/usr/bin/chromium"
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
PAGES = {
    "now": "/", "instances": "/instances", "destinations": "/destinations", "attention": "/attention",
    "review": "/review", "rules": "/rules", "devices": "/devices", "model": "/model", "record": "/record",
    "jobs": "/attention/jobs", "candidate": "/rules/candidate", "tables": "/rules/tables", "notices": "/notices",
}  # fmt: skip


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def logged_in(opened: Any, base: str, **more: Any) -> Any:
    """A browser's context in which a user with every role is logged in."""
    context = opened.new_context(base_url=base, **more)
    page = context.new_page()
    page.goto("/login")
    page.get_by_label("Name").fill(USER)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/")
    page.close()
    return context


def addresses(first: Any) -> dict[str, str]:
    """Each page, and the stories of instances with something to see."""
    found = dict(PAGES)
    for name, query in (("story", "state=done&since=2m"), ("story-buried", "state=buried")):
        first.goto(f"/instances?{query}")
        link = first.locator("a[data-row]").first
        if link.count():
            found[name] = link.get_attribute("href")
    return found


def main(folder: Path, only: set[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, filled(Path(scratch)) as on, browser() as opened:
        base = f"http://127.0.0.1:{on.web_port}"
        where = addresses(logged_in(opened, base).new_page())
        for scheme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                size_of = {"width": width, "height": height}
                context = logged_in(opened, base, color_scheme=scheme, viewport=size_of)
                page = context.new_page()
                for name, href in where.items():
                    if not only or name in only:
                        page.goto(href, wait_until="load")
                        page.screenshot(path=folder / f"{name}-{scheme}-{size}.png", full_page=True)
                context.close()
    print(f"screenshots in {folder}")


if __name__ == "__main__":
    main(Path("build/screenshots"), set(sys.argv[1:]))
