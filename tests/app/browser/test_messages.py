"""Browser: messages end with what they say, and the focus stays where the reader works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts.soak.serving import Client, Served
from tests.app.browser.test_review_page import ready, said
from tests.app.browser.workspace_page import at, new_study, saved, state, type_new

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]


def test_messages_about_a_report_end_with_what_they_say(browser_page: Page, server: Served, client: Client) -> None:
    studies = [new_study(client, seed) for seed in (31, 32)]
    page = at(browser_page, server, studies[1])
    page.keyboard.press("Control+Shift+Enter")
    said(page, "still to be decided")
    page.keyboard.press("Shift+j")
    page.wait_for_function("id => document.body.dataset.study === id", arg=studies[0])
    page.wait_for_selector("#message-box", state="hidden")
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    page.keyboard.press("Control+Shift+Enter")
    said(page, "still to be decided")
    page.keyboard.press("Shift+a")
    page.wait_for_selector("#message-box", state="hidden")
    saved(page)
    client.act(state(client, studies[0]), "undecide", sentence="s1")
    page.keyboard.press("Control+Shift+Enter")
    said(page, "changed elsewhere")
    page.keyboard.press("Shift+a")
    page.keyboard.press("Control+Shift+Enter")
    page.wait_for_selector("#study-status >> text=signed")
    page.wait_for_selector("#message-box", state="hidden")


def test_the_focus_stays_in_the_report_when_a_button_goes(page: Page, client: Client, study: str) -> None:
    """Reopen, then dictate: the keys and the text would go nowhere."""
    page.click("#accept-rest")
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    page.click("#sign")
    page.wait_for_selector("#reopen:visible")
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    page.click("#reopen")
    page.wait_for_selector("#discard:visible")
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    type_new(page, "Addendum.")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Shift+Enter")
    page.wait_for_selector(".lr-signed >> text=version 2")
    assert "Addendum." in state(client, study)["signed"][1]["text"]
    page.click("#reopen")
    page.click("#discard")
    page.wait_for_selector("#restore:visible")
    page.wait_for_function("document.activeElement.closest('#sentences li')")


def test_only_time_at_a_visible_review_counts(page: Page) -> None:
    seconds = page.evaluate(
        """async () => {
          const { Clock } = await import('/ui/clock.js');
          let now = performance.now();
          performance.now = () => now;
          let visible = 'visible';
          Object.defineProperty(document, 'visibilityState', { get: () => visible });
          const clock = new Clock();
          const tick = (kind, after) => { now += 1000 * after; dispatchEvent(new Event(kind)); };
          tick('keydown', 10);
          document.body.dataset.tab = 'worklist';
          tick('pointermove', 20);
          tick('pointermove', 30);
          document.body.dataset.tab = 'review';
          tick('pointermove', 1);
          visible = 'hidden';
          tick('visibilitychange', 5);
          visible = 'visible';
          tick('visibilitychange', 40);
          tick('pointermove', 100);
          delete document.visibilityState;
          return clock.take();
        }"""
    )
    assert seconds == 10 + 5 + 60


def test_the_end_of_a_search_is_not_the_end_of_the_worklist(browser_page: Page, server: Served, client: Client) -> None:
    studies = [new_study(client, seed) for seed in (41, 42)]
    page = browser_page
    ready(page, f"{server.url}/#worklist")
    page.fill("#search", state(client, studies[1])["sha256"][:16])
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.closest('tbody th')")
    assert page.locator("#studies tbody tr").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    page.keyboard.press("Shift+a")
    page.keyboard.press("Control+Enter")
    said(page, "no further open study among those that the worklist's filter and search show")
    page.keyboard.press("Shift+j")
    said(page, "There is no further open study among")
