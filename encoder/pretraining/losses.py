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

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional

from encoder.backbones.linear import linear
from encoder.pretraining.fused_layers import product_type

Compute = Callable[..., tuple[torch.Tensor, ...]]


def prototype_cross_entropy(
    student: torch.Tensor,
    student_prototypes: torch.Tensor,
    teacher: torch.Tensor,
    teacher_prototypes: torch.Tensor,
    offset: torch.Tensor,
    *,
    pairs: torch.Tensor | None,
    weights: torch.Tensor,
    student_temperature: float,
    teacher_temperature: float,
    chunk: int | None = None,
    compute: Compute | None = None,
) -> torch.Tensor:
    """``sum_n weights[n] * sum_st pairs[s, t] * CE(teacher probabilities [n, t], student probabilities [n, s])``.

    Args:
        student: [N, S, C] bottleneck vectors: S crops of each of N images (or 1 of each of N masked patches).
        student_prototypes: [K, C]
        teacher: [N, T, C]; no gradient flows into it.
        teacher_prototypes: [K, C]
        offset: [K] float32, from ``MovingAverage`` or ``sinkhorn_knopp``.
        pairs: [S, T], 1 where student crop s is to predict teacher crop t, else 0; None where S and T are 1.
        weights: [N] float32.
        student_temperature: divides the student's scores.
        teacher_temperature: divides the teacher's.
        chunk: scores held at a time; None for a value that suits the device.
        compute: a compiled `cross_entropy_chunk`.

    Returns:
        A scalar, float32.
    """
    loss: torch.Tensor = _PrototypeCrossEntropy.apply(
        student,
        student_prototypes,
        teacher.detach(),
        teacher_prototypes.detach(),
        offset,
        pairs,
        weights,
        student_temperature,
        teacher_temperature,
        chunk or _chunk(student.device, len(student_prototypes)),
        compute or cross_entropy_chunk,
    )
    return loss


def _chunk(device: torch.device, prototypes: int) -> int:
    return max(1 << 20, 64 * prototypes) if device.type == "cpu" else 1 << 28


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: torch.Tensor,
        student_prototypes: torch.Tensor,
        teacher: torch.Tensor,
        teacher_prototypes: torch.Tensor,
        offset: torch.Tensor,
        pairs: torch.Tensor | None,
        weights: torch.Tensor,
        student_temperature: float,
        teacher_temperature: float,
        chunk: int,
        compute: Compute,
    ) -> torch.Tensor:
        dtype = product_type(student.device)
        images, crops, _ = student.shape
        step = max(1, chunk // (len(student_prototypes) * crops))
        with torch.autocast(student.device.type, enabled=False):
            ours = (student_prototypes / student_temperature).to(dtype)
            theirs, others, bias = _centred(teacher_prototypes / teacher_temperature, teacher, offset, dtype)
            weighted = (student * (weights / student_temperature)[:, None, None]).to(dtype)
            prototype_gradient = torch.zeros_like(student_prototypes, dtype=torch.float32)
            parts = []
            tensors = (tensor.split(step) for tensor in (student.to(dtype), others, weighted))
            for vectors, targets, scaled in zip(*tensors, strict=True):
                *part, for_prototypes = compute(vectors, targets, scaled, ours, theirs, bias, pairs)
                parts.append(part)
                prototype_gradient += for_prototypes
            highest, prob, mean, gradient = (torch.cat(column).float() for column in zip(*parts, strict=True))
            # the logarithm of the sum of exponentials, by way of the likeliest prototype
            log_sum = (highest - prob.log()).view(images, crops)
            if pairs is not None:
                log_sum = log_sum * pairs.sum(1)
            # sum_k targets[k] * scores[k] is the vector times the mean of the prototypes, weighted by the targets
            found = log_sum.sum(1) - (student * mean.view_as(student)).sum((1, 2))
            gradient = gradient.view_as(student) * weights[:, None, None]
            ctx.save_for_backward(gradient.to(student.dtype), prototype_gradient.to(student_prototypes.dtype))
            return (found * weights).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, prototype_gradient = ctx.saved_tensors
        return gradient * grad_outputs[0], prototype_gradient * grad_outputs[0], *[None] * 9


_OFFSET_TERMS = 8
"""Columns that an offset takes in half precision: three terms, filled up to a multiple of 8 for the products."""


def _centred(
    prototypes: torch.Tensor, vectors: torch.Tensor, offset: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Prototypes, vectors and a bias that make ``scores + offset`` one product, as exact as with a float32 offset.

    A product's bias has the product's type, and would round the offset of a prototype the same way for every vector.
    In half precision it is therefore split into three columns, whose sum the product takes in float32.
    """
    if dtype == torch.float32:
        return prototypes, vectors.to(dtype), offset
    terms = torch.zeros(len(prototypes), _OFFSET_TERMS, dtype=dtype, device=prototypes.device)
    rest = offset
    for term in range(3):
        terms[:, term] = rest
        rest = rest - terms[:, term]
    vectors = functional.pad(vectors.to(dtype), (0, _OFFSET_TERMS), value=1.0)
    return torch.cat([prototypes.to(dtype), terms], dim=1), vectors, None


def cross_entropy_chunk(
    student: torch.Tensor,
    teacher: torch.Tensor,
    weighted: torch.Tensor,
    ours: torch.Tensor,
    theirs: torch.Tensor,
    bias: torch.Tensor | None,
    pairs: torch.Tensor | None,
) -> tuple[torch.Tensor, ...]:
    """Compute the terms of loss and gradients of some images, in few passes over the scores, in the products' type.

    Args:
        student: [n, S, C].
        teacher: [n, T, C], or with more columns, as ``theirs``.
        weighted: [n, S, C], the student's vectors times their weights.
        ours: [K, C], the student's prototypes divided by its temperature.
        theirs: [K, C], the teacher's likewise; the offset may be in further columns.
        bias: [K], the offset, where it is not in ``theirs``.
        pairs: [S, T]; None where S and T are 1.

    Returns:
        The highest score of each vector [n * S, 1] and its probability (which never underflows), the mean prototype by
        the targets [n * S, C], the vectors' gradient [n * S, C] without weights, and that of the prototypes [K, C].
    """
    targets = torch.softmax(linear(teacher.flatten(0, 1), theirs, bias), dim=1)
    scores = linear(student.flatten(0, 1), ours)
    probs = torch.softmax(scores, dim=1)
    highest, place = scores.max(dim=1, keepdim=True)
    prob = probs.gather(1, place)
    if pairs is not None:
        pairs = pairs.to(targets.dtype)
        targets = torch.matmul(pairs, targets.view(len(teacher), -1, len(theirs))).flatten(0, 1)
        probs = probs * pairs.sum(1).repeat(len(student))[:, None]
    mean = linear(targets, ours.t())
    grad_scores = probs.sub_(targets)
    return highest, prob, mean, linear(grad_scores, ours.t()), linear(grad_scores.t(), weighted.flatten(0, 1).t())


def dino_pairs(local_crops: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """[2 + V, 2]: each global crop is to predict the other one, each local crop both."""
    pairs = torch.ones(2 + local_crops, 2, device=device)
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
