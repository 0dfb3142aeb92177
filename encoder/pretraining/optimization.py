"""AdamW with a learning rate of its own for every depth, and gradient clipping by part [DINOv2]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from encoder.pretraining.config import OptimizationConfig

if TYPE_CHECKING:
    from encoder.pretraining.schedules import Values
    from encoder.pretraining.student_teacher import Network


@dataclass(frozen=True)
class Rates:
    """How one parameter's rates follow from the schedules.

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
