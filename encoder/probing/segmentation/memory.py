"""Memory of a training step of a segmentation head, and how many images go through the head at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from encoder.probing.heads import build_head
from encoder.probing.segmentation.loss import loss_of, loss_sums
from encoder.probing.segmentation.model import SegmentationConfig
from encoder.runs.preflight import trace
from encoder.units import gigabytes

SHARE = 0.8
"""Of the available memory; workspaces of kernels and fragmentation take some of the rest."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step of a head takes on one device.

    Attributes:
        weights: of the head, their gradients, and Adam's two moments.
        image: saved for the backward pass, for each image that goes through the head at a time.
        features: of the encoder, for each image of the batch on this device.
        together: images that share batch statistics, so that they go through the head together; 0 if none do.
    """

    weights: float
    image: float
    features: float
    together: int

    def needed(self, micro_batch: int, batch: int) -> float:
        """Bytes of a step on ``batch`` images, ``micro_batch`` at a time."""
        return self.weights + self.image * min(micro_batch, batch) + self.features * batch

    def text(self, micro_batch: int, batch: int) -> str:
        """Describe a step on ``batch`` images: "about 26.9 GB for each process: 80 images, 10 at a time"."""
        needed = gigabytes(self.needed(micro_batch, batch))
        return f"about {needed} for each process: {batch} images, {min(micro_batch, batch)} at a time"

    def largest(self, available: float, batch: int) -> int:
        """Choose the largest micro-batch, of equal ones, that fits into ``SHARE`` of the available bytes; at least 1.

        Heads with batch statistics have no choice.
        """
        if self.together:
            return min(self.together, batch)
        room = SHARE * available - self.needed(0, batch)
        most = max(1, min(batch, int(room / self.image)))
        return -(-batch // -(-batch // most))


def step_memory(config: SegmentationConfig, width: int, side: int, size: int, structures: int) -> StepMemory:
    """Measure the memory of a training step on fake tensors, which takes a few seconds and no memory.

    Args:
        config: of the head.
        width: D, of the encoder's features.
        side: patches per side.
        size: S, of the masks in pixels.
        structures: K.
    """
    with torch.device("meta"):
        model = build_head(config.head, width, structures, config.channels)
    shapes = [(width, side, side)] * model.layers or [(3, size, size)]

    def kept(images: int) -> float:
        def run(head: torch.nn.Module) -> None:
            logits = head([torch.zeros(images, *shape) for shape in shapes]).float()
            masks = torch.zeros(images, structures, size, size, dtype=torch.bool)
            known = torch.ones(images, structures, dtype=torch.bool)
            loss_of(loss_sums(logits, masks, known), config.dice_weight)

        return trace(
            lambda: build_head(config.head, width, structures, config.channels), run, bf16=config.precision == "bf16"
        ).kept

    parameters = sum(parameter.numel() for parameter in model.parameters())
    return StepMemory(16.0 * parameters, kept(2) - kept(1), 4.0 * width * side**2 * model.layers, model.together)
