"""Detect collapse: numbers to watch in addition to the loss, and warnings.

Two ways to fail (Caron et al. 2021, section 5.3): every image gets the same features (constant collapse: loss near 0,
effective rank near 1), or teacher or student spread their probability evenly over all prototypes (uniform collapse: the
loss stands at ln K, 11.09 for 65,536). Before a network has learned anything it looks the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from encoder.runs.checkpoints import diverged

FLAT = 0.01
"""Share of ln K within which entropy or loss count as standing at ln K."""
ALIKE = 0.01
"""``cls_std`` below which all features count as the same. DINOv2's ViT-S has 0.3 on crops of radiographs; a ViT of
random weights has 0.7, and 0.0001 with DINOv2's LayerScale of 1e-5."""


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
    """Warns when logged steps in a row look like collapse, once for each such stretch.

    Args:
        prototypes: K.
        patience: so many logged steps in a row.
        dino_weight: ``loss.dino``, with which the logged loss is multiplied; at 0 the loss is not looked at.
    """

    def __init__(self, prototypes: int, patience: int = 5, *, dino_weight: float = 1.0) -> None:
        self._uniform, self._patience, self._weight = math.log(prototypes), patience, dino_weight
        self._rows = {"uniform": 0, "constant": 0}

    def update(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Look at ``teacher_entropy``, ``dino``, ``cls_effective_rank`` and ``cls_std`` of a step.

        Returns:
            Warnings to show.
        """
        level, entropy = self._uniform, values["teacher_entropy"]
        loss = values["dino"] / self._weight if self._weight else math.inf
        signs = {
            "uniform": entropy > (1 - FLAT) * level or abs(loss - level) < FLAT * level,
            "constant": values["cls_effective_rank"] < 2 or values["cls_std"] < ALIKE,
        }
        texts = {
            "uniform": f"uniform collapse, or nothing learned yet: of ln K = {level:.2f} the teacher's entropy has "
            f"{entropy:.2f} and the DINO loss {loss:.2f} (step {step})",
            "constant": f"constant collapse, or nothing learned yet: all images have nearly the same CLS features; "
            f"effective rank {values['cls_effective_rank']:.1f}, deviation {values['cls_std']:.1g} (step {step})",
        }
        warnings = []
        for kind, sign in signs.items():
            self._rows[kind] = self._rows[kind] + 1 if sign else 0
            if self._rows[kind] == self._patience:
                warnings.append(texts[kind])
        return warnings


class FiniteSteps:
    """Stops a run at the first step whose losses or gradient norms are not finite, without waiting for a GPU.

    On CUDA the answer of a step is read when the next one is asked about, or in `settle`; elsewhere at once.

    Args:
        delayed: whether to read answers late.
    """

    def __init__(self, *, delayed: bool) -> None:
        self._delayed = delayed
        self._asked: tuple[int, torch.Tensor, torch.cuda.Event | None] | None = None

    def ask(self, step: int, odd: torch.Tensor) -> None:
        """Ask about a step.

        Args:
            step: its number.
            odd: scalar, not 0 if something is not finite, the same on all processes.

        Raises:
            LlavaRadError: if this step, or where answers are read late the one before, is not finite.
        """
        self.settle()
        event = None
        if odd.device.type == "cuda":
            answer = torch.empty(odd.shape, dtype=odd.dtype, pin_memory=True).copy_(odd, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        else:
            answer = odd.cpu()
        self._asked = (step, answer, event)
        if not self._delayed:
            self.settle()

    def settle(self) -> None:
        """Read what was asked last.

        Raises:
            LlavaRadError: if that step is not finite.
        """
        if self._asked is None:
            return
        step, answer, event = self._asked
        self._asked = None
        if event is not None:
            event.synchronize()
        if bool(answer):
            raise diverged(step, "lower optimization.base_lr, or use engine.precision=fp32")
