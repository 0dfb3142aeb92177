"""The three losses of DINOv2 and the teacher's centring, on bottleneck vectors and prototypes.

The scores (vectors x prototypes; 65,536 columns, 411 masked patches an image at 518 px) are the memory hot spot of
DINOv2-style training: 103 MB an image for each float32 copy. Here they exist for a chunk of vectors at a time: each
chunk computes teacher probabilities, loss and gradients at once, with the reductions in float32.

Both ways of centring come down to one offset for each prototype: a teacher's probabilities are
``softmax(scores / temperature + offset)``. For the moving average the offset is ``-centre / temperature``; for
Sinkhorn-Knopp (Caron et al. 2020, algorithm 1) it is the logarithm of the prototypes' scaling, since the last of its
steps makes each row sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional

from encoder.backbones.linear import linear
from encoder.pretraining.fused_layers import product_type


def prototype_cross_entropy(
    student: torch.Tensor,
    student_prototypes: torch.Tensor,
    teacher: torch.Tensor,
    teacher_prototypes: torch.Tensor,
    offset: torch.Tensor,
    *,
    pairs: torch.Tensor,
    weights: torch.Tensor,
    student_temperature: float,
    teacher_temperature: float,
    chunk: int | None = None,
) -> torch.Tensor:
    """``sum_n weights[n] * sum_st pairs[s, t] * CE(teacher probabilities [n, t], student probabilities [n, s])``.

    Args:
        student: [N, S, C] bottleneck vectors: S crops of each of N images (or 1 of each of N masked patches).
        student_prototypes: [K, C]
        teacher: [N, T, C]; no gradient flows into it.
        teacher_prototypes: [K, C]
        offset: [K] float32, from ``MovingAverage`` or ``sinkhorn_knopp``.
        pairs: [S, T], 1 where student crop s is to predict teacher crop t, else 0.
        weights: [N] float32.
        student_temperature: divides the student's scores.
        teacher_temperature: divides the teacher's.
        chunk: scores held at a time; None for a value that suits the device.

    Returns:
        A scalar, float32.
    """
    loss: torch.Tensor = _PrototypeCrossEntropy.apply(
        student,
        student_prototypes,
        teacher.detach(),
        teacher_prototypes.detach(),
        offset,
        pairs.to(student.device, torch.float32),
        weights,
        student_temperature,
        teacher_temperature,
        chunk or _chunk(student.device, len(student_prototypes)),
    )
    return loss


def _chunk(device: torch.device, prototypes: int) -> int:
    return 1 << 27 if device.type == "cuda" else max(1 << 20, 64 * prototypes)


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        student_prototypes: torch.Tensor,
        teacher: torch.Tensor,
        teacher_prototypes: torch.Tensor,
        offset: torch.Tensor,
        pairs: torch.Tensor,
        weights: torch.Tensor,
        student_temperature: float,
        teacher_temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        dtype = product_type(student.device)
        images, crops, width = student.shape
        prototypes = len(student_prototypes)
        by_teacher = [rows.nonzero().squeeze(1).tolist() for rows in pairs]
        learning = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        gradient = torch.zeros_like(student, dtype=torch.float32) if learning else None
        prototype_gradient = torch.zeros_like(student_prototypes, dtype=torch.float32) if learning else None
        total = torch.zeros((), device=student.device)
        counts = pairs.sum(1)
        with torch.autocast(student.device.type, enabled=False):
            ours, theirs = student_prototypes.to(dtype), teacher_prototypes.to(dtype)
            step = max(1, chunk // (prototypes * crops))
            for start in range(0, images, step):
                part = student[start : start + step].to(dtype).flatten(0, 1)
                count = len(part) // crops
                targets = linear(teacher[start : start + step].to(dtype).flatten(0, 1), theirs)
                targets = targets.float().div_(teacher_temperature).add_(offset)
                targets = torch.softmax(targets, dim=1).view(count, -1, prototypes)
                scores = linear(part, ours).float().div_(student_temperature)
                log_sum = torch.logsumexp(scores, dim=1, keepdim=True)
                scale = (weights[start : start + step, None] * counts).view(-1, 1)
                total += (log_sum * scale).sum()
                scores, weight = scores.view(count, crops, prototypes), weights[start : start + step]
                for crop, chosen in enumerate(by_teacher):
                    for other in chosen:
                        total -= ((scores[:, crop] * targets[:, other]).sum(1) * weight).sum()
                if gradient is None or prototype_gradient is None:
                    continue
                grad_scores = (
                    scores.view(-1, prototypes).sub_(log_sum).exp_().mul_(scale).view(count, crops, prototypes)
                )
                targets = targets.mul_(weight[:, None, None])
                for crop, chosen in enumerate(by_teacher):
                    for other in chosen:
                        grad_scores[:, crop] -= targets[:, other]
                grad_scores = grad_scores.div_(student_temperature).view(-1, prototypes).to(dtype)
                gradient[start : start + step] = linear(grad_scores, ours.t()).view(count, crops, width)
                prototype_gradient += linear(grad_scores.t(), part.t())
        if gradient is not None and prototype_gradient is not None:
            ctx.save_for_backward(gradient.to(student.dtype), prototype_gradient.to(student_prototypes.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, prototype_gradient = ctx.saved_tensors
        return gradient * grad_outputs[0], prototype_gradient * grad_outputs[0], *[None] * 8


def dino_pairs(local_crops: int) -> torch.Tensor:
    """[2 + V, 2]: each global crop is to predict the other one, each local crop both."""
    pairs = torch.ones(2 + local_crops, 2)
    pairs[0, 0] = pairs[1, 1] = 0
    return pairs


def koleo_loss(features: torch.Tensor) -> torch.Tensor:
    """KoLeo (Sablayrolles et al. 2019): minus the mean logarithm of the distance to the nearest neighbour.

    Args:
        features: [B, D], B >= 2; computed in float32 whatever their type.

    Raises:
        ValueError: if fewer than two rows have no neighbours.
    """
    if len(features) < 2:
        raise ValueError("KoLeo needs at least two images on each process")
    with torch.autocast(features.device.type, enabled=False):
        unit = functional.normalize(features.float(), dim=-1, eps=1e-8)
        with torch.no_grad():
            similarity = unit @ unit.t()
            similarity.fill_diagonal_(-1)
            nearest = similarity.argmax(dim=1)
        distance = functional.pairwise_distance(unit, unit[nearest], p=2, eps=1e-8)
        return -torch.log(distance + 1e-8).mean()


class MovingAverage(nn.Module):
    """Centring by a moving average of the teacher's scores (Caron et al. 2021, eq. 4).

    The probabilities of a step use the centre of the steps before it; all processes' scores count alike.

    Args:
        prototypes: K.
        momentum: of the average.
    """

    centre: torch.Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    def offset(self, temperature: float) -> torch.Tensor:
        """[K]"""
        return self.centre / -temperature

    @torch.no_grad()
    def update(self, vectors: torch.Tensor, prototypes: torch.Tensor) -> None:
        """Take in the scores ``vectors @ prototypes.T``; their mean is that of the vectors times the prototypes.

        Args:
            vectors: [M, C], M may be 0 on some processes.
            prototypes: [K, C]
        """
        with torch.autocast(vectors.device.type, enabled=False):
            sums = torch.cat([vectors.float().sum(0), vectors.new_full((1,), len(vectors), dtype=torch.float32)])
            if distributed.is_initialized():
                distributed.all_reduce(sums)
            count = sums[-1]
            mean = prototypes.float() @ (sums[:-1] / count.clamp_min(1))
            moved = self.centre * self.momentum + mean * (1 - self.momentum)
            self.centre.copy_(torch.where(count > 0, moved, self.centre))


@torch.no_grad()
def sinkhorn_knopp(
    vectors: torch.Tensor,
    prototypes: torch.Tensor,
    temperature: float,
    *,
    iterations: int = 3,
    chunk: int | None = None,
) -> torch.Tensor:
    """The offset by which every prototype gets the same share of all processes' vectors (SwAV; DINOv2).

    In logarithms throughout: ``exp(score / 0.04)`` overflows float32 for scores above 3.5.

    Args:
        vectors: [M, C], M may be 0 on some processes.
        prototypes: [K, C]
        temperature: the teacher's.
        iterations: 3 in DINOv2; the rows are made to sum to 1 by the softmax that the offset is added in.
        chunk: scores held at a time.

    Returns:
        [K] float32
    """
    dtype = product_type(vectors.device)
    size = max(1, (chunk or _chunk(vectors.device, len(prototypes))) // len(prototypes))
    with torch.autocast(vectors.device.type, enabled=False):
        theirs = prototypes.to(dtype)
        offset = torch.zeros(len(prototypes), device=vectors.device)

        def scores() -> Iterator[torch.Tensor]:
            for part in vectors.to(dtype).split(size):
                yield linear(part, theirs).float() / temperature + offset

        for iteration in range(iterations):
            shares = offset.new_full((len(prototypes),), -torch.inf)
            for part in scores():
                if iteration:
                    part = torch.log_softmax(part, dim=1)
                shares = torch.logaddexp(shares, part.logsumexp(0))
            shares = _log_sum_over_processes(shares)
            offset = offset - shares
            offset = offset - offset.max()
        return offset


def _log_sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    if not distributed.is_initialized():
        return values
    highest = values.clone()
    distributed.all_reduce(highest, distributed.ReduceOp.MAX)
    total = (values - highest).exp()
    distributed.all_reduce(total)
    return highest + total.log()
