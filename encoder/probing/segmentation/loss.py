"""The loss of a batch, and its gradient from parts of the batch that fit into memory, on one process or several.

The paper names no loss. Lung zones lie inside lungs and tubes cross ribs, so each structure is a binary decision of
its own. Cross-entropy alone gives little weight to thin structures; soft Dice (Milletari et al. 2016), close to the
evaluated score, is added as in nnU-Net (Isensee et al. 2021). Dice is taken over all pixels of a batch together: an
image without the structure, as most of CANDID-PTX are, has no Dice of its own.

So the loss is no mean over images, and averaged gradients of parts are not the batch's. But it is a function of four
sums over images. A first pass over the parts, without gradients, gives the sums of the whole batch and the derivative
of the loss by each; a second pass multiplies it with the gradient of each part's own sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from encoder.probing.heads import to_size

if TYPE_CHECKING:
    from accelerate import Accelerator

TERMS = 4


def loss_sums(logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Compute the terms of the loss, which are summed over batches.

    Args:
        logits: [B, K, h, w]; resized to the masks here.
        masks: [B, K, S, S] bool.
        known: [B, K] bool; unknown masks have no weight.

    Returns:
        [4, K]: sum over images of the mean cross-entropy (nats); number of images; sum of probabilities over the truth;
        sum of probabilities and truth.
    """
    logits, truth = to_size(logits, masks.shape[-2:]), masks.to(logits.dtype)
    weight = known.to(logits.dtype)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    probs = torch.sigmoid(logits)
    both, total = (probs * truth).sum((2, 3)), probs.sum((2, 3)) + truth.sum((2, 3))
    return torch.stack([(weight * one).sum(0) for one in (entropy, torch.ones_like(entropy), both, total)])


def loss_of(sums: torch.Tensor, dice_weight: float) -> torch.Tensor:
    """Compute the loss: the mean over all structures with a known mask.

    Args:
        sums: [4, K] of ``loss_sums``, of one batch or of many.
        dice_weight: of soft Dice, ``1 - (2 both + 1) / (total + 1)``; the added pixel avoids division by zero.
    """
    entropy, images, both, total = sums
    dice = 1 - (2 * both + 1) / (total + 1)
    losses = entropy / images.clamp_min(1) + dice_weight * dice
    there = (images > 0).to(losses.dtype)
    mean: torch.Tensor = (losses * there).sum() / there.sum().clamp_min(1)
    return mean


def parts_of(count: int, most: int, world: int = 1) -> list[slice]:
    """Divide a batch evenly into parts of at most ``most`` images, at least one for each process if there are enough.

    Args:
        count: images of the batch.
        most: images of a part.
        world: number of processes; 1 where parts must not depend on it.
    """
    number = max(-(-count // most), min(world, count))
    ends = [count * part // number for part in range(number + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def backward(
    head: nn.Module,
    sums_of: Callable[[int], torch.Tensor],
    own: Sequence[int],
    count: int,
    structures: int,
    dice_weight: float,
    accelerator: Accelerator | None = None,
) -> float:
    """Set the gradients of a whole batch's loss.

    Running statistics of normalisations move once, by the mean over all parts.

    Args:
        head: whose parameters have no gradient yet; the same on every process.
        sums_of: computes ``loss_sums`` of a part, the same in both passes.
        own: parts of this process.
        count: parts of the batch, on all processes.
        structures: K.
        dice_weight: as for ``loss_of``.
        accelerator: of several processes, which all call this.

    Returns:
        The loss.
    """
    if count == 1 and accelerator is None:
        loss = loss_of(sums_of(own[0]), dice_weight)
        loss.backward()
        return float(loss.detach())
    device = next(head.parameters()).device
    sums = torch.zeros(TERMS, structures, dtype=torch.float64)
    statistics = _Statistics(head)
    with torch.no_grad():
        for part in own:
            with statistics.of_a_part():
                sums += sums_of(part).double().cpu()
    sums = summed(sums.to(device, torch.float64 if device.type != "mps" else torch.float32), accelerator)
    sums.requires_grad_()
    loss = loss_of(sums, dice_weight)
    (slopes,) = torch.autograd.grad(loss, sums)
    for part in own:
        found = sums_of(part)
        (found * slopes.to(found)).sum().backward()
    statistics.settle(count, accelerator)
    if accelerator is not None:
        _sum_gradients(head, accelerator)
    return float(loss.detach())


def summed(tensor: torch.Tensor, accelerator: Accelerator | None) -> torch.Tensor:
    """Sum a tensor over processes."""
    if accelerator is None:
        return tensor
    total: torch.Tensor = accelerator.reduce(tensor.to(accelerator.device), reduction="sum")
    return total


def _sum_gradients(head: nn.Module, accelerator: Accelerator) -> None:
    """Sum gradients over processes; one without images has none."""
    parameters = [one for one in head.parameters() if one.requires_grad]
    flat = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in parameters])
    start = 0
    flat = summed(flat, accelerator)
    for one in parameters:
        one.grad = flat[start : start + one.numel()].view_as(one)
        start += one.numel()


class _Statistics:
    """Running statistics of normalisations during a step of several parts; empty for heads that have none."""

    def __init__(self, head: nn.Module) -> None:
        self._buffers = list(head.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sums = [torch.zeros_like(buffer) for buffer in self._buffers]

    @contextmanager
    def of_a_part(self) -> Iterator[None]:
        """Collect what one part makes of the statistics from before the step."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
        yield
        for total, buffer in zip(self._sums, self._buffers, strict=True):
            total += buffer

    @torch.no_grad()
    def settle(self, count: int, accelerator: Accelerator | None) -> None:
        """Set the mean over all parts of all processes."""
        for total, buffer in zip(self._sums, self._buffers, strict=True):
            total = summed(total, accelerator)
            buffer.copy_(total / count if total.is_floating_point() else total // count)
