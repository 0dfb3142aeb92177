"""One whole step against an independent one: Hugging Face's network, plain heads and dense scores, in double precision.

Held equal are the loss and its gradient for every parameter of the student, so that nothing between the pixels and the
weights can be wrong unseen: which crop predicts which, what is masked, what is centred, weighted and averaged.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from encoder.backbones.weight_names import to_official
from encoder.pretraining.config import PretrainingConfig
from encoder.pretraining.data import Batch, batches
from encoder.pretraining.student_teacher import StudentTeacher
from encoder.pretraining.vit import MEAN, STD
from tests.encoder.dinov2_models import dinov2, random_
from tests.encoder.pretraining.small_run import small_config
from tests.encoder.pretraining.test_student_teacher import Pictures

TEACHER, STUDENT = 0.05, 0.1  # temperatures


class PlainHead(torch.nn.Module):
    """An MLP, length 1, and torch's own weight-normalised layer: one score for each prototype."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        sizes = (24, 16, 16, 8)
        linears = [torch.nn.Linear(sizes[i], sizes[i + 1]) for i in range(3)]
        self.mlp = torch.nn.Sequential(linears[0], torch.nn.GELU(), linears[1], torch.nn.GELU(), linears[2])
        self.last_layer = torch.nn.utils.weight_norm(torch.nn.Linear(8, 32, bias=False))
        random_(self, seed)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last_layer(functional.normalize(self.mlp(features), dim=-1))
        return scores


class PlainNetwork(torch.nn.Module):
    """Backbone and heads in double precision."""

    def __init__(self, seed: int, *, separate: bool) -> None:
        super().__init__()
        self.backbone = dinov2(size=28, seed=seed)
        self.dino_head = PlainHead(seed + 1)
        self.ibot_head = PlainHead(seed + 2) if separate else None
        self.double()

    def features(self, crops: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """[n, 1 + N, D] of uint8 crops [n, S, S]."""
        pixels = ((crops.double() / 255 - MEAN) / STD)[:, None].expand(-1, 3, -1, -1)
        hidden: torch.Tensor = self.backbone(pixels, bool_masked_pos=masks).last_hidden_state
        return hidden

    def patch_scores(self, features: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = (self.ibot_head or self.dino_head)(features)
        return scores

    def tensors(self, *, gradients: bool = False) -> dict[str, torch.Tensor]:
        """Weights or gradients by the names that we use."""
        if gradients:
            filled = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.named_parameters()}
        else:
            filled = {n: p.detach() for n, p in self.named_parameters()}
        named = {name: tensor for name, tensor in filled.items() if not name.startswith("backbone.")}
        rest = {name.removeprefix("backbone."): t for name, t in filled.items() if name.startswith("backbone.")}
        return named | {f"backbone.{name}": tensor for name, tensor in to_official(rest).items()}


def sinkhorn(scores: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of SwAV on [M, K] as it stands there: prototypes get equal shares, then vectors, three times."""
    table = torch.exp(scores / TEACHER)
    table = table / table.sum()
    for _ in range(3):
        table = table / table.sum(0, keepdim=True) / table.shape[1]
        table = table / table.sum(1, keepdim=True) / table.shape[0]
    return table * table.shape[0]


def plain_loss(student: PlainNetwork, teacher: PlainNetwork, batch: Batch, config: PretrainingConfig) -> torch.Tensor:
    """The three losses as their papers state them, one pair of crops and one masked crop at a time."""
    centred = sinkhorn if config.loss.centering == "sinkhorn-knopp" else lambda s: torch.softmax(s / TEACHER, -1)
    views, images = batch.global_crops.shape[:2]
    masks = batch.masks if config.loss.ibot else torch.zeros_like(batch.masks)
    with torch.no_grad():
        seen = [teacher.features(view) for view in batch.global_crops]
        targets = centred(torch.cat([teacher.dino_head(one[:, 0]) for one in seen])).chunk(views)
    predicted = [student.features(view, mask) for view, mask in zip(batch.global_crops, masks, strict=True)]
    crops = [one[:, 0] for one in predicted] + [student.features(view)[:, 0] for view in batch.local_crops]

    terms = []
    for t, target in enumerate(targets):
        for s, crop in enumerate(crops):
            if s != t:
                terms.append(-(target * torch.log_softmax(student.dino_head(crop) / STUDENT, -1)).sum(-1).mean())
    loss = config.loss.dino * torch.stack(terms).mean()

    if config.loss.ibot:
        with torch.no_grad():
            hidden = torch.cat([one[:, 1:][mask] for one, mask in zip(seen, masks, strict=True)])
            patch_targets = centred(teacher.patch_scores(hidden))
        guessed = torch.cat([one[:, 1:][mask] for one, mask in zip(predicted, masks, strict=True)])
        each = -(patch_targets * torch.log_softmax(student.patch_scores(guessed) / STUDENT, -1)).sum(-1)
        masked = masks.flatten(0, 1).sum(1).tolist()
        means = [part.mean() for part in each.split([count for count in masked if count])]
        loss = loss + config.loss.ibot * torch.stack(means).sum() / (views * images)

    for view in predicted:
        unit = functional.normalize(view[:, 0], dim=-1)
        apart = torch.cdist(unit, unit) + 9 * torch.eye(images)
        loss = loss - config.loss.koleo * torch.log(apart.min(1).values).mean()
    return loss


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("centering", ["moving-average", "sinkhorn-knopp"])
@pytest.mark.parametrize("head", ["shared", "separate"])
@pytest.mark.parametrize("ibot", [1.0, 0.0])
def test_loss_and_every_gradient_of_a_step(centering: str, head: str, ibot: float, tmp_path: Path) -> None:
    config = small_config(
        tmp_path,
        "optimization.drop_path=0",
        "optimization.batch_size=6",
        f"loss.centering={centering}",
        f"loss.ibot={ibot}",
        f"head.separate={str(head == 'separate').lower()}",
        "engine.precision=fp32",
    )
    separate = head == "separate" and ibot > 0
    student, teacher = PlainNetwork(3, separate=separate), PlainNetwork(7, separate=separate)
    model = StudentTeacher(config).train()
    model.student.load_state_dict({name: tensor.float() for name, tensor in student.tensors().items()})
    model.teacher.load_state_dict({name: tensor.float() for name, tensor in teacher.tensors().items()})
    batch = next(batches(Pictures(), config, step=0))
    assert bool(batch.masks.any()) is (ibot > 0)

    expected = plain_loss(student, teacher, batch, config)
    expected.backward()
    losses = model(batch, TEACHER)
    losses.total.backward()

    torch.testing.assert_close(losses.total.double(), expected, rtol=1e-5, atol=0)
    gradients = student.tensors(gradients=True)
    for name, parameter in model.student.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        size = float(gradients[name].abs().max())
        assert float((found - gradients[name]).abs().max()) <= 2e-4 * size, name
        assert size > 1e-7 or (ibot == 0 and name == "backbone.mask_token"), name
