"""Calibrated probabilities of findings from the encoder's features, with two decision levels for each finding.

A report states a finding or denies it and does not say how certain it is. The probabilities here are of a linear probe
on the features that ``llava_rad.model.familiarity`` describes: logistic regression, calibrated by Platt's scaling
(Platt 1999) on predictions for patients that the fit has not seen. A finding is likely present from its upper level on,
likely absent below its lower one, and cannot be judged between them.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import torch

from encoder.errors import ModelError
from encoder.json_files import parse_json

Phrases = Mapping[str, Sequence[str]]


class Findings:
    """Probabilities of L findings.

    Args:
        phrases: finding -> words by which reports of this model name it, the first one for messages.
        weight: [L, F].
        bias: [L].
        low: [L], probabilities below which the findings are taken as absent.
        high: [L], probabilities from which on they are taken as present; at least ``low``.
    """

    def __init__(
        self, phrases: Phrases, weight: torch.Tensor, bias: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> None:
        self.phrases = {name: tuple(words) for name, words in phrases.items()}
        self.weight, self.bias, self.low, self.high = weight.float(), bias.float(), low.float(), high.float()

    @classmethod
    def fit(
        cls,
        features: torch.Tensor,
        labels: torch.Tensor,
        patients: Sequence[Hashable],
        phrases: Phrases,
        missed: float = 0.2,
    ) -> Findings:
        """Fit the probe, its calibration and both levels by five folds of patients.

        The upper level has the best F1. The lower one is the highest below which at most a share ``missed`` of the
        images with the finding lies, and never above the upper level.

        Args:
            features: [n, F], of ``Familiarity.describe``.
            labels: [n, L], 1 or 0, in the order of ``phrases``; both are needed for each finding in each part.
            patients: [n], of the images.
            phrases: of the findings.
            missed: share of the images with a finding that may lie below its lower level.
        """
        from encoder.probing.logistic import (
            FOLDS,
            average_precision,
            choose_c,
            folds,
            logistic_regression,
            standardise,
        )

        features, labels = features.double(), labels.double()
        known, fold = torch.ones_like(labels), torch.from_numpy(folds(patients))
        c = choose_c(features, labels, known, patients, average_precision)
        unseen = torch.zeros_like(labels)
        for number in range(FOLDS):
            fit, held = fold != number, fold == number
            inside, outside = standardise(features[fit], features[held])
            weights, bias = logistic_regression(inside, labels[fit], known[fit], [c])
            unseen[held] = outside @ weights[..., 0] + bias[:, 0]
        weights, bias = logistic_regression(standardise(features)[0], labels, known, [c])
        mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)  # those of standardise
        weight = (weights[..., 0] / std[:, None]).t()
        bias = bias[:, 0] - weight @ mean
        probs = torch.zeros_like(labels)
        for column in range(labels.shape[1]):
            slope, shift = _platt(unseen[:, column], labels[:, column])
            weight[column] *= slope
            bias[column] = slope * bias[column] + shift
            probs[:, column] = torch.sigmoid(slope * unseen[:, column] + shift)
        levels = [_levels(*columns, missed) for columns in zip(probs.t(), labels.t(), strict=True)]
        low, high = (torch.tensor(side) for side in zip(*levels, strict=True))
        return cls(phrases, weight, bias, low, high)

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Probabilities [B, L] for features [B, F], as ``Familiarity.describe`` returns them."""
        return torch.sigmoid(features.float() @ self.weight.t() + self.bias)

    def unsure(self, features: torch.Tensor) -> list[tuple[str, ...]]:
        """Names of each image's findings that cannot be judged, for features [B, F]."""
        probs = self.probabilities(features)
        between = (probs >= self.low) & (probs < self.high)
        names = list(self.phrases)
        return [tuple(name for name, one in zip(names, row, strict=True) if one) for row in between.tolist()]

    def save(self, file: Path) -> None:
        """Write ``findings.safetensors`` of a checkpoint."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name).cpu().contiguous() for name in ("weight", "bias", "low", "high")}
        save_file(tensors, file, {"phrases": json.dumps(self.phrases)})

    @classmethod
    def load(cls, file: Path, width: int, device: torch.device | str = "cpu") -> Findings | None:
        """Read the file that ``save`` wrote; None if it does not exist.

        Args:
            file: path in the checkpoint.
            width: width D of the encoder's patch vectors.
            device: device of the computation.

        Raises:
            ModelError: if it is damaged or for another encoder.
        """
        from safetensors import SafetensorError, safe_open

        if not file.is_file():
            return None
        try:
            with safe_open(file, "pt", device=str(device)) as opened:
                phrases = parse_json((opened.metadata() or {})["phrases"])
                tensors = [opened.get_tensor(name) for name in ("weight", "bias", "low", "high")]
            named = {str(name): [str(word) for word in words] for name, words in phrases.items()}
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{file.name} cannot be read ({type(error).__name__})") from error
        shapes = [(len(named), 2 * width)] + [(len(named),)] * 3
        if [tuple(tensor.shape) for tensor in tensors] != shapes:
            raise ModelError(f"{file.name} is for another encoder")
        if not all(words and all(word.strip() for word in words) for words in named.values()):
            raise ModelError(f"{file.name} has a finding without words")
        return cls(named, *tensors)


def _platt(odds: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Slope and shift [n] of log-odds with the largest likelihood of [n] labels; never a falling slope."""
    from encoder.probing.logistic import logistic_regression

    spread, mean = float(odds.std(correction=0).clamp_min(1e-6)), float(odds.mean())
    scaled = ((odds - mean) / spread)[:, None]
    weights, bias = logistic_regression(scaled, labels[:, None], torch.ones_like(labels)[:, None], [100.0])
    slope = max(0.0, float(weights.squeeze()) / spread)
    return slope, float(bias.squeeze()) - slope * mean


def _levels(probs: torch.Tensor, labels: torch.Tensor, missed: float) -> tuple[float, float]:
    """Choose the lower and the upper level of one finding from [n] probabilities and labels."""
    order = probs.argsort(descending=True)
    hits = labels[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(order) + 1) + hits[-1])
    high = float(probs[order[int(f1.argmax())]])
    positive = probs[labels == 1].sort().values
    low = float(positive[int(missed * len(positive))])
    return min(low, high), high
