"""Browser: Lighthouse's accessibility score of every screen, light and dark, large and small (make nightly)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llava_rad.generation.sources import example
from scripts.soak.serving import served
from tests.app.browser.conftest import FLAGS
from tests.app.browser.test_review_page import drafted, ready, upload
from tests.browser import chromium
from tests.referees import npm

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.nightly]
SIZES = {"1440x900": (1440, 900), "1920x1080": (1920, 1080), "390x844": (390, 844)}


@pytest.fixture(scope="module")
def lighthouse() -> Path:
    """Folder with Lighthouse, installed by npm."""
    return npm.installed("browser")


@pytest.fixture
def debugged() -> Iterator[tuple[Any, int]]:
    """Browser with the port of its developer tools."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with playwright.sync_playwright() as started:
        flags = [*FLAGS, f"--remote-debugging-port={port}"]
        running = started.chromium.launch(executable_path=chromium(), headless=True, args=flags)
        yield running, port
        running.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_lighthouse_gives_100_for_accessibility(
    tmp_path: Path, lighthouse: Path, debugged: tuple[Any, int], size: str, theme: str
) -> None:
    browser, port = debugged
    width, height = SIZES[size]
    page: Page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(60_000)
    found: dict[str, Any] = {}

    def check(screen: str) -> None:
        judged = npm.run(lighthouse, "lighthouse.mjs", str(port))
        found[screen] = (judged["score"], judged["failed"])

    with served(tmp_path, "--no-example") as server:
        ready(page, f"{server.url}/?__theme={theme}")
        check("empty")
        upload(page, str(example()))
        drafted(page)
        check("review")
        page.locator("#sentences li.lr-sentence .lr-text").first.click()
        check("sentence")
        page.get_by_role("button", name="Accept the rest").click()
        page.keyboard.press("Control+Shift+Enter")  # sign and stay, which has no button on small screens
        page.wait_for_selector(".lr-signed")
        check("signed")
        page.get_by_role("tab", name="Worklist").click()
        page.wait_for_selector("#studies tbody tr")
        check("worklist")
        page.get_by_role("tab", name="Statistics").click()
        page.wait_for_selector(".lr-tile")
        check("statistics")
    assert found == dict.fromkeys(found, (100, []))
