"""The losses against lightly's, closed forms and dense formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from encoder.pretraining.losses import (
    MovingAverage,
    _centred,
    dino_pairs,
    koleo_loss,
    prototype_cross_entropy,
    sinkhorn_knopp,
)

lightly_loss = pytest.importorskip("lightly.loss", reason="lightly is in the test group")


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dino(student: torch.Tensor, teacher: torch.Tensor, offset: torch.Tensor, chunk: int | None = None) -> torch.Tensor:
    """[B, S, K] and [B, 2, K] scores: vectors whose prototypes are the unit vectors."""
    unit, pairs = torch.eye(student.shape[-1]), dino_pairs(student.shape[1] - 2)
    weights = torch.full((len(student),), 1 / (len(student) * float(pairs.sum())))
    return prototype_cross_entropy(
        student,
        unit,
        teacher,
        unit,
        offset,
        pairs=pairs,
        weights=weights,
        student_temperature=0.1,
        teacher_temperature=0.07,
        chunk=chunk,
    )


@pytest.mark.parametrize("chunk", [None, 8 * 64])
def test_dino_loss_and_gradient_equal_lightly(chunk: int | None) -> None:
    student, teacher = scores(4, 8, 64).requires_grad_(), scores(4, 2, 64, seed=1)
    ours = dino(student, teacher, torch.zeros(64), chunk)
    ours.backward()
    views = [view.detach().clone().requires_grad_() for view in student.unbind(1)]
    theirs = lightly_loss.DINOLoss(output_dim=64, teacher_temp=0.07, warmup_teacher_temp=0.07, student_temp=0.1)(
        list(teacher.unbind(1)), views, epoch=0
    )
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.stack([view.grad for view in views], 1))


def test_swapping_the_teachers_views_changes_the_dino_loss() -> None:
    student, teacher = scores(4, 8, 64), scores(4, 2, 64, seed=1)
    assert not torch.isclose(
        dino(student, teacher, torch.zeros(64)), dino(student, teacher.flip(1), torch.zeros(64)), rtol=1e-4
    )


def ibot(student: torch.Tensor, teacher: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    unit = torch.eye(student.shape[-1])
    crop = masks.nonzero()[:, 0]
    return prototype_cross_entropy(
        student[:, None],
        unit,
        teacher[:, None],
        unit,
        torch.zeros(student.shape[-1]),
        pairs=torch.ones(1, 1),
        weights=1 / (masks.sum(1)[crop] * len(masks)),
        student_temperature=0.1,
        teacher_temperature=0.07,
    )


def masks_of(crops: int) -> torch.Tensor:
    masks = torch.zeros(crops, 16, dtype=torch.bool)
    masks[0, :3] = masks[1, 5:12] = True
    return masks


def test_ibot_loss_equals_lightly() -> None:
    masks = masks_of(4)
    student, teacher = scores(10, 32), scores(10, 32, seed=1)
    theirs = lightly_loss.IBOTPatchLoss(output_dim=32, teacher_temp=0.07, student_temp=0.1)(
        teacher, student, masks.view(4, 4, 4)
    )
    torch.testing.assert_close(ibot(student, teacher, masks), theirs)


def test_twice_as_many_crops_without_mask_halve_the_ibot_loss() -> None:
    student, teacher = scores(10, 32), scores(10, 32, seed=1)
    torch.testing.assert_close(
        ibot(student, teacher, masks_of(4)), 2 * ibot(student, teacher, masks_of(8)), rtol=1e-6, atol=0
    )


def test_uniform_probabilities_cost_ln_k() -> None:
    zero = torch.zeros(2, 4, 50)
    assert float(dino(zero, zero[:, :2], torch.zeros(50))) == pytest.approx(math.log(50), rel=1e-6)


def test_prototype_gradient_equals_autograd() -> None:
    vectors, prototypes = scores(6, 1, 8).requires_grad_(), scores(40, 8, seed=1).requires_grad_()
    teacher, others, offset = scores(6, 1, 8, seed=2), scores(40, 8, seed=3), scores(40, seed=4)
    weights = torch.rand(6, generator=torch.Generator().manual_seed(5))
    ours = prototype_cross_entropy(
        vectors,
        prototypes,
        teacher,
        others,
        offset,
        pairs=torch.ones(1, 1),
        weights=weights,
        student_temperature=0.3,
        teacher_temperature=0.5,
        chunk=80,
    )
    found = torch.autograd.grad(ours * 3, [vectors, prototypes])
    target = torch.softmax(teacher[:, 0] @ others.t() / 0.5 + offset, dim=1)
    dense = -(target * torch.log_softmax(vectors[:, 0] @ prototypes.t() / 0.3, dim=1)).sum(1) @ weights
    torch.testing.assert_close(ours, dense)
    for ours_, theirs in zip(found, torch.autograd.grad(dense * 3, [vectors, prototypes]), strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-4, atol=1e-5)


def test_bfloat16_rounds_gradients_by_a_hundredth() -> None:
    """Vectors near their prototypes, offsets of several units: 2 ** -9 of scores up to 25 is a twentieth."""
    prototypes, others = (functional.normalize(scores(512, 64, seed=seed), dim=1) for seed in (0, 1))
    vectors = functional.normalize(scores(40, 64, seed=2) + 12 * prototypes[:40], dim=1)[:, None]
    teacher = functional.normalize(scores(40, 64, seed=3) + 12 * others[:40], dim=1)[:, None]
    offset, weights = 3 * scores(512, seed=4), torch.rand(40, generator=torch.Generator().manual_seed(5))

    def found(bf16: bool) -> list[torch.Tensor]:
        leaves = [vectors.clone().requires_grad_(), prototypes.clone().requires_grad_()]
        student, ours = leaves
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = prototype_cross_entropy(
                student, ours, teacher, others, offset, pairs=None, weights=weights,
                student_temperature=0.1, teacher_temperature=0.04, chunk=512 * 16,
            )  # fmt: skip
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    exact, rounded = found(False), found(True)
    assert float((rounded[0] - exact[0]).abs() / exact[0]) < 0.01
    for one, other in zip(rounded[1:], exact[1:], strict=True):
        assert one.dtype == torch.float32 and float((one - other).norm() / other.norm()) < 0.02


def test_an_offset_is_as_exact_in_bfloat16_as_in_float32() -> None:
    """Vectors of zeros have no scores: what is left is the offset."""
    prototypes, vectors = torch.eye(8) / 4, torch.zeros(1, 8)
    offset = 20 + torch.arange(8) / 1000
    ours, theirs, bias = _centred(prototypes, vectors, offset, torch.bfloat16)
    assert bias is None and ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close((theirs.float() @ ours.float().t())[0], offset, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bf16", [False, True])
def test_no_vectors_cost_nothing_and_have_gradients(bf16: bool) -> None:
    """A process of few images may have no masked crop."""
    vectors, prototypes = torch.empty(0, 1, 8, requires_grad=True), scores(40, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = prototype_cross_entropy(
            vectors, prototypes, torch.empty(0, 1, 8), scores(40, 8, seed=1), scores(40, seed=2), pairs=None,
            weights=torch.empty(0), student_temperature=0.1, teacher_temperature=0.04,
        )  # fmt: skip
    loss.backward()
    assert float(loss.detach()) == 0 and vectors.grad is not None
    assert prototypes.grad is not None and not prototypes.grad.any()


def test_koleo_equals_lightly() -> None:
    features = scores(8, 16)
    torch.testing.assert_close(koleo_loss(features), lightly_loss.KoLeoLoss()(features))


def test_koleo_of_equal_rows_is_finite_in_half_precision() -> None:
    features = torch.ones(4, 16, dtype=torch.float16, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert loss.dtype == torch.float32
    assert 10 < loss.item() < 19  # -log(about 4e-8 + 1e-8), between the distance's and the logarithm's epsilon
    assert features.grad is not None and bool(torch.isfinite(features.grad).all())


def test_koleo_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="two images"):
        koleo_loss(scores(1, 16))


def test_moving_average_uses_the_steps_before() -> None:
    centre = MovingAverage(3, 0.9)
    prototypes, vectors = torch.eye(3), torch.tensor([[1.0, 2, 3], [3, 2, 1]])
    expected = torch.zeros(3)
    for _ in range(3):
        torch.testing.assert_close(centre.offset(0.5), -expected / 0.5)
        centre.update(vectors, prototypes)
        expected = 0.9 * expected + 0.1 * torch.tensor([2.0, 2, 2])
    assert float(centre.centre[0]) == pytest.approx(2 * (1 - 0.9**3))


def test_moving_average_of_no_vectors_stays() -> None:
    centre = MovingAverage(3, 0.9)
    centre.centre.fill_(0.5)
    centre.update(torch.empty(0, 3), torch.eye(3))
    assert centre.centre.tolist() == [0.5] * 3


def dense_sinkhorn(values: torch.Tensor, temperature: float, iterations: int) -> torch.Tensor:
    """SwAV's algorithm as written there, in float64."""
    matrix = torch.exp((values.double() - values.double().max()) / temperature).t()
    matrix /= matrix.sum()
    for _ in range(iterations):
        matrix /= matrix.sum(1, keepdim=True) * matrix.shape[0]
        matrix /= matrix.sum(0, keepdim=True) * matrix.shape[1]
    return (matrix * matrix.shape[1]).t()


def test_sinkhorn_equals_the_dense_algorithm() -> None:
    values = scores(12, 7)
    offset = sinkhorn_knopp(values, torch.eye(7), 0.5, chunk=21)
    torch.testing.assert_close(
        torch.softmax(values / 0.5 + offset, dim=1).double(), dense_sinkhorn(values, 0.5, 3), rtol=1e-5, atol=1e-6
    )


def test_sinkhorn_balances_and_ignores_a_constant() -> None:
    values = scores(32, 4) * 0.1
    offset = sinkhorn_knopp(values, torch.eye(4), 0.04, iterations=50)
    shares = torch.softmax(values / 0.04 + offset, dim=1).sum(0)
    torch.testing.assert_close(shares, torch.full((4,), 8.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        sinkhorn_knopp(values + 5, torch.eye(4), 0.04, iterations=50), offset, rtol=1e-3, atol=1e-3
    )


def test_sinkhorn_is_finite_at_scores_of_50() -> None:
    offset = sinkhorn_knopp(scores(8, 5) * 50, torch.eye(5), 0.04)
    assert bool(torch.isfinite(torch.softmax(scores(8, 5) * 50 / 0.04 + offset, dim=1)).all())
