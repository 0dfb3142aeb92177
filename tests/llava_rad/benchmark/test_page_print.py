"""The results page on paper: no column is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_rad.benchmark.page import page
from llava_rad.benchmark.scoring import score
from llava_rad.benchmark.summary import Origin, Summary
from llava_rad.benchmark.task import Case, Task
from metrics.base import Settings
from metrics.bootstrap import Bootstrap
from tests.browser import chromium

pytestmark = pytest.mark.browser
WIDTH = round((297 - 2 * 10) / 25.4 * 96)
"""CSS pixels of A4 landscape between margins of 10 mm."""


def test_wide_tables_fit_the_paper(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    cases = [Case(f"id-{n}", f"The heart is {'large' if n % 3 else 'normal'}.", subject=f"p{n}") for n in range(12)]
    task = Task("csv", "test", cases, strata={"sex": ["F", "M"] * 6})
    models = {f"a-model-with-a-long-name-{n}": task.references for n in range(16)}
    scored = score(task, models, {}, Settings(metrics=("rouge_l", "bleu_4", "rules")), Bootstrap(5, permutations=10))
    (tmp_path / "index.html").write_text(page(Summary(task, scored, Origin()), models, {}, {}, lambda row: None))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        sheet = browser.new_page(viewport={"width": WIDTH, "height": 700})
        sheet.goto((tmp_path / "index.html").as_uri())
        ends = "[...document.querySelectorAll('th, td')].map(cell => cell.getBoundingClientRect().right)"
        assert max(sheet.evaluate(ends)) > WIDTH, "on the screen such tables are scrolled"
        sheet.emulate_media(media="print")
        assert max(sheet.evaluate(ends)) <= WIDTH
        assert sheet.evaluate("[...document.querySelectorAll('.wide')].every(x => x.scrollWidth <= x.clientWidth)")
        browser.close()
