"""Tables and page: numbers of the evaluation in every form, notes, escaping."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from llava_rad.benchmark.page import page, plots
from llava_rad.benchmark.scoring import Agreement, score
from llava_rad.benchmark.summary import Origin, Summary
from llava_rad.benchmark.task import Case, Task
from metrics.base import Settings
from metrics.bootstrap import Bootstrap

EVIL = '<script>alert("1")</script> & <b>heart</b>'


def task(name: str = "csv", reports: int = 30) -> Task:
    texts = [f"The heart is {'large' if n % 3 else 'normal'}. Effusion {n}." for n in range(reports)]
    cases = [Case(f"id-{n}", text, subject=f"p{n}") for n, text in enumerate(texts)]
    return Task(name, "test", cases, strata={"ethnicity": ["x"] * 10 + ["y"] * (reports - 12) + ["unknown"] * 2})


def summary(
    found: Task,
    texts: list[str] | None = None,
    made: Origin | None = None,
    metrics: tuple[str, ...] = ("rouge_l", "rules"),
) -> Summary:
    models = {"A": found.references, "B_1%": texts or ["The heart is normal."] * len(found.cases)}
    scored = score(
        found,
        models,
        {"random": list(reversed(found.references))},
        Settings(metrics=metrics, min_group=10),
        Bootstrap(50, 1),
    )
    return Summary(found, scored, made or Origin(points={"random": "the report of another patient"}))


def test_the_papers_row_stands_beside_with_its_number_of_reports() -> None:
    text = summary(task("mimic-cxr"), metrics=("rouge_l", "bleu_4")).to_text()
    assert re.search(r"paper: RAD-DINO +24\.6 \[24\.2, 25\.0\] +9\.3 \[8\.9, 9\.7\]", text)
    assert "The paper's numbers are of 2,461 reports, these of 30: they cannot be compared." in text
    assert "paper" not in summary(task("csv")).to_text().lower()
    jpeg = summary(task("mimic-cxr-jpg")).to_markdown()
    assert "| CLIP@224 | 256 | 23.0 [22.7, 23.4] |" in jpeg


def test_medians_and_intervals_are_those_of_the_evaluation() -> None:
    found = summary(task())
    interval = found.scored.evaluation.models[1].intervals["rouge_l"]
    assert interval.median is not None and interval.low is not None and interval.high is not None
    shown = f"{100 * interval.median:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    for text in (found.to_text(), found.to_markdown(), found.to_latex()):
        assert shown in text


def test_intervals_by_patient_stand_below_those_by_report() -> None:
    found = summary(task())
    lines = found.to_text().splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("B_1%"))
    interval = found.scored.evaluation.models[1].by_patient["rouge_l"]
    assert interval.low is not None and interval.high is not None
    ends = f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    assert lines[row + 1].split("  ", 2)[1] == "by patient" and lines[row + 1].split("  ", 2)[2].strip().startswith(
        ends
    )
    assert "By patient: 30 patients are resampled with all their reports" in found.to_text()
    bare = task()
    bare = replace(bare, cases=[replace(case, subject="") for case in bare.cases])
    text = summary(bare).to_text()
    assert "every report counts as a patient of its own" in text and "\n  by patient" not in text
    studies = summary(replace(bare, cases=[replace(case, study="s") for case in bare.cases])).to_text()
    assert "No column of patients: by patient, every study counts as a patient of its own." in studies


def test_what_is_not_computed_is_said() -> None:
    text = summary(task("mimic-cxr"), metrics=("rouge_l", "chexbert")).to_text()
    assert "not computed" in text and "CheXbert Macro-F1-14 was not computed: " in text


def test_the_main_table_has_one_score_of_each_metric() -> None:
    names = summary(task(), metrics=("rouge_l", "findings", "bleu_2_sentence", "rules")).columns
    assert names == ["rouge_l", "findings", "bleu_2_sentence", "rules_macro_f1_14"]


def test_few_different_reports_are_said() -> None:
    notes = " ".join(summary(task()).notes())
    assert "B_1% wrote 1 different reports for 30 images" in notes
    assert "A wrote" not in notes


def test_weak_metrics_are_named() -> None:
    """B writes one report for all images, which no metric distinguishes from reports of other patients."""
    found = summary(task())
    weak = " ".join(found.weak())
    assert "A is not shown to beat" not in weak
    assert re.search(r"B_1% is not shown to beat random by ROUGE-L", weak)


def test_groups_with_worst_gap_and_the_papers() -> None:
    found = summary(task("mimic-cxr"))
    (section,) = (one for one in found.sections() if one.heading == "By ethnicity")
    rows = {row[1]: row[2:] for row in section.cells[1:7]}
    assert section.cells[1][0] == "ROUGE-L"
    assert list(rows) == ["all", "x", "y", "unknown", "worst, n >= 10", "all minus worst"]
    strata = found.scored.evaluation.models[1].strata["ethnicity"]["rouge_l"]
    of_x = strata.groups["x"].score
    assert of_x is not None and of_x.point is not None and of_x.low is not None and of_x.high is not None
    shown = f"{100 * of_x.point:.1f} [{100 * of_x.low:.1f}, {100 * of_x.high:.1f}]"
    assert rows["all"][:3] == ["30", "30", "100.0 [100.0, 100.0]"] and rows["unknown"] == ["2", "", *["no group"] * 3]
    assert rows["x"][:4] == ["10", "10", "100.0 [100.0, 100.0]", shown], "points, not medians"
    assert rows["worst, n >= 10"][2] == "100.0 (x)" and rows["all minus worst"][2] == "0.0"
    assert "RAD-DINO 24.6, worst 16.6" in section.note


def test_agreement_is_a_table() -> None:
    made = Origin(protocol={"name": "fast"}, agreement={"A": Agreement(64, 3)})
    text = summary(task(), made=made).to_text()
    assert re.search(r"A +64 +3 +4\.7 % +\[1\.6, 12\.9\]", text)


def test_unreadable_images_and_samples_are_said() -> None:
    made = Origin(unreadable={"A": 2}, errors={"A": {"truncated": 2}})
    notes = " ".join(summary(replace(task(), sampled_from=900, missing=3), made=made).notes())
    assert "2 images could not be read and count as empty reports (truncated: 2)" in notes
    assert "random sample of 30 of 900" in notes and "3 images of the data set are not there" in notes


def test_latex_is_escaped_and_balanced() -> None:
    text = summary(task()).to_latex()
    assert r"B\_1\%" in text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%_#]", body)
    assert body.count(r"\begin{tabular}") == body.count(r"\end{tabular}") >= 4
    tables = re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}(.*?)\\end", body, re.S)
    for columns, rows in tables:
        lines = [line for line in rows.splitlines() if line.endswith(r"\\")]
        assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {len(columns)}


class Tags(HTMLParser):
    """Parser that records the tags of a page and checks that they are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_texts_as_they_are_and_no_markup_of_theirs() -> None:
    found = task()
    found.cases[3] = Case(EVIL, EVIL, subject="p3")
    made = summary(found, [EVIL] * 30, Origin(models={"A": {}}, points={EVIL: EVIL}))
    pixels = np.zeros((56, 56), np.uint8)
    text = page(made, {"A": found.references, "B_1%": [EVIL] * 30}, {}, {"command": [EVIL]}, lambda row: pixels)
    tags = Tags(text)
    assert tags.open == [] and "script" not in tags.seen and "b" not in tags.seen
    assert "&lt;script&gt;" in text
    assert tags.seen.count("img") == text.count("data:image/png") == 20


def test_worst_and_best_are_worst_and_best() -> None:
    found = task()
    texts = list(found.references)
    texts[7], texts[9] = "nothing", "The heart"
    made = summary(found, texts)
    shown = page(made, {"A": found.references, "B_1%": texts}, None, {}, lambda row: None)
    part = shown[shown.index("Worst reports of B_1%") :]
    ids = re.findall(r"id-\d+", part[: part.index("Best reports of B_1%")])
    assert ids[:2] == ["id-7", "id-9"] and len(ids) == 5
    assert "matplotlib is not installed" in shown


@pytest.mark.parametrize("name", ["csv", "mimic-cxr"])
def test_plots_are_drawn_the_same_each_time(name: str) -> None:
    drawings = plots(summary(task(name)))
    assert drawings is not None and list(drawings) == [
        "Scores of all systems",
        "F1 by class",
        "Scores of single reports",
    ]
    assert all(data.startswith(b"<?xml") and b"</svg>" in data for data in drawings.values())
    assert ("paper" in drawings["Scores of all systems"].decode()) is (name == "mimic-cxr")
    assert plots(summary(task(name))) == drawings


def test_plots_need_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plots(summary(task())) is None
