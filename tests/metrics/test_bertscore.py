"""BERTScore on a small RoBERTa, against cosines taken by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaModel

from metrics.base import InputError, WeightsError
from metrics.bertscore import BERTScore
from scripts.random_models import reports


def by_hand(folder: Path, candidate: str, reference: str, layers: int) -> list[float]:
    """Greedy matching of cosines between the tokens' states (Zhang et al., section 3).

    As in the package, start and end are not matched themselves, but others may be matched with them.
    """
    bpe = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), add_prefix_space=True)
    model = RobertaModel.from_pretrained(folder).eval()
    states = []
    for text in (candidate, reference):
        ids = [0, *bpe.encode(text).ids[:62], 2]
        with torch.inference_mode():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layers][0]
        states.append(torch.nn.functional.normalize(hidden, dim=-1))
    cosines = states[0] @ states[1].T
    precision, recall = (cosines.max(dim=side).values[1:-1].mean().item() for side in (1, 0))
    return [precision, recall, 2 * precision * recall / (precision + recall)]


@pytest.mark.parametrize("layers", [2, 3])
def test_scores_are_those_of_tokens_with_their_prefix_space(roberta: Path, layers: int) -> None:
    candidates = [*reports(3, words=12), " ".join(reports(3, words=60)), "effusion"]
    references = [*reports(3, words=12, seed=5), reports(1, words=30, seed=6)[0], "pneumothorax is seen"]
    found = BERTScore(roberta, layers=layers, batch_size=3).score(candidates, references)
    names = ("bertscore_precision", "bertscore_recall", "bertscore_f1")
    for row, pair in enumerate(zip(candidates, references, strict=True)):
        ours = [found.per_sample[name][row] for name in names]
        assert ours == pytest.approx(by_hand(roberta, *pair, layers), abs=2e-5)
    assert found["bertscore_f1"] == pytest.approx(found.per_sample["bertscore_f1"].mean())


def test_a_text_with_itself_scores_one_and_an_empty_one_zero(roberta: Path) -> None:
    text = "The lungs are clear."
    found = BERTScore(roberta, layers=2).score([text, "", text, " \n", ""], [text, text, "", text, ""])
    assert found.per_sample["bertscore_f1"].tolist() == pytest.approx([1, 0, 0, 0, 0], abs=1e-6)


def test_the_baseline_is_a_file_and_never_guessed(roberta: Path, tmp_path: Path) -> None:
    pairs = reports(2, words=8), reports(2, words=8, seed=1)
    plain = BERTScore(roberta, layers=2).score(*pairs)
    table = tmp_path / "baseline.tsv"
    table.write_text("LAYER,P,R,F\n1,0.1,0.1,0.1\n2,0.2,0.3,0.5\n")
    rescaled = BERTScore(roberta, layers=2, baseline=table).score(*pairs)
    for name, base in (("bertscore_precision", 0.2), ("bertscore_recall", 0.3), ("bertscore_f1", 0.5)):
        assert rescaled[name] == pytest.approx((plain[name] - base) / (1 - base))
    assert "rescaled:no" in plain.signature and "rescaled:no" not in rescaled.signature
    with pytest.raises(InputError, match="has no layer 3"):
        BERTScore(roberta, layers=3, baseline=table)
    table.write_text("nonsense\n")
    with pytest.raises(InputError, match="not a BERTScore baseline"):
        BERTScore(roberta, layers=2, baseline=table)


def test_models_that_cannot_be_used_are_named(roberta: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"which layer of .* is not known") as error:
        BERTScore(roberta)
    assert "--bertscore-layers" in str(error.value.hint)
    with pytest.raises(InputError, match="has layers 1 to 3, not 9"):
        BERTScore(roberta, layers=9)
    with pytest.raises(WeightsError, match="hub repository nobody/nothing"):
        BERTScore("nobody/nothing", layers=1)
    with pytest.raises(WeightsError, match="cannot be loaded"):
        BERTScore(tmp_path, layers=1)
    with pytest.raises(WeightsError, match=r"nowhere is no folder"):
        BERTScore(tmp_path / "nowhere", layers=1)


def test_longer_texts_than_the_model_takes_are_cut(roberta: Path) -> None:
    long = " ".join(reports(5, words=80))
    found = BERTScore(roberta, layers=2).score([long], [long])
    assert np.isclose(found["bertscore_f1"], 1)
