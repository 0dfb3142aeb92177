"""Browser: reviews against a server with the embedded model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from llava_rad.generation.sources import example
from scripts.soak.serving import GATED, Served, served

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]
AXE_SCREENS = ("review", "signed", "worklist", "statistics")
TOKENS = 4
"""Tokens that a test releases at a time."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("review"), "--no-example", first=GATED) as running:
        yield running


@pytest.fixture
def gate(server: Served) -> Iterator[Path]:
    """File whose size is the number of tokens that a draft may have, until a test removes it."""
    file = server.data.parent / "gate"
    file.touch()
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def page(browser_page: Page, server: Served) -> Page:
    return ready(browser_page, server.url)


def ready(page: Page, url: str) -> Page:
    """Open the page and wait until its first study is open, if there is one."""
    page.goto(url)
    page.wait_for_selector("body[aria-busy=false]")
    return page


def upload(page: Page, file: Path | str) -> str:
    """Open an image, wait until its pixels are painted, and return the study's id."""
    before = page.evaluate("document.body.dataset.study")
    page.set_input_files("#file", file)
    page.wait_for_function(
        "before => document.body.dataset.study && document.body.dataset.study !== before", arg=before
    )
    painted(page)
    return str(page.evaluate("document.body.dataset.study"))


def painted(page: Page, viewer: str = "#viewer") -> dict[str, Any]:
    page.wait_for_function(
        "viewer => JSON.parse(document.querySelector(viewer)?.dataset.state || '{}').painted", arg=viewer
    )
    return state_of(page, viewer)


def state_of(page: Page, viewer: str = "#viewer") -> dict[str, Any]:
    """State of a viewer after pending painting."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found: dict[str, Any] = json.loads(page.eval_on_selector(viewer, "one => one.dataset.state"))
    return found


def drafted(page: Page) -> int:
    """Wait until the draft is written and return the number of its sentences."""
    page.wait_for_selector("#sentences li")
    page.wait_for_selector("#stream", state="hidden")
    return page.locator("#sentences li").count()


def decide(page: Page, number: int, action: str) -> None:
    """Click on a sentence, then on one of its buttons."""
    row = page.locator("#sentences li.lr-sentence").nth(number)
    row.locator(".lr-text").click()
    row.locator(f".lr-do-{action}").click()


def all_decided(page: Page) -> None:
    page.wait_for_function("document.querySelector('#left').textContent === 'all decided'")


def said(page: Page, words: str) -> None:
    page.wait_for_function("words => document.querySelector('#message').textContent.includes(words)", arg=words)


def signed(page: Page) -> str:
    return str(page.text_content(".lr-signed p"))


def sign(page: Page) -> None:
    """Accept every sentence of the draft and sign."""
    for number in range(drafted(page)):
        decide(page, number, "accept")
    all_decided(page)
    page.click("#sign")
    page.wait_for_selector(".lr-signed")


def shown_part(page: Page, gate: Path, before: str) -> str:
    """Let the server write a few more tokens and return the part of the draft that the page then shows."""
    with gate.open("ab") as stream:
        stream.write(bytes(TOKENS))
    page.wait_for_function("before => document.querySelector('#stream').textContent.length > before.length", arg=before)
    return str(page.text_content("#stream"))


def test_a_radiologist_reads_corrects_and_signs_the_example(page: Page, gate: Path, tmp_path: Path) -> None:
    upload(page, str(example()))
    assert page.text_content("#study-view") == "PA"
    first = shown_part(page, gate, "")
    second = shown_part(page, gate, first)
    assert page.is_disabled("#sign")
    gate.unlink()
    count = drafted(page)
    page.click("#sign")
    said(page, "sentences are still to be decided")
    rows = page.locator("#sentences li")
    drafts = rows.locator(".lr-text").all_text_contents()
    assert second.startswith(first) and " ".join(drafts).startswith(second), "shown while it is written"

    decide(page, 0, "accept")
    decide(page, 1, "edit")
    page.fill(".lr-editor", "No pulmonary oedema.")
    page.keyboard.press("Enter")
    for number in range(2, count):
        decide(page, number, "reject")
    all_decided(page)
    page.click("#add")
    page.fill("#new-sentence", "Several large rounded opacities in both lungs.")
    page.keyboard.press("Enter")
    page.wait_for_function("count => document.querySelectorAll('#sentences li').length === count", arg=count + 1)
    page.click("#sign")
    page.wait_for_selector(".lr-signed")
    text = signed(page)
    assert text.split(". ")[0] + "." == drafts[0]
    assert "No pulmonary oedema." in text and "Several large rounded opacities" in text
    assert all(draft not in text for draft in drafts[2:])

    with page.expect_download() as download:
        page.click("#export-json")
    download.value.save_as(tmp_path / "report.json")
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["ai_generated"] is True and "Not for clinical use" in record["notice"]
    with page.expect_download() as download:
        page.click("#export-text")
    download.value.save_as(tmp_path / "report.txt")
    assert "Not for clinical use" in (tmp_path / "report.txt").read_text()


def test_window_level_zoom_and_keys_change_what_is_shown(page: Page) -> None:
    upload(page, str(example()))
    box = page.locator("#viewer canvas").first.bounding_box()
    assert box is not None
    before = state_of(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y - 60, steps=5)
    page.mouse.up()
    moved = state_of(page)
    assert moved["width"] != before["width"] and moved["center"] != before["center"]
    page.mouse.wheel(0, -240)
    page.wait_for_function(
        "zoom => JSON.parse(document.querySelector('#viewer').dataset.state).zoom > zoom", arg=before["zoom"]
    )
    page.keyboard.press("i")
    page.wait_for_function("JSON.parse(document.querySelector('#viewer').dataset.state).inverted")
    page.keyboard.press("r")
    page.wait_for_function("!JSON.parse(document.querySelector('#viewer').dataset.state).inverted")
    assert state_of(page)["center"] == before["center"]


def test_attention_maps_are_shown_with_their_note(page: Page) -> None:
    upload(page, str(example()))
    drafted(page)
    page.locator("#sentences li").nth(0).click()
    page.click(".lr-do-show")
    page.wait_for_function("document.querySelector('#evidence-note').textContent.includes('not proof')")
    assert state_of(page)["overlay"]
    page.click("#encoder-map")
    page.wait_for_function("document.querySelector('#evidence-note').textContent.includes('encoder looked')")
    page.click("#encoder-map")
    page.wait_for_function("document.querySelector('#evidence-note').textContent === ''")


@pytest.mark.acceptance(row=13)
def test_a_refused_file_leaves_the_open_study_and_nothing_of_its_own(page: Page, tmp_path: Path) -> None:
    study = upload(page, str(example()))
    count = drafted(page)
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(np.random.default_rng(0).bytes(5000))
    page.set_input_files("#file", bad)
    page.wait_for_selector("#message.lr-error")
    said(page, "The file was not opened")
    assert page.evaluate("document.body.dataset.study") == study and page.locator("#sentences li").count() == count
    assert "still the one before" in (page.text_content("#message") or "")
    assert state_of(page)["painted"]


@pytest.mark.acceptance(row=13)
def test_a_second_study_while_the_first_is_being_drafted(page: Page, gate: Path, tmp_path: Path) -> None:
    first = upload(page, str(example()))
    shown_part(page, gate, "")
    other = tmp_path / "other.png"
    Image.fromarray(np.asarray(np.random.default_rng(1).integers(0, 255, (400, 400)), np.uint8)).save(other)
    second = upload(page, other)
    assert second != first and page.evaluate("location.hash") == f"#{second}"
    gate.unlink()
    drafted(page)
    page.evaluate("id => { location.hash = id; }", first)
    page.wait_for_function("id => document.body.dataset.study === id", arg=first)
    drafted(page)
    assert page.evaluate("document.body.dataset.study") == first


@pytest.mark.acceptance(row=13)
def test_two_tabs_do_not_overwrite_each_other(page: Page) -> None:
    study = upload(page, str(example()))
    drafted(page)
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_function("id => document.body.dataset.study === id", arg=study)
    drafted(other)
    decide(other, 0, "reject")
    other.wait_for_selector("#sentences li.lr-is-rejected")
    decide(page, 0, "accept")
    said(page, "changed elsewhere")
    page.wait_for_selector("#sentences li.lr-is-rejected")
    other.close()


@pytest.mark.acceptance(row=25)
def test_the_whole_review_by_keyboard_alone(page: Page) -> None:
    upload(page, str(example()))
    count = drafted(page)
    page.wait_for_function("document.activeElement.closest('#sentences li')")
    page.keyboard.press("a")
    page.wait_for_selector("#sentences li.lr-is-accepted")
    page.keyboard.press("e")
    page.keyboard.type("Typed: ")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sentences li.lr-is-edited")
    page.keyboard.press("Control+z")
    page.wait_for_selector("#sentences li.lr-is-edited", state="detached")
    for _ in range(count):
        page.keyboard.press("x")  # goes on to the next that is undecided
    page.keyboard.press("n")
    page.keyboard.type("A sentence of my own.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sentences li.lr-is-added")
    all_decided(page)
    page.keyboard.press("Control+Shift+Enter")
    page.wait_for_selector(".lr-signed")
    assert "A sentence of my own." in signed(page)


def test_a_prior_is_shown_next_to_the_current_image_and_moves_with_it(page: Page) -> None:
    upload(page, str(example()))
    page.set_input_files("#prior-file", str(example()))
    page.wait_for_selector("#prior-viewer", state="visible")
    painted(page, "#prior-viewer")
    page.locator("#viewer canvas").first.hover()
    page.mouse.wheel(0, -240)
    zoom = "JSON.parse(document.querySelector('{}').dataset.state).zoom"
    page.wait_for_function(f"{zoom.format('#viewer')} > 1")
    page.wait_for_function(f"{zoom.format('#viewer')} === {zoom.format('#prior-viewer')}")
    page.click("#remove-prior")
    page.wait_for_selector("#prior-viewer", state="hidden")


def test_signed_reports_can_be_reopened_and_found(page: Page) -> None:
    study = upload(page, str(example()))
    sign(page)
    page.click("#reopen")
    page.wait_for_function("document.querySelector('#study-status').textContent.includes('version 2')")
    page.get_by_role("tab", name="Worklist").click()
    page.fill("#search", study[:8])
    page.wait_for_function("document.querySelectorAll('#studies tbody tr').length === 1")
    assert page.locator(f"tr[data-study='{study}']").count() == 1
    page.get_by_role("tab", name="Statistics").click()
    page.wait_for_selector(".lr-tile")
    assert "Sentences accepted" in (page.text_content("#statistics") or "")


@pytest.mark.acceptance(row=25)
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.nightly)])
def test_no_accessibility_violation_of_ours(browser_page: Page, server: Served, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser_page
    ready(page, f"{server.url}/?__theme={theme}")
    upload(page, str(example()))
    drafted(page)
    found: dict[str, list[Any]] = {}
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}

    def check(screen: str) -> None:
        violations = Axe().run(page, options=options).response["violations"]
        found[screen] = [(one["id"], [node["target"] for node in one["nodes"]]) for one in violations]

    check("review")
    sign(page)
    check("signed")
    page.get_by_role("tab", name="Worklist").click()
    page.wait_for_selector("#studies tbody tr")
    check("worklist")
    page.get_by_role("tab", name="Statistics").click()
    page.wait_for_selector(".lr-tile")
    check("statistics")
    assert found == {screen: [] for screen in AXE_SCREENS}
