"""Headless chromium; a test fails if the page contacts another host or logs an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from scripts.soak.serving import Client, Served, served
from tests.app.browser import workspace_page
from tests.app.browser.viewer_page import Images, Viewed, opened, serving
from tests.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-device-scale-factor=1",
]  # fmt: skip
# the browser logs every refused request: 415 for a file, 409 for a stale action, 401 for a login
ANSWERS = (
    "Failed to load resource: the server responded with a status of ",
    "Failed to load resource: net::ERR_FAILED",  # a test cuts the line
)


@pytest.fixture(scope="package")  # an idle browser would take a tenth of a core from the tests after these
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def browser_page(browser: Browser) -> Iterator[Page]:
    """Page of a fresh profile; checks afterwards that it contacted no other host and logged no error."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    asked: list[str] = []
    wrong: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda said: wrong.append(said.text) if said.type == "error" and not said.text.startswith(ANSWERS) else None,
    )
    yield page
    context.close()
    hosts = {urlsplit(url).hostname for url in asked if url.startswith("http")}
    assert hosts <= {"127.0.0.1"}
    assert wrong == []


@pytest.fixture(scope="package")
def images() -> Iterator[Images]:
    """Server of images made by tests."""
    with serving() as running:
        yield running


@pytest.fixture
def viewer(browser_page: Page, images: Images) -> Viewed:
    """The viewer on a bare page."""
    return opened(browser_page, images)


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of tests of the workspace; other files have their own."""
    with served(tmp_path_factory.mktemp("workspace"), "--no-example") as running:
        yield running


@pytest.fixture
def client(server: Served) -> Client:
    return server.client()


@pytest.fixture
def study(client: Client) -> str:
    """A study with a draft of at least three sentences."""
    return workspace_page.new_study(client)


@pytest.fixture
def page(browser_page: Page, server: Served, study: str) -> Page:
    """The page with the study open."""
    return workspace_page.at(browser_page, server, study)
