"""The metrics as modules of the ``evaluate`` library, without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluate
import pytest

from metrics.base import InputError
from metrics.evaluate_modules import LabelF1, load
from scripts.random_models import reports
from tests.metrics.conftest import Lexical


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's cache folder stays empty: texts of reports are nobody else's."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "cache")
    yield
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size]


def test_golden_values(golden: dict[str, Any], lexical: Lexical) -> None:
    texts = {"predictions": lexical.candidates, "references": lexical.references}
    corpus = golden["lexical"]["corpus"]
    rouge = load("rouge_l")
    assert isinstance(rouge, evaluate.Metric)
    found = rouge.compute(**texts, per_sample=True)
    assert found["rouge_l"] == pytest.approx(corpus["rougeL_mean"])
    assert found["rouge_l_per_sample"] == pytest.approx([row["rougeL"] for row in golden["lexical"]["rows"]])
    assert rouge.signature.startswith("rouge_l|")
    assert load("bleu_4").compute(**texts)["bleu_4"] == pytest.approx(corpus["sacrebleu_corpus"] / 100)
    assert load("rouge_l_stem").compute(**texts) == {"rouge_l_stem": pytest.approx(corpus["rougeL_stem_mean"])}
    labels = golden["chexbert"]
    found = LabelF1().compute(predictions=labels["hyp"], references=labels["ref"], uncertain="positive")
    assert found["macro_f1_14+"] == pytest.approx(labels["uncertain_positive"]["macro14_zd0"])


def test_combined_and_in_batches(lexical: Lexical) -> None:
    texts = {"predictions": lexical.candidates, "references": lexical.references}
    combined = evaluate.combine([load("rouge_l"), load("bleu_4")])
    expected = load("rouge_l").compute(**texts)
    assert combined.compute(**texts) == expected | load("bleu_4").compute(**texts)
    rouge = load("rouge_l")
    for start in range(0, 16, 5):
        rouge.add_batch(
            predictions=lexical.candidates[start : start + 5], references=lexical.references[start : start + 5]
        )
    assert rouge.compute() == expected


def test_models_are_read_at_the_first_computation(
    bert: Path, chexbert: Path, archives: dict[str, Path], roberta: Path, tmp_path: Path
) -> None:
    texts = {"predictions": reports(4, words=10), "references": reports(4, words=10)}
    labels = load("chexbert", chexbert=tmp_path / "chexbert.pth", bert_vocab=bert)
    graphs = load("rg_er", radgraph=tmp_path / "radgraph.tar.gz", radgraph_tokenizer=bert)
    (tmp_path / "chexbert.pth").symlink_to(chexbert)
    (tmp_path / "radgraph.tar.gz").symlink_to(archives["radgraph"])
    assert labels.compute(**texts)["chexbert_samples_f1_14"] > 0
    assert 0 < graphs.compute(**texts)["rg_er"] <= 1
    scores = load("bertscore", bertscore_model=str(roberta), bertscore_layers=2)
    assert scores.compute(**texts)["bertscore_f1"] == pytest.approx(1)
    rules = load("rules", uncertain="positive")
    assert rules.compute(predictions=["Edema."], references=["Edema."])["rules_f1+/Edema"] == 1
    assert "labeler:rules-3:" in str(rules.signature)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="no metric 'rouge'"):
        load("rouge")
    with pytest.raises(InputError, match="no metric has an option 'weights'"):
        load("chexbert", weights="chexbert.pth")


def test_the_finding_metric() -> None:
    from metrics.findings.metric import reward

    pairs = ["Right effusion.", "Pneumonia."], ["Left effusion.", "No acute disease."]
    found = load("findings").compute(predictions=pairs[0], references=pairs[1], per_sample=True)
    assert found["findings_per_sample"] == reward(*pairs)
    assert found["findings"] == pytest.approx(sum(found["findings_per_sample"]) / 2)
