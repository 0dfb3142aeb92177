"""Is the run collapsing? Numbers to watch beside the loss, and warnings in words.

Two ways to fail (Caron et al. 2021, section 5.3): every image gets the same features (constant collapse: loss near 0,
effective rank near 1), or the teacher spreads its probability evenly over all prototypes (uniform collapse: entropy and
loss stand at ln K, 11.09 for 65,536).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

FLAT = 0.01
"""Share of ln K within which entropy and loss count as standing at ln K."""


def _entropy(values: torch.Tensor) -> torch.Tensor:
    entropy: torch.Tensor = torch.special.entr(values)
    return entropy


def teacher_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Mean entropy of [M, K] rows of probabilities, in nats; ln K at most."""
    return _entropy(probabilities.float()).sum(1).mean()


def effective_rank(features: torch.Tensor) -> torch.Tensor:
    """RankMe (Garrido et al. 2023): exp of the entropy of the normalised singular values of centred [M, D] features.

    Returns:
        A scalar between 1 and min(M - 1, D); 1 where all rows are the same.
    """
    centred = features.float() - features.float().mean(0)
    values = torch.linalg.svdvals(centred)
    total = values.sum()
    if not float(total) > 1e-6 * max(1.0, float(features.float().norm())):
        return torch.ones((), device=values.device)
    rank: torch.Tensor = _entropy(values / total).sum().exp()
    return rank


def cls_std(features: torch.Tensor) -> torch.Tensor:
    """Mean over D of the standard deviation over [M, D] rows, relative to the rows' mean length / sqrt(D)."""
    features = features.float()
    scale = features.norm(dim=1).mean() / features.shape[1] ** 0.5
    std: torch.Tensor = features.std(0, correction=0).mean() / scale.clamp_min(1e-12)
    return std


class CollapseMonitor:
    """Warns once of each kind of collapse.

    Args:
        prototypes: K.
        patience: logged steps in a row that must look like collapse.
    """

    def __init__(self, prototypes: int, patience: int = 5) -> None:
        self._uniform, self._patience = math.log(prototypes), patience
        self._rows = {"uniform": 0, "constant": 0}

    def update(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Look at ``teacher_entropy``, ``dino``, ``cls_effective_rank`` and ``cls_std`` of a step.

        Returns:
            Warnings to show.
        """
        flat = (1 - FLAT) * self._uniform
        signs = {
            "uniform": values["teacher_entropy"] > flat and abs(values["dino"] - self._uniform) < FLAT * self._uniform,
            "constant": values["cls_effective_rank"] < 2 or values["cls_std"] < 1e-6,
        }
        texts = {
            "uniform": f"uniform collapse, or nothing learned yet: the teacher's entropy and the loss stand at ln K = "
            f"{self._uniform:.2f} (step {step})",
            "constant": f"constant collapse: all images have nearly the same CLS features (step {step})",
        }
        warnings = []
        for kind, sign in signs.items():
            self._rows[kind] = self._rows[kind] + 1 if sign else 0
            if self._rows[kind] == self._patience:
                warnings.append(texts[kind])
        return warnings
