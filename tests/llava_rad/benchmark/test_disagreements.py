"""Disagreements of models: their order, the findings that differ, and the page; models behind servers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llava_rad.benchmark.disagreements import disagreements, lines
from llava_rad.benchmark.page import page
from llava_rad.benchmark.scoring import score
from llava_rad.benchmark.summary import Origin, Summary
from llava_rad.benchmark.task import Case, Task
from metrics.base import Settings
from metrics.bootstrap import Bootstrap
from tests.llava_rad.benchmark.conftest import TEST, benchmark
from tests.llava_rad.standins.chat_server import NAME, grey, pictures, standing_in

CLEAR, EFFUSION, LARGE = "The lungs are clear.", "There is a left pleural effusion.", "The heart is enlarged."
TEXTS = {
    "A": [CLEAR, EFFUSION, LARGE, f"{LARGE} {EFFUSION}", ""],
    "B": [CLEAR, "There is no pleural effusion.", LARGE, LARGE, EFFUSION],
}


def test_cases_are_ordered_by_disagreement() -> None:
    found = disagreements(TEXTS)
    by_case = {one.case: one for one in found}
    assert [one.value for one in found] == sorted((one.value for one in found), reverse=True)
    assert by_case[0].value == by_case[2].value == 0 and [one.case for one in found[-2:]] == [0, 2]
    assert by_case[4].value == 1, "a text against none: the metric is 0"
    assert by_case[1].value > by_case[3].value > 0, "an opposite is more than a finding left out"
    assert by_case[1].positive == {"Pleural Effusion": ("A",)} and by_case[4].positive == {"Pleural Effusion": ("B",)}
    assert by_case[0].positive == {} and by_case[3].positive == {"Pleural Effusion": ("A",)}


def test_the_order_does_not_depend_on_that_of_the_models() -> None:
    texts = TEXTS | {"C": [CLEAR, CLEAR, LARGE, LARGE, LARGE]}
    one, other = disagreements(texts), disagreements(dict(reversed(texts.items())))
    assert [(found.case, round(found.value, 12)) for found in one] == [
        (found.case, round(found.value, 12)) for found in other
    ]


def test_lines_name_cases_by_id() -> None:
    rows = [json.loads(line) for line in lines(disagreements(TEXTS), list("vwxyz")).splitlines()]
    assert {row["id"] for row in rows} == set("vwxyz")
    assert next(row for row in rows if row["id"] == "w")["positive"] == {"Pleural Effusion": ["A"]}


def made(texts: dict[str, list[str]]) -> str:
    cases = [Case(f"id-{n}", LARGE, subject=f"p{n}") for n in range(5)]
    task = Task("csv", "test", cases)
    scored = score(task, texts, {}, Settings(metrics=("rouge_l",)), Bootstrap(5, permutations=10))
    found = disagreements(texts) if len(texts) > 1 else []
    pixels = np.zeros((40, 20), np.uint8)
    return page(Summary(task, scored, Origin()), texts, None, {}, lambda row: pixels, found)


def test_the_page_begins_with_disagreements_side_by_side() -> None:
    evil = "<script>alert(1)</script>"
    text = made({"A": TEXTS["A"], evil: TEXTS["B"]})
    section = text[text.index("Disagreements of the models") : text.index("Worst reports")]
    assert text.index("Scores") < text.index("Disagreements of the models") and evil not in text
    shown = re.findall(r'<div class="case several">.*?<p class="label">Reference</p>', section, re.DOTALL)
    assert len(shown) == 3 and "equal reports: 2" in section
    assert all(one.count("<img") == 1 and one.count('class="label"') == 3 for one in shown)
    assert EFFUSION in shown[0] and "<i>nothing</i>" in "".join(shown)
    assert "Disagreements" not in made({"A": TEXTS["A"]})


@pytest.mark.nightly
def test_models_behind_servers_are_compared_and_continued(pairs: Path, tmp_path: Path) -> None:
    with standing_in() as first, standing_in(reply=lambda body: f"{EFFUSION} {grey(body)}") as second:
        first.reply = lambda body: f"{CLEAR} {grey(body)}"
        models = ("--model", f"one={first.model}", "--model", f"two={second.model}", "--protocol", "fast",
                  "--batch-size", "3", "--agreement-sample", "0")  # fmt: skip
        benchmark(pairs, tmp_path / "r", *models)
        asked = len(first.questions)
        assert asked == len(second.questions) == TEST
        rows = [json.loads(line) for line in (tmp_path / "r/disagreements.jsonl").read_text().splitlines()]
        assert len(rows) == TEST and all(row["positive"] == {"Pleural Effusion": ["two"]} for row in rows)
        summary = json.loads((tmp_path / "r/summary.json").read_text())
        assert summary["models"]["one"]["id"] == f"openai:{NAME}" and "image_tokens" not in summary["models"]["one"]
        html = (tmp_path / "r/index.html").read_text()
        assert "Disagreements of the models" in html and first.url not in html.split("Choices, environment")[0]
        assert all(one.size[0] > 100 for body in first.questions for one in pictures(body))
        benchmark(pairs, tmp_path / "r", *models)
        assert len(first.questions) == asked, "nothing is written twice"


@pytest.mark.slow
def test_reports_of_others_are_shown_with_their_images(pairs: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()][:TEST]
    for name, text in (("a", CLEAR), ("b", EFFUSION)):
        content = "".join(json.dumps({"id": row["id"], "prediction": text}) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(content)
    files = ("--predictions", tmp_path / "a.jsonl", "--predictions", tmp_path / "b.jsonl")
    benchmark(pairs, tmp_path / "r", *files, "--reference-points", "none")
    assert (tmp_path / "r/index.html").read_text().count('<img alt="radiograph"') >= TEST
