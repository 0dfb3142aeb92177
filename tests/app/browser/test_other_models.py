"""Browser: the draft of a model that others trained is corrected, signed and exported as a structured report."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

import llava_rad
from scripts.soak.serving import served
from tests.app.browser.test_review_page import all_decided, decide, drafted, ready, signed, upload
from tests.app.browser.test_without_model import exported
from tests.llava_rad import small_files, vision_language

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
CORRECTED = "The heart is not enlarged."


@pytest.mark.nightly
def test_a_draft_of_a_vision_language_model_is_corrected_signed_and_exported(
    browser_page: Page, replica: Callable[[str], Path], tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    folder = replica(vision_language.FAST)
    profile = str(folder / "profile.yaml")
    image = small_files.dicom(tmp_path / "a.dcm", seed=1)
    (expected,) = llava_rad.generate(image, folder, profile=profile, device="cpu")
    options = ("--model", str(folder), "--profile", profile, "--device", "cpu", "--no-example")
    with served(tmp_path, *options) as running:
        browser_page.set_default_timeout(300_000)  # the server imports torch and transformers before the first draft
        page = ready(browser_page, running.url)
        study = upload(page, image)
        count = drafted(page)
        shown = page.locator("#sentences li .lr-text").all_text_contents()
        assert " ".join(shown).split() == expected.text.split()
        assert folder.name in str(page.text_content("#model"))
        sentence = running.client().call("GET", f"/api/studies/{study}").json()["sentences"][0]["id"]
        refused = running.client().call("GET", f"/api/studies/{study}/evidence?sentence={sentence}")
        assert refused.status >= 400 and b"has no attention maps" in refused.body
        decide(page, 0, "edit")
        page.fill(".lr-editor", CORRECTED)
        page.keyboard.press("Enter")
        for number in range(1, count):
            decide(page, number, "accept")
        all_decided(page)
        page.click("#sign")
        page.wait_for_selector(".lr-signed")
        assert signed(page).startswith(CORRECTED)
        document = exported(page, "#export-sr")
    found = highdicom.sr.srread(io.BytesIO(document))
    assert (found.Modality, found.CompletionFlag, found.VerificationFlag) == ("SR", "COMPLETE", "VERIFIED")
    read = pydicom.dcmread(io.BytesIO(document))
    assert CORRECTED in [element.value for element in read.iterall() if element.keyword == "TextValue"]
