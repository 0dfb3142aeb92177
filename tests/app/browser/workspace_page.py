"""The review page with a study open, as tests of the workspace use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripts.soak.serving import Client, Served, picture
from tests.app.browser.test_review_page import ready

if TYPE_CHECKING:
    from playwright.sync_api import Page

ACTIONS = "**/api/studies/*/actions"
ROWS = "#sentences li.lr-sentence"


def new_study(client: Client, seed: int = 1) -> str:
    return str(client.drafted(client.study(picture(seed))["id"])["id"])


def at(page: Page, server: Served, study: str) -> Page:
    """Open a study; the focus is then in its report."""
    ready(page, f"{server.url}/#{study}")
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    return page


def state(client: Client, study: str) -> dict[str, Any]:
    found: dict[str, Any] = client.call("GET", f"/api/studies/{study}").json()
    return found


def states(client: Client, study: str) -> list[str]:
    return [one["state"] for one in state(client, study)["sentences"]]


def texts(client: Client, study: str) -> list[str]:
    return [one["text"] for one in state(client, study)["sentences"]]


def saved(page: Page) -> None:
    """Wait until the server has every step."""
    page.evaluate("import('/ui/session.js').then(({ session }) => session.steps.settled(session.study.id))")


def selected(page: Page) -> int:
    """Number of the selected sentence, from 0."""
    script = "document.querySelectorAll('#sentences li.lr-sentence')"
    return int(page.evaluate(f"[...{script}].findIndex((one) => 'selected' in one.dataset)"))


def type_new(page: Page, text: str) -> None:
    page.keyboard.press("n")
    page.wait_for_selector("#new-sentence")
    page.keyboard.type(text)
