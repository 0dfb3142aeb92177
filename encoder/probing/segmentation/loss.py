"""The loss of segmentation: binary cross-entropy and soft Dice, for structures that may overlap.

The paper names no loss. Lung zones lie inside lungs and tubes cross ribs, so each structure is a yes or no of its own.
Cross-entropy alone gives little weight to thin structures; soft Dice (Milletari et al. 2016) is what is judged, and is
added as in nnU-Net (Isensee et al. 2021). Dice is taken over all pixels of a batch together: an image without the
structure, as most of CANDID-PTX are, has no Dice of its own.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from encoder.probing.heads.blocks import to_size


def loss_sums(logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """What the loss is made of, to be added over batches.

    Args:
        logits: [B, K, h, w], brought to the masks' size here.
        masks: [B, K, S, S] bool.
        known: [B, K] bool; what is not known weighs nothing.

    Returns:
        [4, K]: sum over images of the mean cross-entropy (nats); number of images; chances summed over the truth;
        chances and truth summed.
    """
    logits, truth = to_size(logits, masks.shape[-2:]), masks.to(logits.dtype)
    weight = known.to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    chances = torch.sigmoid(logits)
    both, total = (chances * truth).sum((2, 3)), chances.sum((2, 3)) + truth.sum((2, 3))
    return torch.stack([(weight * one).sum(0) for one in (entropy, torch.ones_like(entropy), both, total)])


def loss_of(sums: torch.Tensor, dice_weight: float) -> torch.Tensor:
    """The loss: its mean over the structures that are known anywhere.

    Args:
        sums: [4, K] of ``loss_sums``, of one batch or of many.
        dice_weight: of soft Dice, ``1 - (2 both + 1) / (total + 1)`` with one pixel against division by zero.
    """
    entropy, images, both, total = sums
    dice = 1 - (2 * both + 1) / (total + 1)
    losses = entropy / images.clamp_min(1) + dice_weight * dice
    there = (images > 0).to(losses.dtype)
    mean: torch.Tensor = (losses * there).sum() / there.sum().clamp_min(1)
    return mean
