"""Browser: steps and texts that could not be saved: repeated, kept, put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts.soak.serving import Client
from tests.app.browser.test_review_page import said
from tests.app.browser.workspace_page import ACTIONS, ROWS, saved, selected, state, states, texts, type_new

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]


def test_a_failed_save_is_repeated_and_its_notice_goes_away(page: Page, client: Client, study: str) -> None:
    failures = iter(["cut", "busy", "lost"])

    def fail(route: Route) -> None:
        how = next(failures, None)
        if how == "cut":
            route.abort()
        elif how == "busy":
            route.fulfill(status=503, json={"error": "the server's database is used by another program"})
        elif how == "lost":
            route.fetch()  # the server saves it, and its answer is lost
            route.abort()
        else:
            route.continue_()

    page.route(ACTIONS, fail)
    page.keyboard.press("x")
    page.keyboard.press("a")
    said(page, "Not saved yet")
    said(page, "Everything is saved")
    assert page.locator("#message.lr-error").count() == 0
    assert states(client, study)[:3] == ["rejected", "accepted", "undecided"]
    events = state(client, study)["revision"]
    page.click("#undo")
    saved(page)
    assert states(client, study)[:2] == ["rejected", "undecided"] and state(client, study)["revision"] == events + 1


def test_typed_text_outlives_a_reload(page: Page, client: Client, study: str) -> None:
    type_new(page, "Left lower lobe opacity")
    page.reload()
    page.wait_for_selector("#unsent >> text=Left lower lobe opacity")
    page.click(".lr-put-back")
    assert page.input_value("#new-sentence") == "Left lower lobe opacity"
    page.keyboard.type(".")
    page.keyboard.press("Enter")
    saved(page)
    assert "Left lower lobe opacity." in texts(client, study)
    page.reload()
    page.wait_for_selector(ROWS)
    assert page.locator("#unsent").is_hidden()


def test_a_text_is_not_offered_while_it_is_typed_in_another_tab(page: Page, study: str) -> None:
    type_new(page, "Being typed")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(ROWS)
    assert other.locator("#unsent").is_hidden()
    page.goto("about:blank")
    other.reload()
    other.wait_for_selector("#unsent >> text=Being typed")


def test_sentences_that_the_server_has_are_not_offered_again(page: Page, client: Client, study: str) -> None:
    def lose(route: Route) -> None:
        route.fetch()  # the server saves it, and its answer is lost
        route.abort()

    page.route(ACTIONS, lose)
    type_new(page, "")
    page.fill("#new-sentence", "One.\nTwo.")
    page.keyboard.press("Enter")
    said(page, "Not saved yet")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.wait_for_selector(f"{ROWS} >> text=Two.")
    assert page.locator("#unsent").is_hidden() and texts(client, study)[1:3] == ["One.", "Two."]


def test_typed_texts_outlive_conflicts_with_another_window(page: Page, client: Client, study: str) -> None:
    for text in ("first of mine", "second of mine"):
        page.locator(ROWS).nth(0).locator(".lr-text").dblclick()
        page.fill(".lr-editor", text)
        other = state(client, study)
        assert client.act(other, "edit", sentence="s1", text=f"theirs, before the {text}").status == 200
        page.keyboard.press("Enter")
        said(page, "changed elsewhere")
        page.wait_for_selector(f"#unsent >> text={text}")
    assert page.locator(".lr-kept").count() == 2
    assert texts(client, study)[0] == "theirs, before the second of mine"
    page.locator(".lr-kept", has_text="second").locator(".lr-put-back").click()
    page.keyboard.press("Enter")
    saved(page)
    assert texts(client, study)[0] == "second of mine"


def test_changes_of_other_sentences_in_two_windows_are_both_kept(page: Page, client: Client, study: str) -> None:
    assert client.act(state(client, study), "reject", sentence="s2").status == 200
    page.keyboard.press("a")
    said(page, "your change was added")
    assert states(client, study)[:2] == ["accepted", "rejected"]


def test_text_outlives_the_end_of_the_session(page: Page, client: Client, study: str) -> None:
    page.route(ACTIONS, lambda route: route.fulfill(status=401, json={}))
    page.keyboard.press("e")
    page.fill(".lr-editor", "Typed when the session ended.")
    page.keyboard.press("Enter")
    page.wait_for_url("**/login")
    page.unroute(ACTIONS)
    page.goto(page.url.removesuffix("login"))
    page.wait_for_selector("#unsent >> text=Typed when the session ended.")
    assert page.evaluate("document.body.dataset.study") == study
    page.click(".lr-put-back")
    page.keyboard.press("Enter")
    saved(page)
    assert texts(client, study)[0] == "Typed when the session ended."


def test_a_half_typed_text_is_kept_and_still_to_be_decided(page: Page, client: Client, study: str) -> None:
    count = len(states(client, study))
    page.keyboard.press("e")
    page.fill(".lr-editor", "The heart is")
    page.locator("#viewer canvas").click()
    saved(page)
    assert texts(client, study)[0] == "The heart is" and states(client, study)[0] == "undecided"
    assert page.text_content("#left") == f"{count} to decide"
    page.keyboard.press("Control+Enter")
    said(page, f"{count} sentences are still to be decided")
    assert selected(page) == 0
