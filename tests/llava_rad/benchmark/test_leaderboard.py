"""Leaderboards: published rows, columns of ours in their form, and submissions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_rad.benchmark import leaderboard
from llava_rad.benchmark.page import plots
from llava_rad.benchmark.scoring import score
from llava_rad.benchmark.summary import Origin, Summary
from llava_rad.benchmark.tables import read_table
from llava_rad.benchmark.task import Case, Task
from metrics.base import InputError, Settings
from metrics.boards import BOARDS
from metrics.bootstrap import Bootstrap
from metrics.registry import METRICS, SETS, checked_metrics

# RadCliQ-v1 of MIMIC-CXR as published before its inverse: results/findings_result_mimiccxr.csv at 164a602
RADCLIQ = {
    "CheXagent": 1.35, "CheXpertPlus-MIMIC": 1.269, "CheXpertPlus-CheX": 1.432, "CheXpertPlus-CheX-MIMIC": 1.242,
    "Cvt2distilgpt2-MIMIC": 1.391, "Cvt2distilgpt2-IU": 1.632, "MedVersa": 0.906, "RadFM": 1.539, "RaDialog": 1.252,
    "RGRG": 1.324, "VLCI-MIMIC": 1.47, "VLCI-IU": 1.669, "LLM-CXR": 1.939, "GPT4V": 1.791, "BiomedGPT-IU": 1.837,
    "MAIRA-2": 1.441,
}  # fmt: skip


def task(name: str = "rexrank", reports: int = 24, form: str = "CXR{}_IM-0001") -> Task:
    texts = [f"The heart is {'large' if n % 3 else 'normal'}. Effusion {n}." for n in range(reports)]
    cases = [Case(form.format(n), text, subject=f"p{n}") for n, text in enumerate(texts)]
    return Task(name, "test", cases, steps={"in the table": 590})


def summary(found: Task, metrics: tuple[str, ...]) -> Summary:
    models = {"ours": ["The heart is normal."] * len(found.cases)}
    scored = score(found, models, {}, Settings(metrics=metrics, min_group=10), Bootstrap(20, 1))
    return Summary(found, scored, Origin())


def test_published_rows_are_whole_and_agree_with_an_earlier_publication() -> None:
    found = leaderboard.published()
    assert {name: len(rows) for name, rows in found.items()} == {
        "iu-xray": 31, "mimic-cxr": 31, "chexpert-plus": 31, "rexgradient": 31,
    }  # fmt: skip
    for rows in found.values():
        assert len({row.model for row in rows}) == 31
        for row in rows:
            assert all(0 < value < 1 for name, value in row.values.items() if name != "1/RadCliQ-v1")
            assert 2023 <= row.year <= 2026
    inverse = {row.model: row.values["1/RadCliQ-v1"] for row in found["mimic-cxr"]}
    for model, value in RADCLIQ.items():
        assert inverse[model] == pytest.approx(1 / value, abs=1.1e-3)


@pytest.mark.parametrize(
    ("name", "form", "dataset"),
    [
        ("rexrank", "CXR{}_IM-1405", "iu-xray"),
        ("rexrank", "5{:07d}", "mimic-cxr"),
        ("rexrank", "valid/patient{:05d}/study1", "chexpert-plus"),
        ("rexrank", "study-{}", None),
        ("iu-xray", "CXR{}_IM-1405", None),
    ],
)
def test_the_data_set_of_a_file_is_known_by_its_ids(name: str, form: str, dataset: str | None) -> None:
    assert leaderboard.published_set(task(name, form=form)) == dataset


def test_columns_and_published_rows_are_in_every_output() -> None:
    found = summary(task(), ("rouge_l", "green", "bleu_4_coco"))
    text, markdown = found.to_text(), found.to_markdown()
    assert "Columns of ReXrank" in text and "not computed" in text
    assert "Published rows of ReXrank" not in text, "31 rows are too many for a terminal"
    assert "| MedVersa (Harvard) | 2024 | 0.206 | 0.527 | 0.606 | 0.235 | 1.460 | 0.650 | 0.631 |" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith(("| UniRG-CXR", "| MoERad-IU"))]
    assert [row.split("|")[1].strip() for row in rows] == ["UniRG-CXR (Microsoft Research)", "MoERad-IU (IIT Madras)"]
    assert "They are of all 590 studies of the file, ours of 24." in markdown
    content = leaderboard.to_json(found.task, found.scored.evaluation)
    assert content["rexrank"]["published"]["dataset"] == "iu-xray"
    assert len(content["rexrank"]["published"]["rows"]) == 31
    assert content["rexrank"]["columns"]["GREEN"] == {"metric": "green", "scores": {"ours": None}}
    assert list(content) == ["rexrank"]


def test_a_metric_that_this_version_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(METRICS, "green")
    found = summary(task(), ("rouge_l",))
    cells = leaderboard.table(BOARDS["rexrank"], found.scored.evaluation, ["ours"])
    assert cells[1][cells[0].index("GREEN")] == "not in this version"


def test_rrg24_is_shown_where_all_of_its_metrics_were_wanted() -> None:
    names = checked_metrics(["rrg24"])
    assert names == ("bleu_4_coco", "rouge_l_stem", "bertscore", "chexbert", "rg_er_xl") == SETS["rrg24"]
    found = summary(task("csv"), names)
    (cells,) = (one.cells for one in found.sections() if one.heading == "Columns of RRG24")
    row = dict(zip(cells[0], cells[1], strict=True))
    scores = found.scored.evaluation.models[0].intervals
    assert scores["bleu_4_coco"].point is not None
    assert row["BLEU4"].startswith(f"{100 * scores['bleu_4_coco'].point:.2f} [")
    assert row["F1-RadGraph"] == row["BERTScore"] == row["F1-CheXbert"] == "not computed"
    assert "RRG24" not in summary(task("csv"), ("rouge_l_stem", "bleu_4_coco")).to_text()


def test_names_of_sets_are_metrics() -> None:
    assert set(SETS) == {"paper", *BOARDS}
    assert checked_metrics(["paper"]) == ("rouge_l", "bleu_4", "rg_er", "chexbert")
    assert set(checked_metrics(["all"])) == set(METRICS)
    with pytest.raises(InputError, match="no metric 'rexranks'"):
        checked_metrics(["rexranks"])


def test_published_rows_are_drawn() -> None:
    drawings = plots(summary(task(), ("rouge_l",)))
    assert drawings is not None
    svg = drawings[leaderboard.FIGURE].decode()
    assert "31 published rows" in svg and "not computed here" in svg
    assert leaderboard.FIGURE not in (plots(summary(task("csv"), ("rouge_l",))) or {})


def test_a_submission_is_the_file_with_predictions(tmp_path: Path) -> None:
    entries = {
        "CXR2": {"key_image_path": "b.png", "section_findings": "Größe: normal.", "context": "Indication: x"},
        "CXR1": {"key_image_path": "a.png", "section_findings": "Clear.", "other": [1, None]},
    }
    file = tmp_path / "test.json"
    file.write_text(json.dumps(entries))
    text = leaderboard.submission(file, {"CXR1": "Lungs are clear."})
    found = json.loads(text)
    assert list(found) == ["CXR2", "CXR1"]
    assert {key: {**entry, "model_prediction": None} for key, entry in entries.items()} == {
        key: {**entry, "model_prediction": None} for key, entry in found.items()
    }
    assert [entry["model_prediction"] for entry in found.values()] == ["", "Findings: Lungs are clear."]
    (tmp_path / "mine.json").write_text(text)
    assert read_table(tmp_path / "mine.json", "prediction").texts == {"CXR2": "", "CXR1": "Lungs are clear."}
