"""Browser: a study with all inputs and boxes, drafted by a replica of MAIRA-2 with fixed output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llava_rad.conversion.published import convert
from scripts.soak.serving import Served, served
from tests.app.browser.test_review_page import decide, drafted, painted, ready, state_of, upload
from tests.app.browser.viewer_page import READ, base64_pixels
from tests.llava_rad import small_files
from tests.llava_rad.conversion import replicas

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.acceptance(row=26)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("boxes")
    convert("maira-2", replicas.maira_2_with_boxes(folder / "source"), folder / "model")
    options = ("--no-example", "--model", str(folder / "model"), "--max-new-tokens", "40", "--device", "cpu")
    with served(folder, *options) as running:
        yield running


def amber(page: Page) -> Any:
    """Left, top, right and bottom of the selected sentence's boxes on the canvas, or None."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    colours = base64_pixels(*page.eval_on_selector("#viewer canvas", READ))
    rows, columns = np.nonzero((colours[..., 0] > 200) & (colours[..., 2] < 80))
    return (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else None


def expected(page: Page, side: int = 96) -> Any:
    """Position on the canvas of the box of bins 10, 20, 30, 40, at the current zoom."""
    state = state_of(page)
    shares = zip((state["x"], state["y"]) * 2, (0.105, 0.205, 0.305, 0.405), strict=True)
    return pytest.approx([at + share * side * state["scale"] for at, share in shares], abs=3)


def type_into(page: Page, field: str, text: str) -> None:
    page.eval_on_selector("#fields", "one => { one.open = true; }")
    page.fill(f"#field-{field}", text)
    page.locator(f"#field-{field}").blur()


@pytest.mark.parametrize("theme", ["dark", pytest.param("light", marks=pytest.mark.nightly)])
def test_a_study_with_all_inputs_is_drafted_with_boxes_and_reviewed(
    browser_page: Page, server: Served, tmp_path: Path, theme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser_page
    ready(page, f"{server.url}/?__theme={theme}")
    study = upload(page, small_files.dicom(tmp_path / "frontal.dcm"))
    drafted(page)
    page.wait_for_selector("#grounded", state="visible")
    assert page.text_content("#given") == (
        "Given to the model with the image: lateral, prior with its report, indication, technique, comparison."
    )
    assert state_of(page)["boxes"] == 0 and not page.is_checked("#grounded"), "boxes are asked for"

    page.set_input_files("#lateral-file", small_files.dicom(tmp_path / "lateral.dcm", seed=1, ViewPosition="LL"))
    painted(page, "#lateral-viewer")
    page.set_input_files("#prior-file", small_files.dicom(tmp_path / "prior.dcm", seed=2))
    painted(page, "#prior-viewer")
    assert page.is_hidden("#lateral-viewer") and page.is_visible("#linked")
    page.click("#images [data-which=lateral]")
    page.wait_for_selector("#lateral-viewer", state="visible")
    assert page.is_hidden("#prior-viewer") and page.is_hidden("#linked")
    assert page.text_content("#study-view") == "PA"
    for field in ("indication", "technique", "comparison", "prior_report"):
        type_into(page, field, "the heart")
    page.wait_for_function("document.querySelector('#outdated').textContent.includes('changed')")

    page.check("#grounded")
    page.click("#write")
    page.wait_for_selector(".lr-note:has-text('1 box')")
    page.wait_for_function("document.querySelector('#outdated').textContent === ''")
    record = json.loads(server.client().call("GET", f"/api/studies/{study}/report.json").body)
    texts = dict.fromkeys(("indication", "technique", "comparison", "prior_report"), "the heart")
    assert record["inputs"].keys() == {*texts, "lateral", "prior", "grounded"} and record["fields"] == texts

    rows = page.locator("#sentences li")
    assert (rows.nth(0).get_attribute("aria-label") or "").startswith("Sentence 1 of 2, to decide, 1 box: The heart")
    rows.nth(0).focus()
    assert amber(page) == expected(page)
    page.locator("#viewer canvas").hover()
    page.mouse.wheel(0, -240)
    page.wait_for_function("JSON.parse(document.querySelector('#viewer').dataset.state).zoom > 1")
    page.locator("#viewer canvas").press("ArrowLeft")
    assert amber(page) == expected(page)
    page.locator("#viewer canvas").press("f")
    rows.nth(1).focus()
    assert amber(page) is None and state_of(page)["boxes"] == 1, "faint: another sentence is selected"
    decide(page, 0, "edit")
    page.fill(".lr-editor", "The heart is large.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".lr-note:has-text('1 box of the draft')")
    violations = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).response
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in violations["violations"]] == []

    page.reload()
    painted(page)
    page.wait_for_selector(".lr-note:has-text('1 box of the draft')")
    assert page.is_checked("#grounded") and page.input_value("#field-technique") == "the heart"
    rows.nth(0).focus()
    assert amber(page) == expected(page)
    decide(page, 0, "reject")
    page.wait_for_selector("#sentences li.lr-is-rejected")
    assert state_of(page)["boxes"] == 0 and page.locator(".lr-note").count() == 0

    type_into(page, "indication", "Cough <image>")
    page.click("#write")
    page.click("dialog >> button.lr-primary")
    page.wait_for_function("document.querySelector('#progress').textContent.includes('a token of the model')")
    assert rows.count() == 2 and page.input_value("#field-indication") == "Cough <image>"
