"""Browser: drafts of others and reports that begin empty are opened, edited, signed and exported without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.soak.serving import Served, served
from tests.app.browser.test_review_page import decide, painted, ready, signed
from tests.llava_rad import small_files

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
CLEAR, LARGE = "The lungs are clear.", "The heart is large."


def exported(page: Page, link: str) -> bytes:
    with page.expect_download() as download:
        page.click(link)
    return Path(download.value.path()).read_bytes()


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("imported")
    (folder / "images").mkdir()
    small_files.dicom(folder / "images" / "a.dcm", seed=1)
    rows = [{"image": "a.dcm", "prediction": f"Findings: {CLEAR} {LARGE} Impression: Large heart."},
            {"image": "b.dcm", "prediction": CLEAR}]  # fmt: skip
    (folder / "drafts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--drafts", f"Dr. A={folder / 'drafts.jsonl'}", "--worklist", str(folder / "images"))
    with served(folder, *options) as running:
        yield running


def test_a_draft_of_others_is_edited_signed_and_exported(browser_page: Page, imported: Served) -> None:
    page = browser_page
    page.goto(f"{imported.url}/#worklist")
    page.wait_for_selector("#imported >> text=1 of 2 drafts of Dr. A belong to studies")
    page.click("#imported summary")
    page.wait_for_selector("#imported >> text=row 2: no image fits it")
    ready(page, imported.url)
    painted(page)
    page.wait_for_selector("#sentences li.lr-sentence >> nth=2")
    assert page.text_content("#model") == "drafts of Dr. A"
    assert page.is_hidden("#write") and page.is_hidden("#stop") and not page.text_content("#progress")
    impression = page.locator('[data-section="impression"] li.lr-sentence')
    assert impression.count() == 1 and "Large heart." in str(impression.text_content())
    decide(page, 0, "accept")
    decide(page, 1, "edit")
    page.keyboard.press("Control+a")
    page.keyboard.type("The heart is not large.")
    page.keyboard.press("Enter")
    decide(page, 2, "reject")
    page.wait_for_function("document.querySelector('#left').textContent === 'all decided'")
    page.click("#sign")
    page.wait_for_selector(".lr-signed")
    assert signed(page) == f"{CLEAR} The heart is not large."
    assert b"Draft by: Dr. A" in exported(page, "#export-text")
    record = json.loads(exported(page, "#export-json"))
    assert [one["state"] for one in record["sentences"]] == ["accepted", "edited", "rejected"]
    assert exported(page, "#export-sr")[128:132] == b"DICM"
    assert json.loads(exported(page, "#export-fhir"))["resourceType"] == "Bundle"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("empty"), "--no-model", "--no-example") as running:
        yield running


def test_an_empty_report_is_written_from_macros_signed_and_exported(
    browser_page: Page, empty: Served, tmp_path: Path
) -> None:
    image = small_files.dicom(tmp_path / "a.dcm", seed=2)
    page = ready(browser_page, empty.url)
    page.set_input_files("#file", image)
    page.wait_for_function("document.body.dataset.study")
    painted(page)
    assert page.text_content("#model") == "no model" and page.is_hidden("#write") and page.is_hidden("#stream")
    page.click("#add")
    page.keyboard.type(".normal ches")
    page.wait_for_selector("text=Tab: .normal chest")  # macros are loaded
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#sentences li.lr-sentence >> nth=3")
    page.click("#add-impression")
    page.keyboard.type("Normal chest.")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#left').textContent === 'all decided'")
    page.click("#sign")
    page.wait_for_selector(".lr-signed")
    assert CLEAR in signed(page) and "Normal chest." in signed(page)
    assert b"Without a draft" in exported(page, "#export-text")
    assert page.is_hidden("#export-documents")
