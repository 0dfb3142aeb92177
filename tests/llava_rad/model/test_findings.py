"""Probabilities of findings: calibration, levels, file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from encoder.errors import ModelError
from llava_rad.model.checkpoint import FINDINGS
from llava_rad.model.findings import Findings

WIDTH, IMAGES = 4, 1500
PHRASES = {"Effusion": ["pleural effusion", "effusion"], "Mass": ["mass"]}


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, the true probabilities of two findings (logistic in the features), and labels drawn from them."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(IMAGES, 2 * WIDTH, generator=rng) * 3 + 1
    truth = torch.sigmoid((features - 1) @ torch.randn(2 * WIDTH, 2, generator=rng) * 0.15 - 1.5)
    return features, truth, (torch.rand(IMAGES, 2, generator=rng) < truth).double()


@pytest.fixture(scope="module")
def fitted(drawn: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> Findings:
    features, _, labels = drawn
    return Findings.fit(features, labels, range(IMAGES), PHRASES)


def test_probabilities_are_those_the_labels_were_drawn_from(
    drawn: tuple[torch.Tensor, torch.Tensor, torch.Tensor], fitted: Findings
) -> None:
    features, truth, _ = drawn
    assert (fitted.probabilities(features) - truth).abs().mean() < 0.05


def test_levels_have_the_best_f1_and_the_allowed_share_below(
    drawn: tuple[torch.Tensor, torch.Tensor, torch.Tensor], fitted: Findings
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    features, _, labels = drawn
    probs = fitted.probabilities(features).numpy()
    for column in range(2):
        truth = labels[:, column].numpy() == 1
        precision, recall, _ = metrics.precision_recall_curve(truth, probs[:, column])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert metrics.f1_score(truth, probs[:, column] >= float(fitted.high[column])) > best - 0.03
        assert np.mean(probs[truth, column] < float(fitted.low[column])) == pytest.approx(0.2, abs=0.04)
        assert fitted.low[column] < fitted.high[column]


def test_an_image_is_unsure_between_the_levels() -> None:
    known = Findings(PHRASES, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2), torch.tensor([0.3, 0.3]),
                     torch.tensor([0.6, 0.6]))  # fmt: skip
    odds = torch.logit(torch.tensor([[0.2, 0.4], [0.5, 0.7], [0.59, 0.31]]))
    assert known.unsure(odds) == [("Mass",), ("Effusion",), ("Effusion", "Mass")]


def test_it_is_kept_in_a_file_and_belongs_to_one_width(tmp_path: Path, fitted: Findings) -> None:
    file = tmp_path / FINDINGS
    fitted.save(file)
    again = Findings.load(file, WIDTH)
    asked = torch.randn(3, 2 * WIDTH, generator=torch.Generator().manual_seed(1))
    assert again is not None and torch.allclose(again.probabilities(asked), fitted.probabilities(asked))
    assert again.phrases == {name: tuple(words) for name, words in PHRASES.items()}
    assert Findings.load(tmp_path / "none.safetensors", WIDTH) is None
    with pytest.raises(ModelError, match="another encoder"):
        Findings.load(file, WIDTH + 1)
    Findings(PHRASES | {"Mass": [" "]}, fitted.weight, fitted.bias, fitted.low, fitted.high).save(file)
    with pytest.raises(ModelError, match="without words"):
        Findings.load(file, WIDTH)
    file.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be read"):
        Findings.load(file, WIDTH)
