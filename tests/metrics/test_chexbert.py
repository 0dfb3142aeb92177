"""CheXbert on random weights in the published form, against the package f1chexbert's own code."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics.annotations import read, refuse_constant
from metrics.base import InputError, WeightsError
from metrics.chexbert import CheXbert, load_labeler
from metrics.labels import CLASSES
from scripts.random_models import F1CheXbert, reports, write_bert, write_chexbert

ODD = [
    "",
    "   \n ",
    "Normal",
    "No  effusion.\n\nHeart\tnormal. ",
    "effusion " * 700,
    "Ünknown wörds 漢字 [SEP] ok",
    "!?",
]


def test_labels_equal_the_package(bert: Path, chexbert: Path) -> None:
    texts = [*reports(60, words=30), *(text for text in ODD if "[SEP]" not in text)]
    expected = F1CheXbert(chexbert, bert).label(texts)
    assert np.unique(np.array(expected)[:, :13]).tolist() == [0, 1, 2, 3], "the stand-in must use every label"
    found = CheXbert(chexbert, vocabulary=bert).label(texts)
    assert found.tolist() == expected
    assert found.shape == (len(texts), len(CLASSES))
    assert set(found[:, 13]) <= {0, 1}


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_and_order_change_nothing(bert: Path, chexbert: Path, batch_size: int) -> None:
    texts = [*reports(12, words=20, seed=1), *ODD]
    expected = dict(zip(texts, CheXbert(chexbert, vocabulary=bert).label(texts).tolist(), strict=True))
    random.Random(0).shuffle(texts)
    found = CheXbert(chexbert, vocabulary=bert).label(texts, batch_size=batch_size)
    assert found.tolist() == [expected[text] for text in texts]


def test_equal_texts_run_once(bert: Path, chexbert: Path) -> None:
    labeler = CheXbert(chexbert, vocabulary=bert)
    rows = labeler.label(["No effusion.", "Effusion.", "No effusion."])
    assert labeler.forwards == 2
    assert rows[0].tolist() == rows[2].tolist()


@pytest.mark.parametrize(("prefix", "positions"), [("module.", False), ("", True)])
def test_every_published_layout_loads(tmp_path: Path, bert: Path, chexbert: Path, prefix: str, positions: bool) -> None:
    other = write_chexbert(tmp_path / "chexbert.pth", bert, prefix=prefix, positions=positions)
    texts = reports(5, words=10)
    expected = CheXbert(chexbert, vocabulary=bert).label(texts)
    assert CheXbert(tmp_path, vocabulary=bert / "vocab.txt").label(texts).tolist() == expected.tolist()
    assert load_labeler(other, bert / "config.json").linear_heads[13].out_features == 2


def test_files_that_are_not_chexbert_are_refused(tmp_path: Path, bert: Path, chexbert: Path) -> None:
    path = tmp_path / "chexbert.pth"
    saved = torch.load(chexbert, weights_only=True)
    state = dict(saved["model_state_dict"])
    del state["module.linear_heads.7.weight"]
    torch.save({"model_state_dict": state}, path)
    with pytest.raises(WeightsError, match=r"linear_heads\.7\.weight is missing \(1 missing, 0 unknown\)"):
        CheXbert(path, vocabulary=bert).label(["a"])
    torch.save({"model_state_dict": saved["model_state_dict"] | {"module.extra": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match="extra does not belong there"):
        CheXbert(path, vocabulary=bert).label(["a"])
    with pytest.raises(WeightsError, match=r"is missing \(160 missing, 0 unknown\)"):
        load_labeler(chexbert)  # two layers in place of twelve
    wide = write_bert(tmp_path / "wide", size=64, layers=2, heads=2)
    with pytest.raises(WeightsError, match="has another shape"):
        load_labeler(chexbert, wide / "config.json")
    path.write_bytes(chexbert.read_bytes()[:4000])
    with pytest.raises(WeightsError, match=r"chexbert\.pth cannot be read as CheXbert's weights"):
        CheXbert(path, vocabulary=bert).label(["a"])


def test_missing_files_are_named_with_their_cure(bert: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        WeightsError, match=r"StanfordAIMI/RRG_scorers:chexbert\.pth is not in the cache and downl"
    ) as at:
        CheXbert(vocabulary=bert)
    assert "--chexbert FILE" in str(at.value.hint)
    with pytest.raises(WeightsError, match="does not exist"):
        CheXbert(tmp_path / "none.pth", vocabulary=bert)


def test_bfloat16_is_another_model_in_caches_and_signatures(bert: Path, chexbert: Path) -> None:
    half = CheXbert(chexbert, vocabulary=bert, precision="bfloat16")
    assert half.weights_id != CheXbert(chexbert, vocabulary=bert).weights_id
    texts = reports(40, words=20)
    agreement = (half.label(texts) == CheXbert(chexbert, vocabulary=bert).label(texts)).mean()
    assert agreement > 0.9  # random heads are full of near ties


def test_a_vocabulary_of_another_model_is_noticed(tmp_path: Path, bert: Path, chexbert: Path) -> None:
    other = write_bert(tmp_path, size=32, layers=2, heads=2)
    lines = (other / "vocab.txt").read_text().splitlines()
    (other / "vocab.txt").write_text(
        "\n".join(line if line.startswith("[") else f"ж{n}" for n, line in enumerate(lines))
    )
    labeler = CheXbert(chexbert, vocabulary=other)
    labeler.label(["No pleural effusion."])
    assert labeler.warnings == ["CheXbert does not know over 20 % of the tokens of some report: check --bert-vocab"]


def test_a_model_that_says_the_same_of_everything_is_refused(tmp_path: Path, bert: Path, chexbert: Path) -> None:
    saved = torch.load(chexbert, weights_only=True)
    for name, value in saved["model_state_dict"].items():
        if "linear_heads" in name and name.endswith("weight"):
            value.zero_()
    torch.save(saved, tmp_path / "chexbert.pth")
    with pytest.raises(WeightsError, match="the same result for all 25 different reports"):
        CheXbert(tmp_path, vocabulary=bert).label(reports(25, words=10))
    refuse_constant(["a", "b"] * 30, [[1]] * 60, "two texts say nothing and")


def test_a_table_of_labels_without_one_observation_is_named() -> None:
    row = {"id": "1", **dict.fromkeys(CLASSES, "0")}
    assert read([row], ["1"], name="t.csv") == {"chexbert": {"1": [2] * len(CLASSES)}}  # CheXbert codes negative as 2
    del row["Fracture"]
    with pytest.raises(InputError, match=r"^t\.csv, row 1: there is no column 'Fracture'$"):
        read([row], ["1"], name="t.csv")
