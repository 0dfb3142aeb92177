"""AdamW with a learning rate for each depth, gradient clipping by part, and the schedules [DINOv2].

A schedule is a pure function of the step (counted from 0), so that a resumed run needs nothing saved. The shapes are
DINOv2's; two details are exact here: the last step has the end value itself, where DINOv2's arrays stop one step before
it, and a warm-up of n steps reaches its end at step n, where theirs does at n - 1.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from encoder.errors import ConfigError
from encoder.pretraining.config import OptimizationConfig, PretrainingConfig

if TYPE_CHECKING:
    from encoder.pretraining.student_teacher import Network


@dataclass(frozen=True)
class Rates:
    """Factors from the schedules to the rates of one parameter.

    Attributes:
        lr: factor on the learning rate.
        decays: whether it has weight decay.
        backbone: a part of the backbone, which may be frozen at first.
        last_layer: a part of the prototypes, which may be frozen at first.
    """

    lr: float
    decays: bool
    backbone: bool
    last_layer: bool


def rates(name: str, shape: torch.Size, config: OptimizationConfig, blocks: int) -> Rates:
    """The rates of a parameter of ``Network`` by its name.

    With L blocks, token and position parameters and the patch embedding stand at depth 0, block i at i + 1, the final
    LayerNorm and the heads at L + 1; the factor is ``layer_decay ** (L + 1 - depth)``, times ``patch_embed_lr`` for the
    patch embedding. Biases, norms and LayerScale have no weight decay; tokens, position embeddings and the prototypes'
    ``weight_g`` have [DINOv2's code].
    """
    backbone = name.startswith("backbone.")
    depth = blocks + 1
    if block := re.match(r"backbone\.blocks\.(\d+)\.", name):
        depth = int(block[1]) + 1
    elif backbone and not name.startswith("backbone.norm."):
        depth = 0
    factor = config.layer_decay ** (blocks + 1 - depth)
    if "patch_embed" in name:
        factor *= config.patch_embed_lr
    plain = name.endswith((".bias", ".gamma")) or "norm" in name.split(".")[-2] or len(shape) == 1
    return Rates(factor, not plain, backbone, "last_layer" in name)


def make_optimizer(student: Network, config: OptimizationConfig) -> torch.optim.AdamW:
    """AdamW over the student's trainable parameters, grouped by their rates; each parameter is in one group."""
    groups: dict[Rates, list[nn.Parameter]] = {}
    blocks = len(student.backbone.blocks)
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(rates(name, parameter.shape, config, blocks), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "rates": key} for key, parameters in groups.items()],
        lr=0.0,
        betas=config.betas,
        weight_decay=0.0,
        fused=True,
    )


def set_rates(optimizer: torch.optim.Optimizer, values: Values) -> None:
    """Put a step's learning rates and weight decay into the groups."""
    for group in optimizer.param_groups:
        key: Rates = group["rates"]
        rate = values.last_layer_lr if key.last_layer else values.backbone_lr if key.backbone else values.lr
        group["lr"] = rate * key.lr
        group["weight_decay"] = values.weight_decay if key.decays else 0.0


def clip_gradients(student: Network, limit: float) -> dict[str, torch.Tensor]:
    """Clip the gradient norm of the backbone and of each head, each on its own.

    Returns:
        The norms before clipping, by part.
    """
    return {
        name: torch.nn.utils.clip_grad_norm_(part.parameters(), limit or float("inf"), foreach=True)
        for name, part in student.named_children()
    }


LR_REFERENCE_BATCH = 1024
"""Batch size at which the square-root rule leaves ``base_lr`` as it is [DINOv2]."""


def linear(step: int, start: float, end: float, steps: int) -> float:
    """From ``start`` at step 0 in a straight line to ``end`` at step ``steps``, and ``end`` from there on."""
    if step >= steps:
        return end
    return start + (end - start) * (max(step, 0) / steps)


def cosine(step: int, start: float, end: float, first: int, last: int) -> float:
    """``start`` up to step ``first``, half a cosine wave, and exactly ``end`` from step ``last`` on."""
    if step >= last:
        return end
    if step <= first:
        return start
    return end + (start - end) * (1 + math.cos(math.pi * (step - first) / (last - first))) / 2


def cosine_with_warmup(step: int, peak: float, end: float, warmup: int, steps: int) -> float:
    """Linear from 0 to ``peak`` over ``warmup`` steps, then a cosine to ``end`` at the last step, ``steps - 1``."""
    if step < min(warmup, steps - 1):
        return linear(step, 0.0, peak, warmup)
    return cosine(step, peak, end, warmup, steps - 1)


def constant_then(step: int, constant: float, steps: int, then: float) -> float:
    """``constant`` for the first ``steps`` steps, ``then`` after them."""
    return constant if step < steps else then


def peak_lr(config: OptimizationConfig) -> float:
    """The learning rate at the end of the warm-up: 7.906e-4 for the paper's 1e-3 and 640 images (square-root rule)."""
    if config.lr_rule == "constant":
        return config.base_lr
    return config.base_lr * math.sqrt(config.batch_size / LR_REFERENCE_BATCH)


def total_steps(config: OptimizationConfig, images: int) -> int:
    """Optimiser steps of a run on so many images: ``steps``, or what ``passes`` over them take, rounded up."""
    if config.passes is None:
        return config.steps
    return max(1, math.ceil(config.passes * images / config.batch_size))


@dataclass(frozen=True)
class Values:
    """Values of all schedules at one step.

    Attributes:
        lr: of the heads, but for their prototypes; parameter groups multiply it by factors of their own.
        last_layer_lr: of the prototypes: 0 for the first ``freeze_last_layer_steps``.
        backbone_lr: of the backbone: 0 for the first ``freeze_backbone_steps``.
        weight_decay: of those parameters that have one.
        momentum: of the teacher's moving average, teacher = momentum x teacher + (1 - momentum) x student.
        teacher_temperature: of the teacher's softmax.
    """

    lr: float
    last_layer_lr: float
    backbone_lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float


@dataclass(frozen=True)
class Schedules:
    """All schedules of a run of ``steps`` steps."""

    config: PretrainingConfig
    steps: int

    @classmethod
    def from_config(cls, config: PretrainingConfig, steps: int | None = None) -> Schedules:
        """The schedules of a run.

        Args:
            config: the run.
            steps: its length, where ``optimization.passes`` decides it (see `total_steps`); default: as configured.

        Raises:
            ConfigError: if the run is shorter than its warm-up, or than the steps in which the backbone is frozen.
        """
        steps = config.optimization.steps if steps is None else steps
        if problem := config.too_short(steps):
            raise ConfigError(problem)
        return cls(config, steps)

    def at(self, step: int) -> Values:
        """The values of one step, counted from 0; past the last step its values hold on."""
        optimization, loss = self.config.optimization, self.config.loss
        last = self.steps - 1
        lr = cosine_with_warmup(step, peak_lr(optimization), optimization.min_lr, optimization.warmup_steps, self.steps)
        return Values(
            lr=lr,
            last_layer_lr=constant_then(step, 0.0, optimization.freeze_last_layer_steps, lr),
            backbone_lr=constant_then(step, 0.0, self.config.init.freeze_backbone_steps, lr),
            weight_decay=cosine(step, *optimization.weight_decay, 0, last),
            momentum=cosine(step, *optimization.teacher_momentum, 0, last),
            teacher_temperature=linear(step, *loss.teacher_temperature, loss.teacher_temperature_steps),
        )
