"""Browser: no text runs as a script, drafts survive reloads and lost connections, users see only their own studies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.accounts import add_user
from llava_rad.generation.sources import example
from scripts.soak.serving import Served, picture, served
from tests.app.browser.test_review_page import all_decided, decide, drafted, ready, upload

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
SCRIPTS = (
    "<script>ran()</script>", "<img src=x onerror=ran()>", "<svg onload=ran()>", "\"><script>ran()</script>",
    "'-ran()-'", "javascript:ran()", "{{constructor.constructor('ran()')()}}", "${ran()}",
    "<iframe srcdoc='<script>parent.ran()</script>'>",
)  # fmt: skip
NAMES = ("ann", "bob", *(f"user{number}" for number in range(8)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that shows file names."""
    with served(tmp_path_factory.mktemp("safety"), "--no-example", "--show-paths") as running:
        yield running


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with accounts for ten users; the password of NAME is "NAME's secret"."""
    folder = tmp_path_factory.mktemp("people")
    for name in NAMES:
        add_user(folder / "users", name, f"{name}'s secret")
    with served(folder, "--auth-file", str(folder / "users")) as running:
        yield running


def logged_in(browser: Browser, server: Served, name: str, *, after: str = "") -> Page:
    """Log in on a fresh profile, after an attempt with the password ``after``."""
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)  # ten browsers share two cores
    page.goto(server.url)
    page.wait_for_url("**/login")
    for password in [after, f"{name}'s secret"] if after else [f"{name}'s secret"]:
        page.fill("#name", name)
        page.fill("#password", password)
        page.click("button")
        page.wait_for_selector(".refusal:not(:empty)" if password == after else "body[aria-busy=false]")
    return page


@pytest.mark.acceptance(row=16)
def test_no_text_becomes_a_script(browser_page: Page, server: Served, tmp_path: Path) -> None:
    page = browser_page
    ran: list[str] = []
    page.expose_function("ran", lambda: ran.append("ran"))
    ready(page, server.url)
    for number, script in enumerate(SCRIPTS):
        file = tmp_path / f"{number} {script.replace('/', '∕')}.png"
        file.write_bytes(picture(number))
        upload(page, file)
        assert script.replace("/", "∕") in (page.text_content("#study-name") or "")
        page.eval_on_selector("#fields", "one => { one.open = true; }")
        for name in ("indication", "comparison", "prior_report"):
            page.fill(f"#field-{name}", script)
            page.keyboard.press("Tab")
    drafted(page)
    for script in SCRIPTS:
        decide(page, 0, "edit")
        page.fill(".lr-editor", script)
        page.keyboard.press("Enter")
        page.wait_for_function(
            "text => document.querySelector('#sentences .lr-text').textContent.includes(text)", arg=script
        )
    for number in range(1, page.locator("#sentences li").count()):
        decide(page, number, "reject")
    all_decided(page)
    page.click("#sign")
    page.wait_for_selector(".lr-signed")
    assert page.text_content(".lr-signed p") == SCRIPTS[-1]
    page.reload()
    page.wait_for_selector(".lr-signed")
    page.get_by_role("tab", name="Worklist").click()
    page.wait_for_function("count => document.querySelectorAll('#studies tbody tr').length === count", arg=len(SCRIPTS))
    page.fill("#search", SCRIPTS[0])
    page.get_by_role("tab", name="Statistics").click()
    page.wait_for_selector(".lr-tile")
    assert ran == []


@pytest.mark.acceptance(row=12)
@pytest.mark.parametrize("pauses", [(0, 250), pytest.param((50, 120, 500), marks=pytest.mark.nightly)], ids=str)
@pytest.mark.parametrize("how", ["reload", "close", "cut"])
def test_a_draft_outlives_reload_closing_and_a_cut_line(
    browser: Browser, server: Served, how: str, pauses: tuple[int, ...]
) -> None:
    for pause in pauses:
        context = browser.new_context()
        context.set_default_timeout(60_000)
        page = context.new_page()
        ready(page, server.url)
        study = upload(page, str(example()))
        page.wait_for_timeout(pause)
        if how == "reload":
            page.reload()
        elif how == "close":
            page.close()
            page = context.new_page()
            page.goto(f"{server.url}/#{study}")
        else:
            context.set_offline(True)
            page.wait_for_timeout(300)
            context.set_offline(False)
        page.wait_for_function("id => document.body.dataset.study === id", arg=study)
        assert drafted(page) > 1
        context.close()


@pytest.mark.acceptance(row=14)
def test_two_people_on_one_server_see_their_own(browser: Browser, people: Served) -> None:
    pages = {name: logged_in(browser, people, name, after="wrong password") for name in ("ann", "bob")}
    study = upload(pages["ann"], str(example()))
    drafted(pages["ann"])
    pages["bob"].evaluate("id => { location.hash = id; }", study)
    pages["bob"].wait_for_selector("#message.lr-error")
    assert pages["bob"].locator("#sentences li").count() == 0
    assert pages["bob"].text_content("#study-name") == "No image"
    pages["ann"].click("#add")
    pages["ann"].keyboard.type("A finding that is not saved")
    assert "is not saved" in pages["ann"].evaluate("JSON.stringify(localStorage)")
    pages["ann"].get_by_role("button", name="Log out").click()
    pages["ann"].click("dialog >> text=Log out")
    pages["ann"].wait_for_url("**/login")
    assert "is not saved" not in pages["ann"].evaluate("JSON.stringify(localStorage)")
    pages["ann"].goto(f"{people.url}/#{study}")
    pages["ann"].wait_for_url("**/login*")
    for page in pages.values():
        page.context.close()


@pytest.mark.acceptance(row=9)
@pytest.mark.nightly
def test_eight_browsers_at_once_lose_nothing_and_mix_nothing_up(
    browser: Browser, people: Served, tmp_path: Path
) -> None:
    """Row 9 of the reliability table; ``scripts.soak.users`` does the same with fifty users over HTTP."""
    pages = [logged_in(browser, people, name) for name in NAMES[2:]]
    for number, page in enumerate(pages):
        file = tmp_path / f"{number}.png"
        file.write_bytes(picture(number))
        page.set_input_files("#file", file)
    for number, page in enumerate(pages):
        drafted(page)
        page.wait_for_function("document.activeElement.closest('#sentences li')")
        for _ in range(page.locator("#sentences li").count()):
            page.keyboard.press("x")
        page.keyboard.press("n")
        page.keyboard.type(f"Seen by user {number}.")
        page.keyboard.press("Enter")
    for page in pages:
        all_decided(page)
        page.keyboard.press("Control+Enter")
    for number, page in enumerate(pages):
        page.wait_for_selector(".lr-signed")
        assert page.text_content(".lr-signed p") == f"Seen by user {number}."
        page.get_by_role("tab", name="Worklist").click()
        page.wait_for_selector("#studies tbody tr")
        assert page.locator("#studies tbody tr").count() == 1
        page.context.close()
