"""Browser: from a viewer's study list to the review of a study and back, with the configuration of scripts/deploy."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.accounts import add_user
from scripts.soak.serving import Served, served
from tests.app.browser.test_review_page import drafted
from tests.app.test_fetching import UID
from tests.app.test_fetching import archive as archive
from tests.llava_rad.pacs.orthanc import Archive, available
from tests.source_tree import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.pacs,
    pytest.mark.skipif(not available(), reason="orthanc is not installed (Debian: apt-get install orthanc-dicomweb)"),
]
OHIF = "@ohif/app@3.13.2"
STAND_IN = """const standIn = { createElement: (tag, { onClick, ...more }, text) => {
  const made = Object.assign(document.createElement(tag), more, { textContent: text });
  made.addEventListener("click", onClick);
  return made;
} };
config.whiteLabeling.createLogoComponentFn(standIn);
const columns = config.customizationService[0]["workList.columns"].$apply([{ id: "patient" }, { id: "actions" }]);
if (columns.map((one) => one.id).join() !== "patient,report,actions") throw new Error("columns");
document.body.append(columns[1].cell({ row: { original: { studyInstanceUid: "%s" } } }));"""
"""Draws the column of the configuration as a study list does."""


@pytest.fixture(scope="module")
def server(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ohif")
    add_user(folder / "users", "ann", "ann's secret")
    options = ("--auth-file", str(folder / "users"), "--identifiers")
    url = archive.url.replace("://", "://ann:secret@")
    viewer = "http://localhost:8042/viewer?StudyInstanceUIDs={uid}"
    with served(folder, *options, "--archive-url", url, "--viewer-url", viewer) as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1600, "height": 1000})
    made.set_default_timeout(60_000)
    yield made
    made.close()


def configuration(server: Served) -> str:
    """The configuration of OHIF, for a running server."""
    found = (ROOT / "scripts" / "deploy" / "ohif.js").read_text("utf-8")
    assert "https://review.example.org" in found
    return found.replace("https://review.example.org", server.url)


def arrived(page: Page) -> None:
    """Wait until the study is open, and check that no address has its UID."""
    page.wait_for_function("document.body.dataset.study && document.body.ariaBusy === 'false'")
    assert UID not in page.evaluate("location.href + document.referrer")


def logged_in(page: Page) -> None:
    page.wait_for_url("**/login*")
    page.fill("#name", "ann")
    page.fill("#password", "ann's secret")
    page.click("button")


def test_a_link_of_another_site_opens_the_study_after_the_login_and_leads_back(
    context: BrowserContext, server: Served
) -> None:
    script = f"{configuration(server)}\n{STAND_IN % UID}"
    content = f"<!doctype html><title>List</title><body><script>{script}</script></body>"
    context.route("http://list.example/**", lambda route: route.fulfill(body=content, content_type="text/html"))
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto("http://list.example/")
    with context.expect_page() as opened:
        page.click("text=Report")
    logged_in(opened.value)
    arrived(opened.value)
    assert drafted(opened.value) > 0
    link = opened.value.locator("#viewer-link")
    assert link.get_attribute("href") == f"http://localhost:8042/viewer?StudyInstanceUIDs={UID}"
    study = opened.value.evaluate("document.body.dataset.study")
    with context.expect_page() as again:  # the session goes on: its cookie is not sent with a link of another site
        page.click("text=Report")
    arrived(again.value)
    assert again.value.evaluate("document.body.dataset.study") == study
    assert not [url for url in asked if UID in url and not url.endswith(f"/ui/open.html#{UID}")]


def test_a_study_that_cannot_be_opened_is_said_with_the_reason(context: BrowserContext, server: Served) -> None:
    page = context.new_page()
    page.goto(f"{server.url}/ui/open.html#1.2.3.4.5.6")
    logged_in(page)
    page.wait_for_selector("text=The archive has no such study, or none with radiographs.")
    page.goto(f"{server.url}/ui/open.html#1.2.3/../4")
    page.wait_for_selector("text=The link names no study")
    assert not page.is_visible("#viewer-link")


class Files(SimpleHTTPRequestHandler):
    """OHIF's files with a configuration of the test, and the archive below /dicom-web."""

    config = ""
    archive: Archive

    def do_GET(self) -> None:
        if self.path.startswith("/dicom-web/"):
            asked = urllib.request.Request(f"http://127.0.0.1:{self.archive.port}{self.path}")
            asked.add_header("Authorization", "Basic YW5uOnNlY3JldA==")  # ann:secret
            asked.add_header("Accept", self.headers.get("accept", "*/*"))
            try:
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    self._send(200, answer.headers["content-type"], answer.read())
            except urllib.error.HTTPError as error:
                self._send(error.code, "text/plain", b"")
        elif self.path == "/app-config.js":
            self._send(200, "text/javascript", self.config.encode())
        else:
            if not Path(self.translate_path(self.path)).is_file():
                self.path = "/index.html"
            super().do_GET()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def ohif(folder: Path, archive: Archive, config: str) -> Iterator[str]:
    """Serve OHIF as npm has it; yields its address, which is another site than 127.0.0.1."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed (Debian: apt-get install npm)")
    subprocess.run([npm, "pack", OHIF, "--silent"], cwd=folder, check=True, timeout=600)
    (packed,) = folder.glob("*.tgz")
    shutil.unpack_archive(packed, folder, filter="data")
    handler = type("Configured", (Files,), {"config": config, "archive": archive})
    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder / "package" / "dist")))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{serving.server_port}"
    finally:
        serving.shutdown()
        serving.server_close()


@pytest.mark.nightly
def test_ohifs_study_list_and_viewer_have_the_link(
    tmp_path: Path, context: BrowserContext, server: Served, archive: Archive
) -> None:
    source = {
        "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb", "sourceName": "dicomweb",
        "configuration": {
            "friendlyName": "Orthanc", "qidoRoot": "/dicom-web", "wadoRoot": "/dicom-web", "imageRendering": "wadors",
            "thumbnailRendering": "wadors", "qidoSupportsIncludeField": False,
        },
    }  # fmt: skip
    more = {
        "routerBasename": None, "extensions": [], "modes": [], "showStudyList": True, "dataSources": [source],
        "defaultDataSourceName": "dicomweb", "investigationalUseDialog": {"option": "never"},
    }  # fmt: skip
    config = f"{configuration(server)}\nObject.assign(window.config, {json.dumps(more)});"
    with ohif(tmp_path, archive, config) as url:
        page = context.new_page()
        page.goto(f"{url}/?mrn=P-{UID}")
        with context.expect_page() as opened:
            page.locator(f"a[href$='#{UID}']").first.click()
        logged_in(opened.value)
        arrived(opened.value)
        page.goto(f"{url}/viewer?StudyInstanceUIDs={UID}")
        page.locator(f"a[href='{server.url}/ui/open.html#{UID}']").first.wait_for()  # OHIF's tour lies over it
