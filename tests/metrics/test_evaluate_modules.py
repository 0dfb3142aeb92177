"""The metrics as modules of the ``evaluate`` library, without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import evaluate
import pytest

from metrics.evaluate_modules import BERTScoreF1, Bleu4, CheXbertF1, LabelF1, RadGraphF1, RougeL, RulesF1
from scripts.random_models import reports, write_bert, write_chexbert, write_radgraph
from tests.metrics.conftest import Lexical
from tests.metrics.test_bertscore import roberta  # noqa: F401


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library's cache folder stays empty: texts of reports are nobody else's."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "cache")
    yield
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size]


def test_golden_values(golden: dict[str, Any], lexical: Lexical) -> None:
    texts = {"predictions": lexical.candidates, "references": lexical.references}
    corpus = golden["lexical"]["corpus"]
    rouge = RougeL()
    assert isinstance(rouge, evaluate.Metric)
    found = rouge.compute(**texts, per_sample=True)
    assert found["rouge_l"] == pytest.approx(corpus["rougeL_mean"])
    assert found["rouge_l_per_sample"] == pytest.approx([row["rougeL"] for row in golden["lexical"]["rows"]])
    assert rouge.signature.startswith("rouge_l|")
    assert Bleu4().compute(**texts)["bleu_4"] == pytest.approx(corpus["sacrebleu_corpus"] / 100)
    assert rouge.compute(**texts, variant="rouge_l_stem") == {"rouge_l_stem": pytest.approx(corpus["rougeL_stem_mean"])}
    labels = golden["chexbert"]
    found = LabelF1().compute(predictions=labels["hyp"], references=labels["ref"], uncertain="positive")
    assert found["macro_f1_14+"] == pytest.approx(labels["uncertain_positive"]["macro14_zd0"])


def test_combined_and_in_batches(lexical: Lexical) -> None:
    texts = {"predictions": lexical.candidates, "references": lexical.references}
    combined = evaluate.combine([RougeL(), Bleu4()])
    assert combined.compute(**texts) == RougeL().compute(**texts) | Bleu4().compute(**texts)
    rouge = RougeL()
    for start in range(0, 16, 5):
        rouge.add_batch(
            predictions=lexical.candidates[start : start + 5], references=lexical.references[start : start + 5]
        )
    assert rouge.compute() == RougeL().compute(**texts)


def test_models_are_read_at_the_first_computation(tmp_path: Path, roberta: Path) -> None:  # noqa: F811
    bert = write_bert(tmp_path / "bert", size=32, layers=2, heads=2)
    texts = {"predictions": reports(4, words=10), "references": reports(4, words=10)}
    chexbert = CheXbertF1(model={"weights": tmp_path / "chexbert.pth", "vocabulary": bert})
    radgraph = RadGraphF1(model={"path": tmp_path / "radgraph.tar.gz", "tokenizer": bert})
    write_chexbert(tmp_path / "chexbert.pth", bert)
    write_radgraph(tmp_path / "radgraph.tar.gz", bert, hidden=40)
    assert chexbert.compute(**texts)["chexbert_samples_f1_14"] > 0
    assert 0 < radgraph.compute(**texts)["rg_er"] <= 1
    bertscore = BERTScoreF1(model={"model": roberta, "layers": 2})
    assert bertscore.compute(**texts)["bertscore_f1"] == pytest.approx(1)
    rules = RulesF1()
    assert rules.compute(predictions=["Edema."], references=["Edema."])["rules_f1/Edema"] == 1
    assert "labeler:rules-1:" in str(rules.signature)
